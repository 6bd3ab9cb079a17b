"""Which runs are in memory? Rebuilt from their journals when something comes for them, evicted when they only wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from boxflow.codec import decode_value
from boxflow.errors import DecodeError, DivergenceError, FenceError, NotDurableError, WorkflowNotFoundError
from boxflow.execution import Execution
from boxflow.failure import failure_of
from boxflow.model import Failure, Head, Outcome, RunRecord, RunStatus, microseconds
from boxflow.ports import Clock, Fence, Store, StoredRun
from boxflow.runner import Runner
from boxflow.workflow import Workflow

log = logging.getLogger("boxflow")

OUTCOMES_A_TURN = 200
"""How many outcomes are replayed before the host's loop gets a turn: some four milliseconds."""


class Hub(Protocol):
    """What the residents ask of their engine, besides what a runner asks."""

    clock: Clock
    store: Store
    owner: str

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]: ...

    def find_workflow(self, workflow: str, version: str | None = None) -> Workflow[Any, Any]: ...

    def execution(self, record: RunRecord, found: Workflow[Any, Any], payload: Any) -> Execution: ...

    async def read(self, run_id: str, after: int = 0) -> Sequence[Outcome]: ...

    def changed(self, run_id: str, *, ended: bool = False) -> None: ...

    def on_host(self, callback: Any) -> None: ...


class Residents:
    """The runs in memory, least recently active first.

    :param limit: how many that only wait may stay
    """

    def __init__(self, hub: Any, *, limit: int) -> None:
        self._hub: Hub = hub
        self._runner_hub: Any = hub
        self._limit = limit
        self._runners: dict[str, Runner] = {}
        self._quiet: dict[str, Runner] = {}
        self._rousing: dict[str, asyncio.Task[Runner | None]] = {}
        self._holds: dict[str, int] = {}

    def get(self, run_id: str) -> Runner | None:
        """The run, when it is in memory."""
        return self._runners.get(run_id)

    async def rouse(self, run_id: str) -> Runner | None:
        """The run, brought into memory if need be; None when it is over, diverged, or has no code here."""
        runner = self._runners.get(run_id)
        if runner is not None:
            return runner
        # Who asks may be cancelled; the building goes on for the others.
        return await asyncio.shield(self._building(run_id))

    def rouse_soon(self, run_id: str) -> None:
        """Have the run brought into memory, if need be."""
        if run_id not in self._runners:
            self._building(run_id)

    def _building(self, run_id: str) -> asyncio.Task[Runner | None]:
        task = self._rousing.get(run_id)
        if task is None:
            task = self._rousing[run_id] = self._hub.spawn(self._build(run_id))
        return task

    @asynccontextmanager
    async def hold(self, run_id: str) -> AsyncGenerator[Runner | None]:
        """The run, as `rouse` brings it, kept in memory for as long as the block takes."""
        self._holds[run_id] = self._holds.get(run_id, 0) + 1
        try:
            yield await self.rouse(run_id)
        finally:
            self._holds[run_id] -= 1
            if not self._holds[run_id]:
                del self._holds[run_id]
                runner = self._runners.get(run_id)
                if runner is not None and runner.is_quiet:
                    self.idle(runner)

    async def _build(self, run_id: str) -> Runner | None:
        try:
            return await self._bring_in(run_id)
        finally:
            # Before anybody can run who might find a runner here that has left again.
            del self._rousing[run_id]

    async def _bring_in(self, run_id: str) -> Runner | None:
        stored = await self._hub.store.get_run(run_id)
        if stored is None or not stored.head.status.is_driven:
            return None
        try:
            fence = await self._hub.store.claim(run_id, self._hub.owner)
        except FenceError:
            return None
        try:
            execution = await self._rebuild(stored)
        except WorkflowNotFoundError as error:
            # Left as it is: the engine that has the code will go on with it.
            log.error("run %r cannot go on here: %s", run_id, error)
            return None
        except (DivergenceError, DecodeError, NotDurableError) as error:
            await self._diverge(stored.record, stored.head, fence, error)
            return None
        runner = Runner(self._runner_hub, stored.record, stored.head, fence, execution)
        runner.last_at = max(stored.record.start_at, execution.loop.time())
        execution.on_violation = lambda: self._hub.on_host(lambda: self._violated(runner))
        self._runners[run_id] = runner
        runner.go_live()
        runner.pump_soon()
        return runner

    async def _rebuild(self, stored: StoredRun) -> Execution:
        record = stored.record
        found = self._hub.find_workflow(record.workflow, record.version)
        data = bytes(record.payload)
        if record.payload_blob is not None:
            data = await self._hub.store.get_blob(record.run_id, record.payload_blob)
        execution = self._hub.execution(record, found, decode_value(data, found.payload_type))
        execution.settled = stored.head.status is RunStatus.WAITING
        try:
            outcomes = execution.prepare(await self._hub.read(record.run_id)) if stored.head.length else []
            execution.begin()
            for number, outcome in enumerate(outcomes, start=1):
                execution.deliver(outcome)
                if number % OUTCOMES_A_TURN == 0:
                    await asyncio.sleep(0)
        except BaseException:
            execution.evict()
            raise
        return execution

    async def diverge(self, runner: Runner, error: Exception) -> None:
        """The run cannot go on with this code: write that down, and take it out of memory."""
        self.leave(runner)
        await self._diverge(runner.record, runner.head, runner.fence, error)

    async def _diverge(self, record: RunRecord, before: Head, fence: Fence, error: Exception) -> None:
        kept = failure_of(error)
        log.error("run %r diverged: %s", record.run_id, kept.message)
        head = Head(
            status=RunStatus.DIVERGED,
            length=before.length,
            error=Failure(type=kept.type, message=kept.message),
            updated_at=microseconds(self._hub.clock.now()),
        )
        await self._hub.store.append(record.run_id, [], head, fence)
        self._hub.changed(record.run_id, ended=True)

    def _violated(self, runner: Runner) -> None:
        if not runner.is_over:
            runner.execution.end_by_violation()
            runner.pump_soon()

    def idle(self, runner: Runner) -> None:
        """The run only waits now: it may stay, or the one that has waited longest must go."""
        self._quiet.pop(runner.run_id, None)
        self._quiet[runner.run_id] = runner
        while self._quiet and len(self._runners) > self._limit:
            oldest = next(iter(self._quiet.values()))
            del self._quiet[oldest.run_id]
            if oldest.is_quiet and oldest.run_id not in self._holds:
                self.leave(oldest)

    def leave(self, runner: Runner) -> None:
        """Take the run out of memory."""
        if self._runners.get(runner.run_id) is runner:
            del self._runners[runner.run_id]
            self._quiet.pop(runner.run_id, None)
        runner.leave()

    def leave_all(self) -> None:
        """Take every run out of memory."""
        for runner in list(self._runners.values()):
            self.leave(runner)
