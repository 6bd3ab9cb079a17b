"""How do parents and children find each other?

A child is started once, and its end reaches every run that waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Protocol

from boxflow.errors import RunNotFoundError, RunStateError, WorkflowNotFoundError
from boxflow.journal import ChildCall
from boxflow.model import Failure, Head, RunStatus
from boxflow.ports import RunQuery, Store, StoredRun
from boxflow.resume import given_up_reason
from boxflow.runner import Arrival, Runner, child_ended
from boxflow.workflow import Workflow


class Hub(Protocol):
    """What children ask of their engine."""

    store: Store

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]: ...

    def find_workflow(self, workflow: str, version: str | None = None) -> Workflow[Any, Any]: ...

    async def create_run(
        self, found: Workflow[Any, Any], payload: bytes, *, run_id: str, labels: tuple[str, ...], parent: str
    ) -> StoredRun: ...

    async def cancel_run(self, run_id: str, reason: str | None, *, once: bool = False) -> None: ...

    async def rouse(self, run_id: str) -> Runner | None: ...

    async def result_bytes(self, run_id: str, head: Head) -> bytes: ...

    def idle(self, runner: Runner) -> None: ...


class Children:
    """The calls of runs in memory that wait for a child, by the child's id."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._calls: dict[str, dict[ChildCall, Runner]] = {}

    def await_child(self, runner: Runner, call: ChildCall) -> None:
        """The run of *runner* waits for a child: start it if need be, and see whether it has ended."""
        self._calls.setdefault(call.child_id, {})[call] = runner
        runner.checks += 1
        self._hub.spawn(self._start(runner, call))

    async def _start(self, runner: Runner, call: ChildCall) -> None:
        try:
            found = self._hub.find_workflow(call.workflow, call.version)
            stored = await self._hub.create_run(
                found, call.payload, run_id=call.child_id, labels=runner.record.labels, parent=runner.run_id
            )
            if stored.head.status.is_final:
                await self._tell(runner, call, stored.head)
            elif call.given_up:
                await self._cancel(runner, call)
        except (WorkflowNotFoundError, RunStateError) as error:
            failure = Failure(type=type(error).__name__, message=str(error))
            await self._tell(runner, call, Head(status=RunStatus.FAILED, error=failure))
        finally:
            runner.checks -= 1
        if not runner.is_over and runner.is_quiet:
            self._hub.idle(runner)

    def give_up(self, runner: Runner, call: ChildCall) -> None:
        """The body no longer waits for *call*: the child is cancelled, and its end still awaited."""
        self._hub.spawn(self._cancel(runner, call))

    async def _cancel(self, runner: Runner, call: ChildCall) -> None:
        # A child that does not exist yet is cancelled by `_start`, which looks at `given_up`.
        with contextlib.suppress(RunNotFoundError):
            # Once: a parent that is rebuilt asks again.
            await self._hub.cancel_run(call.child_id, given_up_reason(runner.run_id), once=True)

    def forget(self, call: ChildCall) -> None:
        """The run that waits leaves memory."""
        calls = self._calls.get(call.child_id)
        if calls is not None:
            calls.pop(call, None)
            if not calls:
                del self._calls[call.child_id]

    async def tell_parents(self, run_id: str, head: Head) -> None:
        """The run *run_id* has ended: tell every run that waits for it, in memory or not."""
        for stored in await self._hub.store.find_runs(RunQuery(waiting_for=f"child:{run_id}")):
            # Being roused, a parent looks at its children by itself.
            await self._hub.rouse(stored.record.run_id)
        for call, runner in list(self._calls.get(run_id, {}).items()):
            await self._tell(runner, call, head)

    async def _tell(self, runner: Runner, call: ChildCall, head: Head) -> None:
        if call.answered:
            return
        call.answered = True
        self.forget(call)
        data = await self._hub.result_bytes(call.child_id, head)
        value, blob = await runner.keep(data)
        runner.arrive(Arrival(child_ended(call, head.status, value, blob, head), call, live=data if blob else None))
