"""Does a run end the same, wherever its engine dies? `crash_everywhere` kills it at each moment, once.

The moments: before and after each write of the store (each outcome is one, and so is what the run waits for), and in
the middle of each step: at its first await, or when it has done its work, and nothing of it is recorded. After each
death another engine goes on with what was written, with the same world outside.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar, Unpack, cast, overload

import attrs

from boxflow.errors import ConfigurationError
from boxflow.journal import StepCall
from boxflow.model import RunStatus, StepFailed, describe
from boxflow.runs import Run
from boxflow.testing.breaking.differences import difference, ended_wrongly, varying_facts
from boxflow.testing.breaking.life_loop import LifeLoop
from boxflow.testing.breaking.lives import Ending, Play, Script, Stage, shown_effects
from boxflow.testing.breaking.onlooker import Key
from boxflow.testing.breaking.open_world import OpenWorld
from boxflow.testing.breaking.watched_store import Write
from boxflow.testing.world import EngineOptions, World
from boxflow.workflow import Workflow

I = TypeVar("I")  # noqa: E741 - the design's letters: payload in, result out
W = TypeVar("W")

ONLY: str = "BOXFLOW_CRASH"
"""The variable that names the one moment to crash at: `"after 7"`."""

_MOMENT = re.compile(r"(before|after|in) (\d+)")


class CrashError(AssertionError):
    """After a crash, a run did not end as it does without one.

    :ivar moment: when the engine was killed: `"before 7"`, `"after 7"` (the store's write of that number), or `"in 3"`
        (the call of a step of that number)
    :ivar what: what was different
    """

    def __init__(self, message: str, *, moment: str, what: str) -> None:
        super().__init__(message)
        self.moment = moment
        self.what = what


@attrs.frozen
class _Moment:
    kind: Literal["before", "after", "in"]
    number: int
    #: What is written then, or which step it is.
    title: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


@attrs.frozen(kw_only=True)
class CrashReport:
    """What was done.

    :param crashes: at how many moments the engine was killed
    :param writes: how many writes the undisturbed run has
    :param steps: how many calls of steps it has
    """

    crashes: int
    writes: int
    steps: int


@overload
async def crash_everywhere(
    workflow: Workflow[I, Any],
    payload: I = ...,
    script: Callable[[World], Awaitable[object] | object] | None = None,
    *,
    seed: int = 0,
    **options: Unpack[EngineOptions],
) -> CrashReport: ...


@overload
async def crash_everywhere(
    workflow: Workflow[I, Any],
    payload: I = ...,
    script: Callable[[World, W], Awaitable[object] | object] | None = None,
    *,
    outside: Callable[[], W],
    effects: Callable[[W], object] = ...,
    seed: int = 0,
    **options: Unpack[EngineOptions],
) -> CrashReport: ...


async def crash_everywhere(
    workflow: Workflow[Any, Any],
    payload: Any = ...,
    script: Script | None = None,
    *,
    outside: Callable[[], Any] | None = None,
    effects: Callable[[Any], object] = shown_effects,
    seed: int = 0,
    **options: Unpack[EngineOptions],
) -> CrashReport:
    """Run *workflow*, kill its engine at every moment, once each, and see that it ends as it does without a crash.

    Compared are the result or the error, the outcomes of each call, the boxes that are left, and what the world outside
    has seen; what differs between two undisturbed runs (ids that steps make up) is left out. No step may run again
    whose outcome was recorded. The steps of a workflow run here, so they are to be stood in for as in any test.

    :param script: sets up each world: `script(world)`, called for every life of an engine; or `script(world, outside)`
    :param outside: makes what is outside of the engine and outlives it: a fake payment service, say. A new one for
        every moment
    :param effects: what of it is compared: it itself when it is plain data, else its public attributes
    :param seed: of each `World`
    :param options: of each engine, as of `World`
    :raises CrashError: it did not end the same; it says where the engine was killed, and how to see that again
    :raises AssertionError: the run does not even end without a crash
    """
    play = Play(
        workflow=workflow,
        payload=payload,
        script=script,
        outside=outside,
        effects=effects,
        seed=seed,
        options=dict(options),
    )
    await asyncio.sleep(0)  # A coroutine like others: who waits for it can be cancelled before the long part.
    return _crash_everywhere(play)


def _crash_everywhere(play: Play) -> CrashReport:
    first, again = _undisturbed(play), _undisturbed(play)
    moments = first.moments
    if (only := os.environ.get(ONLY)) is not None:
        one = _only(only)
        moments = [each for each in moments if str(each) == str(one)] or [one]
    varying = varying_facts(first.ending, again.ending)
    for moment in moments:
        what = _crashed(play, moment, first.ending, varying)
        if what is not None:
            raise CrashError(_message(play, moment, what), moment=str(moment), what=what)
    return CrashReport(crashes=len(moments), writes=len(first.writes), steps=len(first.steps))


# --- the undisturbed run ----------------------------------------------------------------------------------------------


@attrs.frozen
class _Undisturbed:
    ending: Ending
    writes: list[Write]
    steps: list[str]
    moments: list[_Moment]


class _Ending:
    """A life that ends by itself."""

    def options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def ready(self, world: OpenWorld, loop: LifeLoop) -> None:
        """Nothing to be done."""

    async def begun(self, run: Run[Any]) -> None:
        """Nothing to be done."""

    async def before(self, write: Write) -> None:
        """Nothing to be done."""

    async def after(self, write: Write) -> None:
        """Nothing to be done."""

    async def around(self, _key: Key, _call: StepCall, _number: int, step: Callable[[], Awaitable[Any]]) -> Any:
        """Only perform the step."""
        return await step()


class _Watching:
    """A life that ends by itself, and takes note of its moments.

    Two of them are one where nothing happens in between that lasts: before a write and after the one before it; before
    a step's outcome is written and in that step, when it has never waited for anything.
    """

    def __init__(self, stage: Stage) -> None:
        self.steps: list[str] = []
        self.moments: list[_Moment] = []
        self._stage = stage
        self._writes = 0
        self._begun = False
        self._world: OpenWorld
        self._loop: LifeLoop
        #: What has happened since the last write: whether it is another moment than those before.
        self._happened: list[bool] = [True]
        self._now_and_answers: tuple[object, int] = (None, 0)

    def options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def ready(self, world: OpenWorld, loop: LifeLoop) -> None:
        """Remember where it happens."""
        self._world, self._loop = world, loop

    async def begun(self, run: Run[Any]) -> None:
        """Nothing to be done."""

    async def before(self, write: Write) -> None:
        """Is this moment another one than that after the last write, or in the last step?"""
        self._writes += 1
        # What an engine remembers of itself, before there is a run, is no moment of the run.
        self._begun = self._begun or write.run_id is not None
        if self._begun and (len(self._happened) > 1 or any(self._happened) or self._state() != self._now_and_answers):
            self.moments.append(_Moment("before", self._writes, str(write)))

    async def after(self, write: Write) -> None:
        """A moment of its own."""
        self._happened, self._now_and_answers = [], self._state()
        if self._begun:
            self.moments.append(_Moment("after", self._writes, str(write)))

    async def around(self, key: Key, _call: StepCall, number: int, step: Callable[[], Awaitable[Any]]) -> Any:
        """A moment of its own, in the middle of the step."""
        title = f"step {describe(key[1], key[2])} of run {key[0]!r}, attempt {number}"
        self.steps.append(title)
        self.moments.append(_Moment("in", len(self.steps), title))
        waited: list[bool] = []
        self._loop.call_soon(waited.append, True)
        try:
            return await step()
        finally:
            self._happened.append(bool(waited))

    def _state(self) -> tuple[object, int]:
        # What goes on in boxes goes on by time.
        return (self._world.now if self._stage.has_boxes else None, self._stage.answers.given)


def _undisturbed(play: Play) -> _Undisturbed:
    stage = Stage(play)
    life = _Watching(stage)
    try:
        ending = stage.live(life)
        assert ending is not None
    finally:
        stage.close()
    if ending.problem is not None:
        raise AssertionError(f"without any crash, {ending.problem}")
    if ending.status is RunStatus.DIVERGED:
        raise AssertionError(f"without any crash, the run diverged: {ending.error}")
    return _Undisturbed(ending, stage.writes, life.steps, life.moments)


def _only(text: str) -> _Moment:
    found = _MOMENT.match(text)
    if found is None:
        raise ConfigurationError(f'{ONLY}={text!r} names no moment; write "before 7", "after 7" or "in 3"')
    return _Moment(cast(Any, found[1]), int(found[2]))


# --- one crash --------------------------------------------------------------------------------------------------------


class _Dying:
    """A life that ends at a moment."""

    def __init__(self, moment: _Moment) -> None:
        self._moment = moment
        self._writes = 0
        self._steps = 0
        self._loop: LifeLoop

    def options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def ready(self, world: OpenWorld, loop: LifeLoop) -> None:
        """Remember what is to be killed."""
        self._loop = loop

    async def begun(self, run: Run[Any]) -> None:
        """Nothing to be done."""

    async def before(self, _write: Write) -> None:
        """Die, if it is before this write."""
        self._writes += 1
        if self._is("before", self._writes):
            await self._loop.die()

    async def after(self, _write: Write) -> None:
        """Die, if it is after this write."""
        if self._is("after", self._writes):
            await self._loop.die()

    async def around(self, _key: Key, _call: StepCall, _number: int, step: Callable[[], Awaitable[Any]]) -> Any:
        """Die, if it is in this step: at its first await, or when it has done its work."""
        self._steps += 1
        if not self._is("in", self._steps):
            return await step()
        self._loop.kill()
        await step()
        return await self._loop.die()

    def _is(self, kind: str, number: int) -> bool:
        return (self._moment.kind, self._moment.number) == (kind, number)


def _crashed(play: Play, moment: _Moment, expected: Ending, varying: set[object]) -> str | None:
    """What is different after a crash at *moment*; None when nothing is."""
    stage = Stage(play)
    try:
        if stage.live(_Dying(moment)) is not None:
            return "the run went another way before that: it is not the same each time, even without a crash"
        ending = stage.live(_Ending())
        assert ending is not None
        if stage.past.broken:
            return stage.past.broken[0]
        interrupted = any(
            isinstance(outcome, StepFailed) and outcome.reason == "interrupted"
            for outcomes in ending.outcomes.values()
            for outcome in outcomes
        )
        # A step that must not run again failed instead, as it has to: then all that follows may be different.
        return ended_wrongly(ending) if interrupted else difference(expected, ending, varying)
    finally:
        stage.close()


def _message(play: Play, moment: _Moment, what: str) -> str:
    where = {
        "before": f"before write {moment.number}",
        "after": f"after write {moment.number}",
        "in": f"in the middle of step {moment.number}",
    }[moment.kind]
    return (
        f"workflow {play.workflow.name!r} does not end the same when its engine dies {where}"
        + (f": {moment.title}" if moment.title else "")
        + "\n"
        + f"  {what}\n"
        + f"  seed {play.seed}; see it again: {again(f'{ONLY}={str(moment)!r}')}"
    )


def again(variable: str) -> str:
    """The command that runs this test, or this program, with *variable* set."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    return f"{variable} " + (f"pytest '{test}'" if test else f"python {' '.join(sys.argv) or '-c ...'}")
