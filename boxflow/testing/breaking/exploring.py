"""Does a run keep its promises in every order of what happens? `explore` tries many, and shortens one that fails."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import Any, Generic, TypeVar, Unpack, cast, overload

import attrs

from boxflow.codec import decode_value
from boxflow.model import EventArrived, Failure, Outcome, RunStatus, WebhookArrived
from boxflow.testing.breaking.crashing import again
from boxflow.testing.breaking.explored_life import ExploredLife, Sending
from boxflow.testing.breaking.lives import Ending, Play, Script, Stage, shown_effects
from boxflow.testing.breaking.schedules import Decisions, Schedule, shortened
from boxflow.testing.world import EngineOptions, World
from boxflow.workflow import Workflow

I = TypeVar("I")  # noqa: E741 - the design's letters: payload in, result out
O = TypeVar("O")  # noqa: E741 - likewise
W = TypeVar("W")

ONLY: str = "BOXFLOW_SCHEDULE"
"""The variable that names the one schedule to try: `"0,0,3"`."""


LATE = frozenset({"WaitTimeoutError", "RunTimeoutError", "StepTimeoutError"})
"""How a run may end when something came too late for it: that is its own decision, which only `check` can judge."""


@attrs.frozen(kw_only=True)
class Explored(Generic[O, W]):
    """How a run has ended in one schedule; given to `check`.

    :param result: what it returned; None when it failed or was cancelled
    :param history: its journal
    :param outside: what was made outside of the engine
    :param boxes: ids of boxes that are left
    :param cancelled: the schedule has cancelled it; it may have completed all the same
    :param unread: subjects of events and webhooks that it was sent in time, and has not taken: repeated sendings do not
        count
    :param story: what did not happen as by itself, in words
    """

    schedule: Schedule
    status: RunStatus
    result: O | None
    error: Failure | None
    history: tuple[Outcome, ...]
    outside: W
    boxes: tuple[str, ...]
    cancelled: bool
    unread: tuple[str, ...]
    story: tuple[str, ...]


Check = Callable[[Explored[Any, Any]], object]


class ExploreError(AssertionError):
    """In some order of what happens, a run breaks a promise.

    :ivar schedule: the shortest one that was found
    :ivar what: what was wrong
    """

    def __init__(self, message: str, *, schedule: Schedule, what: str) -> None:
        super().__init__(message)
        self.schedule = schedule
        self.what = what


@overload
async def explore(
    workflow: Workflow[I, O],
    payload: I = ...,
    script: Callable[[World], Awaitable[object] | object] | None = None,
    *,
    seeds: int | Iterable[int] = 100,
    check: Callable[[Explored[O, None]], object] | None = None,
    cancels: bool = True,
    **options: Unpack[EngineOptions],
) -> int: ...


@overload
async def explore(
    workflow: Workflow[I, O],
    payload: I = ...,
    script: Callable[[World, W], Awaitable[object] | object] | None = None,
    *,
    outside: Callable[[], W],
    seeds: int | Iterable[int] = 100,
    check: Callable[[Explored[O, W]], object] | None = None,
    cancels: bool = True,
    **options: Unpack[EngineOptions],
) -> int: ...


async def explore(
    workflow: Workflow[Any, Any],
    payload: Any = ...,
    script: Script | None = None,
    *,
    outside: Callable[[], Any] | None = None,
    seeds: int | Iterable[int] = 100,
    check: Check | None = None,
    cancels: bool = True,
    **options: Unpack[EngineOptions],
) -> int:
    """Run *workflow* in many orders of what happens, and see that it keeps its promises; return in how many.

    Each seed is one order: in which steps begin and end, when answers of `when_waiting` come (before their waits, late,
    twice), when time passes, which attempts fail that have another one left, whether the run leaves memory whenever it
    waits, and when it is cancelled. The same seed is the same order.

    In each, the run has to end, must not diverge, must leave no box, and must not run a step again whose outcome was
    recorded. Without *check*, it has to complete as well, unless it was cancelled, or its own `timeout=` has passed.

    :param script: sets up each world: `script(world)`, or `script(world, outside)`
    :param outside: makes what is outside of the engine, a new one for each order
    :param seeds: how many, from 0 on; or which
    :param check: what else has to hold; it raises `AssertionError`, or returns False
    :param cancels: whether the run may be cancelled
    :param options: of each engine, as of `World`
    :raises ExploreError: a promise is broken; it tells the shortest order that was found, and how to see it again
    """
    play = _play(workflow, payload, script, outside, options)
    await asyncio.sleep(0)  # A coroutine like others: who waits for it can be cancelled before the long part.
    one = _Explorer(play, check, cancels=cancels)
    if (only := os.environ.get(ONLY)) is not None:
        one.try_again(Schedule.from_text(only))
        return 1
    numbers = range(seeds) if isinstance(seeds, int) else seeds
    count = 0
    for seed in numbers:
        one.try_seed(seed)
        count += 1
    return count


def explore_once(
    workflow: Workflow[I, O],
    payload: I,
    script: Script | None,
    schedule: Schedule,
    *,
    outside: Callable[[], Any] | None = None,
    check: Callable[[Explored[O, Any]], object] | None = None,
    cancels: bool = True,
    **options: Unpack[EngineOptions],
) -> Explored[O, Any]:
    """Run *workflow* in one order, as `explore` does, and return how it ended. A plain function, for hypothesis:

        @given(schedules())
        def test_it_keeps_its_promises(schedule: Schedule) -> None:
            explore_once(my_workflow, payload, script, schedule)

    :raises ExploreError: a promise is broken
    """
    return _Explorer(_play(workflow, payload, script, outside, options), check, cancels=cancels).try_once(schedule)


def _play(
    workflow: Workflow[Any, Any],
    payload: Any,
    script: Script | None,
    outside: Callable[[], Any] | None,
    options: EngineOptions,
) -> Play:
    return Play(
        workflow=workflow,
        payload=payload,
        script=script,
        outside=outside,
        effects=shown_effects,
        seed=0,
        options=dict(options),
    )


class _Explorer:
    """Tries schedules of one play."""

    def __init__(self, play: Play, check: Check | None, *, cancels: bool) -> None:
        self._play = play
        self._check = check
        self._cancels = cancels
        life, _, wrong = self._live(Decisions(Schedule()), [])
        if wrong is not None:
            raise ExploreError(self._message(Schedule(), life, wrong), schedule=Schedule(), what=wrong)
        self._expected = life.waited

    def try_seed(self, seed: int) -> None:
        """:raises ExploreError: a promise is broken in the order of that seed"""
        decisions = Decisions(Random(f"explore {seed}"))
        _, _, wrong = self._live(decisions, self._expected)
        if wrong is not None:
            shortest = shortened(decisions.schedule, lambda each: self._fails(each) is not None)
            self.try_again(shortest, seed=seed)
            raise AssertionError(f"seed {seed} fails ({wrong}), and its schedule {decisions.schedule} does not")

    def try_again(self, schedule: Schedule, *, seed: int | None = None) -> Explored[Any, Any]:
        """How the run ends in that order. :raises ExploreError: a promise is broken"""
        life, explored, wrong = self._live(Decisions(schedule), self._expected)
        if wrong is not None:
            raise ExploreError(self._message(schedule, life, wrong, seed=seed), schedule=schedule, what=wrong)
        assert explored is not None
        return explored

    def try_once(self, schedule: Schedule) -> Explored[Any, Any]:
        """The same, as `explore_once` gives it."""
        return self.try_again(schedule)

    def _fails(self, schedule: Schedule) -> str | None:
        return self._live(Decisions(schedule), self._expected)[2]

    def _live(
        self, decisions: Decisions, expected: list[Sending]
    ) -> tuple[ExploredLife, Explored[Any, Any] | None, str | None]:
        life, stage = ExploredLife(decisions, expected, cancels=self._cancels), Stage(self._play)
        try:
            ending = stage.live(life)
            assert ending is not None
            explored = self._explored(life, ending, stage)
            wrong = _broken(life, ending, stage) or self._judged(explored)
        finally:
            stage.close()
        return life, explored, wrong

    def _explored(self, life: ExploredLife, ending: Ending, stage: Stage) -> Explored[Any, Any]:
        run_id = self._play.run_id
        completed = ending.status is RunStatus.COMPLETED
        return Explored(
            schedule=life.decisions.schedule,
            status=ending.status,
            result=decode_value(ending.result, self._play.workflow.return_type) if completed else None,
            error=ending.error,
            history=ending.outcomes[run_id],
            outside=stage.outside,
            boxes=ending.boxes,
            cancelled=life.cancelled,
            unread=_unread(life, ending),
            story=tuple(life.story),
        )

    def _judged(self, explored: Explored[Any, Any]) -> str | None:
        if self._check is None:
            is_late = explored.error is not None and explored.error.type in LATE
            if explored.status is RunStatus.COMPLETED or explored.cancelled or is_late:
                return None
            return f"the run is {explored.status}: {explored.error}"
        try:
            held = self._check(explored)
        except AssertionError as error:
            return f"check: {str(error) or 'AssertionError'}"
        return "check returned False" if held is False else None

    def _message(self, schedule: Schedule, life: ExploredLife, wrong: str, *, seed: int | None = None) -> str:
        story = [f"  {number}. {line}" for number, line in enumerate(life.story, start=1)]
        after = ["  when this happens otherwise than by itself:", *story] if story else ["  with nothing out of order"]
        found = "" if seed is None else f"seed {seed}, shortened; "
        return "\n".join(
            [
                f"workflow {self._play.workflow.name!r} breaks a promise",
                f"  {wrong}",
                *after,
                f"  {found}see it again: {again(f'{ONLY}={str(schedule)!r}')}",
            ]
        )


def _broken(life: ExploredLife, ending: Ending, stage: Stage) -> str | None:
    """Which promise of every run is broken."""
    if life.problem is not None:
        return life.problem
    if ending.problem is not None:
        return ending.problem
    if stage.past.broken:
        return stage.past.broken[0]
    if ending.status is RunStatus.DIVERGED:
        return f"the run diverged: {ending.error}"
    if ending.boxes:
        return f"boxes are left: {', '.join(map(repr, ending.boxes))}"
    return None


def _unread(life: ExploredLife, ending: Ending) -> tuple[str, ...]:
    taken: Counter[tuple[str, str, str]] = Counter()
    for run_id, outcomes in ending.outcomes.items():
        for outcome in outcomes:
            if isinstance(outcome, EventArrived):
                taken[run_id, "event", outcome.event_id] += 1
            elif isinstance(outcome, WebhookArrived):
                taken[run_id, "webhook", outcome.webhook] += 1
    accepted = cast("Counter[tuple[str, str, str]]", life.accepted)
    return tuple(subject for _, _, subject in (accepted - taken).elements())
