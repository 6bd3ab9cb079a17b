"""How does a run live on through crashes? One life after another: a world each, on what the one before has written."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol, TypeAlias, cast

import attrs

from boxflow.errors import BoxflowError, RunError
from boxflow.journal import StepCall
from boxflow.model import Failure, Outcome, RunStatus
from boxflow.plugins import resolve_store
from boxflow.ports import RunQuery, Store
from boxflow.runs import Run
from boxflow.testing.breaking.answers import Answers
from boxflow.testing.breaking.life_loop import Killed, LifeLoop
from boxflow.testing.breaking.onlooker import Key, Onlooker, Past
from boxflow.testing.breaking.open_world import OpenWorld
from boxflow.testing.breaking.watched_store import WatchedStore, Write
from boxflow.testing.errors import StuckError
from boxflow.testing.idleness import Idleness
from boxflow.testing.virtual_clock import START
from boxflow.workflow import Workflow

Script: TypeAlias = Callable[..., Awaitable[object] | object]
"""Sets up a world before its run starts: `script(world)`, or `script(world, outside)` where there is an outside."""

MOST_WRITES = 100_000
"""A life with more is taken for one without an end: no test's workflow writes nearly as much."""


@attrs.frozen(kw_only=True)
class Ending:
    """What is left when all runs are over, or one cannot go on.

    :param status: of the run that was started
    :param result: what it returned, encoded
    :param outcomes: the journals of all runs, by run id
    :param boxes: ids of boxes that are left
    :param effects: what the world outside has seen
    :param problem: why the run did not end
    """

    status: RunStatus
    result: bytes
    error: Failure | None
    outcomes: dict[str, tuple[Outcome, ...]]
    boxes: tuple[str, ...] = ()
    effects: object = None
    problem: str | None = None


@attrs.frozen(kw_only=True)
class Play:
    """What is run, again and again: the same each time.

    :param outside: makes what is outside of the engine, and survives its crashes; the script's second argument
    :param effects: what of it is compared
    :param options: of each world
    """

    workflow: Workflow[Any, Any]
    payload: object
    script: Script | None
    outside: Callable[[], Any] | None
    effects: Callable[[Any], object]
    seed: int
    options: dict[str, Any]

    @property
    def run_id(self) -> str:
        """The run's id: the same in every life."""
        return f"{self.workflow.name}-1"


class Life(Protocol):
    """What is special about one life."""

    async def before(self, write: Write, /) -> None:
        """A write is about to be made."""
        ...

    async def after(self, write: Write, /) -> None:
        """A write was made, and its caller has not heard of it."""
        ...

    async def around(self, key: Key, call: StepCall, number: int, step: Callable[[], Awaitable[Any]], /) -> Any:
        """Perform a step, and return what it returns."""
        ...

    def options(self) -> dict[str, Any]:
        """What is special about its engine."""
        ...

    def ready(self, world: OpenWorld, loop: LifeLoop) -> None:
        """The world is made, and not yet entered."""
        ...

    async def begun(self, run: Run[Any]) -> None:
        """The run is started, or found."""
        ...


class Stage:
    """Lives of one run after one another, and what stays between them: the store, the boxes, the outside."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.past = Past()
        self.outside = play.outside() if play.outside is not None else None
        self.answers = Answers()
        self.writes: list[Write] = []
        self.world: OpenWorld | None = None
        self._store = _memory_store()
        self._now: datetime = play.options.get("start", START)
        self._sandbox: Any = None
        self._loop = LifeLoop()
        self._writes_left = MOST_WRITES

    @property
    def has_boxes(self) -> bool:
        """Whether there is a box now."""
        return bool(getattr(self._sandbox, "boxes", None))

    def live(self, life: Life) -> Ending | None:
        """One life; None when it was killed."""
        try:
            return self._loop.live(self._live(life))
        except Killed:
            return None
        finally:
            if self.world is not None:
                self._now = self.world.now
                Idleness.of(self._loop).leave(self.world)

    def close(self) -> None:
        """Leave nothing of the lives."""
        self._loop.abandon()

    async def _live(self, life: Life) -> Ending:
        world = self._new_world(life)
        self.answers.begin(world)
        life.ready(world, self._loop)
        prepared: Any = None
        if self.play.script is not None:
            # Before the engine starts: what an earlier life has left is driven at once.
            prepared = self.play.script(world, *([] if self.play.outside is None else [self.outside]))
        # Not `async with`: a life that is killed is not left in good order.
        await world.__aenter__()
        if inspect.isawaitable(prepared):
            await prepared
        await _look_for_answers(world)
        run = await world.engine.start(self.play.workflow, cast(Any, self.play.payload), run_id=self.play.run_id)
        await life.begun(run)
        problem = await _end_of(run) or self.answers.problem
        ending = await self._ending(world, run, problem)
        await world.__aexit__(None, None, None)
        return ending

    def _new_world(self, life: Life) -> OpenWorld:
        async def after(write: Write) -> None:
            self.writes.append(write)
            if write.run_id is not None:
                self.past.note(write.run_id, write.outcomes)
            self._writes_left -= 1
            if not self._writes_left:
                raise BoxflowError(f"the run of {self.play.workflow.name!r} goes on without an end")
            await life.after(write)

        options: dict[str, Any] = (
            self.play.options | life.options() | {"start": self._now, "seed": self.play.seed, "audit": False}
        )
        if self._sandbox is not None:
            options["sandbox"] = self._sandbox
        known = {id(each): each for each in (self.play.workflow, *self.past.workflows)}
        world = self.world = OpenWorld(known.values(), store=WatchedStore(self._store, life.before, after), **options)
        # A crash takes neither the boxes nor what runs in them.
        self._sandbox = getattr(world, "sandbox", None)
        hub = world.hub
        assert hub.seams is not None
        hub.seams = Onlooker(hub.seams, self.past, life.around)
        return world

    async def _ending(self, world: OpenWorld, run: Run[Any], problem: str | None) -> Ending:
        outcomes: dict[str, tuple[Outcome, ...]] = {}
        store = world.engine.store
        for stored in await store.find_runs(RunQuery()):
            outcomes[stored.record.run_id] = tuple(await store.read_journal(stored.record.run_id))
        started = await store.get_run(run.id)
        assert started is not None
        head = started.head
        return Ending(
            status=await run.status(),
            result=bytes(head.result) if head.result_blob is None else await store.get_blob(run.id, head.result_blob),
            error=head.error,
            outcomes=outcomes,
            boxes=tuple(sorted(getattr(world, "boxes_left", ()))),
            effects=self.play.effects(self.outside) if self.play.outside is not None else None,
            problem=problem,
        )


async def _look_for_answers(world: OpenWorld) -> None:
    """Bring runs of an earlier life into memory that wait for something from outside: so the world hears of the waits.

    Who answers in life does not ask whether the engine was away.
    """
    hub = world.hub
    for stored in await hub.store.find_runs(RunQuery(statuses=frozenset({RunStatus.WAITING}))):
        if any(token.startswith(("event:", "webhook:")) for token in stored.head.waiting):
            await hub.rouse(stored.record.run_id)


async def _end_of(run: Run[Any]) -> str | None:
    """Wait for the run's end; why it has none."""
    try:
        await run.result()
    except RunError:
        return None
    except StuckError as error:
        return str(error)
    return None


@functools.cache
def _memory_stores() -> Callable[[], Store]:
    # Once: looking entry points up takes longer than a life.
    return type(resolve_store("memory:"))


def _memory_store() -> Store:
    return _memory_stores()()


def shown_effects(outside: Any) -> object:
    """What of an outside is compared unless told otherwise: itself when it is plain data, else its attributes."""
    attributes: dict[str, object] | None = getattr(outside, "__dict__", None)
    if attributes is None or isinstance(outside, list | dict | set | tuple | int | str):
        return cast(object, outside)
    return {name: value for name, value in attributes.items() if not name.startswith("_")}
