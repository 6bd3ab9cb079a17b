"""Which steps go on while their run is out of memory? Those that wait for a job of a box, such as an agent at work.

The job is a process of its own, and outlives run and engine; what waits for it here is a task of the engine's. A run
that has nothing else to do is evicted meanwhile, takes none of the slots for steps, and is rebuilt when the job has
ended. After a crash the run asks again, and the job is found by its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, cast

import anyio

from boxflow.boxes import DurableCall, durable_call
from boxflow.context import step
from boxflow.journal import Key, StepCall
from boxflow.runner import Runner
from boxflow.steps import Raised, Returned, attempt

Name = tuple[str, Key, int]
"""One attempt of a step: its run's id, its key, and the attempt's number."""


class Hub(Protocol):
    """What these steps ask of their engine."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...

    async def rouse(self, run_id: str) -> Runner | None: ...

    def jitter(self) -> float: ...

    def function(self, run_id: str, call: StepCall, number: int) -> Callable[..., Any]: ...


class _Step:
    """One attempt under way. It holds nothing of its run, which may leave memory."""

    __slots__ = ("given_up", "result", "task", "waiting")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.result: Returned | Raised | None = None
        #: The run, when it is in memory, and the call that it waits with.
        self.waiting: tuple[Runner, StepCall] | None = None
        #: The run wants it no more: then a cancellation ends the job as well.
        self.given_up = False


class JobSteps:
    """The steps of an engine that wait for a job."""

    def __init__(self, hub: Hub, threads: anyio.CapacityLimiter) -> None:
        self._hub = hub
        self._threads = threads
        self._steps: dict[Name, _Step] = {}

    def wait(self, runner: Runner, call: StepCall) -> None:
        """Have the run told when the step has ended: start it, or find it under way, or ended meanwhile."""
        name = (runner.run_id, call.key, call.attempt + 1)
        found = self._steps.get(name)
        if found is None:
            found = self._steps[name] = _Step()
            found.task = self._hub.spawn(self._perform(name, found, call, runner))
        found.waiting = (runner, call)
        if found.result is not None:
            self._hub.spawn(self._tell(name, found))

    def give_up(self, runner: Runner, call: StepCall) -> None:
        """The run wants the result no more."""
        self._end((runner.run_id, call.key, call.attempt + 1))

    def forget(self, runner: Runner, call: StepCall) -> None:
        """The run leaves memory, and asks again when it is back."""
        found = self._steps.get((runner.run_id, call.key, call.attempt + 1))
        if found is not None:
            found.waiting = None

    def over(self, run_id: str) -> None:
        """The run has ended: nothing is left to wait for."""
        for name in [name for name in self._steps if name[0] == run_id]:
            self._end(name)

    def _end(self, name: Name) -> None:
        found = self._steps.pop(name, None)
        if found is not None and found.task is not None:
            found.given_up = True
            found.task.cancel()

    async def _perform(self, name: Name, found: _Step, call: StepCall, runner: Runner) -> None:
        run_id, _, number = name
        work, retry = _alone(call, found), runner.execution.workflow.retry
        del call, runner  # They may leave memory now.
        fn = self._hub.function(run_id, work, number)
        found.result = await attempt(run_id, work, number, retry, self._hub.jitter(), self._threads, fn)
        await self._tell(name, found)

    async def _tell(self, name: Name, found: _Step) -> None:
        """Give the result to the run, if it is in memory, or bring it there: it asks for the result again then."""
        if self._steps.get(name) is not found or found.result is None:
            return
        if found.waiting is None:
            await self._hub.rouse(name[0])
            return
        runner, call = found.waiting
        del self._steps[name]
        await runner.step_ended(call, name[2], found.result)


def _alone(call: StepCall, found: _Step) -> StepCall:
    """*call* without its run, as a step that knows whether it may leave its job behind."""
    carry_out = cast("Callable[[], Awaitable[Any]]", call.fn)

    async def in_a_job() -> Any:
        durable_call.set(DurableCall(step().idempotency_key, lambda: not found.given_up))
        return await carry_out()

    alone = StepCall(
        in_a_job, (), retry=call.retry, timeout_s=call.timeout_s, type=call.type, at_most_once=False, is_job=True
    )
    alone.key = call.key
    return alone
