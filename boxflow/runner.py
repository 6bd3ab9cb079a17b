"""How one run in memory goes on: take what arrived, append it, deliver it, start what the body asked for.

    arrivals --> batch --> store.append --> deliver one by one, a full drain each --> new calls are started
        ^                                                                                   |
        +------------------ steps, mail, children, timers, cancels -------------------------+

Only tasks of the engine pump a run, never a user's: a web request that is cancelled must not tear an append.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Protocol

import msgspec

from boxflow.errors import FenceError, NotDurableError, RunEndedError
from boxflow.execution import Execution
from boxflow.failure import failure_of
from boxflow.journal import CancelCall, ChildCall, MailWait, Operation, StepCall
from boxflow.model import (
    Blob,
    CancelAsked,
    Change,
    ChangePatched,
    ChildEnded,
    EventArrived,
    Head,
    Outcome,
    RunRecord,
    RunStatus,
    StepDone,
    StepFailed,
    StepRetrying,
    StepStarted,
    Value,
    WebhookArrived,
    microseconds,
)
from boxflow.ports import Clock, Fence, Store
from boxflow.steps import Raised, Returned, attempt

log = logging.getLogger("boxflow")

STEPS_AT_ONCE = 8
"""How many steps a run may take before others have a turn, where nothing makes it wait."""


class Hub(Protocol):
    """What a runner asks of its engine."""

    clock: Clock
    store: Store
    max_payload_bytes: int

    async def perform(self, runner: Runner, call: StepCall, number: int) -> Returned | Raised: ...

    def spawn(self, coroutine: Any) -> asyncio.Task[Any]: ...

    def is_as_spawned(self, task: asyncio.Task[Any]) -> bool: ...

    def await_mail(self, runner: Runner, wait: MailWait) -> None: ...

    def await_child(self, runner: Runner, call: ChildCall) -> None: ...

    def await_job(self, runner: Runner, call: StepCall) -> None: ...

    def forget_wait(self, runner: Runner, operation: Operation) -> None: ...

    def ring_at(self, when: float, run_id: str) -> None: ...

    def changed(self, run_id: str, *, ended: bool = False) -> None: ...

    def idle(self, runner: Runner) -> None: ...

    async def closing_changes(self, run_id: str) -> Sequence[Change]: ...

    def ended(self, runner: Runner) -> None: ...

    def broke(self, error: BaseException) -> None: ...

    def retire(self, runner: Runner) -> None: ...

    async def diverge(self, runner: Runner, error: Exception) -> None: ...


class Arrival:
    """One outcome on its way into the journal.

    :param make: builds the outcome, given `seq` and `at`
    :param operation: whom it is for; when that was given up meanwhile, nothing is recorded
    :param live: the value where the recorded outcome only refers to a blob
    :param changes: applied in the same append
    :param done: told whether it was recorded
    :param alone: it must not be recorded behind an outcome that could make the body give up the operation: mail that
        was recorded and then ignored would be lost
    """

    __slots__ = ("alone", "changes", "done", "live", "make", "operation")

    def __init__(
        self,
        make: Callable[[int, float], Outcome],
        operation: Operation | None = None,
        *,
        live: bytes | None = None,
        changes: Sequence[Change] = (),
        done: asyncio.Future[bool] | None = None,
        alone: bool = False,
    ) -> None:
        self.make = make
        self.operation = operation
        self.live = live
        self.changes = changes
        self.done = done
        self.alone = alone

    def answer(self, recorded: bool) -> None:
        """Tell who waits whether it was recorded."""
        if self.done is not None and not self.done.done():
            self.done.set_result(recorded)


class Runner:
    """One run in memory, with its execution, its head as stored, and what arrived for it."""

    __slots__ = (
        "_carried",
        "_carries",
        "_pump_is_coming",
        "_pumping",
        "arrivals",
        "checks",
        "execution",
        "fence",
        "head",
        "hub",
        "in_flight",
        "is_over",
        "last_at",
        "record",
        "rung_for",
        "tasks",
    )

    def __init__(self, hub: Hub, record: RunRecord, head: Head, fence: Fence, execution: Execution) -> None:
        self.hub = hub
        self.record = record
        self.head = head
        self.fence = fence
        self.execution = execution
        self.arrivals: deque[Arrival] = deque()
        #: Steps that run now.
        self.in_flight = 0
        #: Looks for kept mail and for children's ends that are on their way.
        self.checks = 0
        self.tasks: set[asyncio.Task[Any]] = set()
        self.last_at = record.start_at
        self.rung_for: float | None = None
        #: Ended, evicted or taken over: nothing more may be recorded.
        self.is_over = False
        self._pumping = False
        self._pump_is_coming = False
        #: Who pumps would run a step besides; the step that it is to run.
        self._carries = False
        self._carried: StepCall | None = None

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.record.run_id

    @property
    def is_settled(self) -> bool:
        """Its stored head says that it waits, and that is still so."""
        return self.is_quiet and self.head.status is RunStatus.WAITING

    def go_live(self) -> None:
        """The journal has been replayed: start what the body waits for."""
        self.execution.replayed()
        self._start_calls()

    @property
    def is_quiet(self) -> bool:
        """Nothing runs, nothing is on its way: the run only waits."""
        return not (self._pumping or self._pump_is_coming or self.in_flight or self.checks or self.arrivals)

    def arrive(self, arrival: Arrival) -> None:
        """Take *arrival*, and have the run pumped by a task of the engine."""
        if self.is_over:
            arrival.answer(False)
            return
        self.arrivals.append(arrival)
        self.pump_soon()

    def pump_soon(self) -> None:
        """Have the run pumped by a task of the engine. Until then it is not quiet, and stays in memory."""
        if not (self._pumping or self._pump_is_coming or self.is_over):
            self._pump_is_coming = True
            self.hub.spawn(self.pump())

    async def pump(self, *, carries: bool = False) -> StepCall | None:
        """Record and deliver until nothing is left to do.

        :param carries: the caller can run a step: it gets one that was begun last, when there is nothing else to do
        """
        self._pump_is_coming = False
        if self._pumping or self.is_over:
            return None
        self._pumping, self._carries = True, carries
        try:
            while not self.is_over:
                if self.execution.markers:
                    # What `patched` answered is recorded before anything that follows from it is begun.
                    await self._record([])
                self._start_calls()
                if self.execution.closed:
                    await self._end()
                    return None
                arrivals = self._take()
                if arrivals:
                    await self._record(arrivals)
                elif (self.in_flight and self.execution.next_due() is None) or not await self._settle():
                    break  # The outcome of a step comes next, or what `_settle` has written down.
        except FenceError:
            log.warning("run %r was taken over by another engine", self.run_id)
            self.hub.retire(self)
        except NotDurableError as error:
            # The body spins: it would hold the thread for ever. It stops here, until its code is mended.
            await self.hub.diverge(self, error)
        except Exception as error:  # noqa: BLE001 - ours or the store's: the engine must stop, and say so
            self.hub.broke(error)
        finally:
            self._pumping = self._carries = False
            carried, self._carried = self._carried, None
        self._rest()
        return carried

    def _rest(self) -> None:
        if self.is_quiet and not self.is_over:
            self.hub.idle(self)

    # --- arrivals -----------------------------------------------------------------------------------------------------

    def _take(self) -> list[Arrival]:
        taken: list[Arrival] = []
        arrivals = self.arrivals
        while arrivals:
            arrival = arrivals[0]
            operation = arrival.operation
            if operation is not None and operation.given_up and not _outlives(operation):
                arrivals.popleft()
                arrival.answer(False)
                continue
            if arrival.alone and taken:
                break
            taken.append(arrivals.popleft())
            if arrival.alone:
                break
        if not taken:
            timer = self.execution.next_timer()
            if timer is not None and timer.due <= self.hub.clock.now():
                taken.append(Arrival(lambda seq, at: msgspec.structs.replace(timer, seq=seq, at=at)))
        return taken

    async def _record(self, arrivals: list[Arrival]) -> None:
        self._let_go()
        execution = self.execution
        at = self._now()
        markers = self._take_markers() if execution.markers else []
        seq = self.head.length + len(markers)
        outcomes: list[Outcome] = []
        changes: Sequence[Change] = ()
        for arrival in arrivals:
            seq += 1
            outcomes.append(arrival.make(seq, at))
            if arrival.changes:
                changes = [*changes, *arrival.changes]
        head = Head(status=RunStatus.RUNNING, length=seq, updated_at=at)
        try:
            await self.hub.store.append(self.record.run_id, markers + outcomes, head, self.fence, changes)
        except BaseException:
            for arrival in arrivals:
                arrival.answer(False)
            raise
        self.head = head
        self.hub.changed(self.record.run_id)
        if self.is_over:
            return
        try:
            for marker in markers:
                execution.deliver(marker)
            for arrival, outcome in zip(arrivals, outcomes, strict=True):
                live = arrival.live
                execution.deliver(outcome if live is None else msgspec.structs.replace(outcome, value=Value(live)))
        finally:
            # Also when the body spins, or diverges: who waits for the recording must hear of it.
            for arrival in arrivals:
                arrival.answer(True)

    def _now(self) -> float:
        """The journal's time: that of the clock, but it never goes back where the clock is set back."""
        self.last_at = max(self.last_at, microseconds(self.hub.clock.now()))
        return self.last_at

    def _take_markers(self) -> list[Outcome]:
        seq, markers = self.head.length, self.execution.markers
        self.execution.markers = []
        return [
            ChangePatched(seq=seq + number, at=self.last_at, name=change_id)
            for number, change_id in enumerate(markers, start=1)
        ]

    async def _settle(self) -> bool:
        """With nothing to record: say what the run waits for. True when there may be something to do again."""
        self._let_go()
        due = self.execution.next_due()
        if due is not None and due != self.rung_for:
            self.rung_for = due
            self.hub.ring_at(due, self.run_id)
        if self.in_flight:
            return False
        waiting = self.execution.waiting()
        head = self.head
        if (head.status, head.waiting, head.due) == (RunStatus.WAITING, waiting, due) and not self.execution.markers:
            return bool(self.arrivals)
        outcomes = self._take_markers() if self.execution.markers else []
        head = Head(
            status=RunStatus.WAITING,
            length=head.length + len(outcomes),
            waiting=waiting,
            due=due,
            updated_at=self._now(),
        )
        if due is None and not waiting:
            log.warning(
                "run %r waits for nothing that can come: no step, timer, event, webhook or child; "
                "only a cancel ends it",
                self.run_id,
            )
        await self.hub.store.append(self.run_id, outcomes, head, self.fence)
        for outcome in outcomes:
            self.execution.length = outcome.seq
        self.head = head
        self.hub.changed(self.run_id)
        return True

    async def _end(self) -> None:
        self._let_go()
        execution = self.execution
        assert execution.status is not None
        at = self._now()
        outcomes = self._take_markers() if execution.markers else []
        result, blob = await self.keep(execution.result)
        head = Head(
            status=execution.status,
            length=self.head.length + len(outcomes),
            result=result,
            result_blob=blob,
            error=execution.error,
            reason=execution.reason,
            timed_out=execution.timed_out,
            body_ended=execution.body_ended,
            causes=execution.causes,
            updated_at=at,
        )
        # What is kept for a failed run stays until its time is over: when the run is resumed, it is there.
        failed = execution.status is RunStatus.FAILED
        changes = () if failed else await self.hub.closing_changes(self.run_id)
        await self.hub.store.append(self.run_id, outcomes, head, self.fence, changes)
        self.head = head
        self.is_over = True
        self.hub.changed(self.run_id, ended=True)
        self.hub.ended(self)

    async def keep(self, data: bytes) -> tuple[Value, Blob | None]:
        """*data* as a journal holds it: itself, or the reference to a blob when it is large."""
        if len(data) <= self.hub.max_payload_bytes:
            return Value(data), None
        return Value(b"null"), await self.hub.store.put_blob(self.run_id, data)

    # --- calls --------------------------------------------------------------------------------------------------------

    def _start_calls(self) -> None:
        """Act on what the body has asked for, and on what it no longer wants."""
        execution = self.execution
        while execution.issued or execution.given_up:
            issued, execution.issued = execution.issued, []
            given_up, execution.given_up = execution.given_up, []
            for operation in issued:
                if not operation.started and (not operation.given_up or _outlives(operation)):
                    self._start(operation)
            for operation in given_up:
                if isinstance(operation, StepCall) and not operation.is_job:
                    if operation.task is not None:
                        operation.task.cancel()
                        if not operation.running:
                            # A task that is cancelled before its first turn never gets one, and so no `finally`.
                            self._forget_task(operation)
                else:
                    self.hub.forget_wait(self, operation)

    def _start(self, operation: Operation) -> None:
        operation.started = True
        match operation:
            case StepCall():
                self._start_step(operation)
            case MailWait():
                self.hub.await_mail(self, operation)
            case ChildCall():
                self.hub.await_child(self, operation)
            case CancelCall():
                reason = operation.reason
                self.arrivals.append(Arrival(lambda seq, at: CancelAsked(seq=seq, at=at, reason=reason)))
            case _:
                pass  # A sleep: the loop's own timer ends it.

    def _start_step(self, call: StepCall) -> None:
        if call.interrupted and call.at_most_once:
            self.arrivals.append(Arrival(_interrupted(call), call))
            return
        if call.when is not None and call.when > self.hub.clock.now():
            call.started = False
            return  # Its next attempt is due later; `_settle` has the run rung for it.
        self.execution.retrying.pop(call, None)
        if call.is_job:
            self.hub.await_job(self, call)
            return
        self.in_flight += 1
        if self._carries and self._carried is None:
            self._carried = call
        else:
            self._spawn(call)

    def _spawn(self, call: StepCall) -> None:
        task = self.hub.spawn(self._run_steps(call))
        self._belongs_to(task, call)

    def _belongs_to(self, task: asyncio.Task[Any], call: StepCall) -> None:
        call.task = task
        self.tasks.add(task)

    def _let_go(self) -> None:
        """The pump is about to wait: no step may wait with it."""
        call, self._carried = self._carried, None
        if call is not None:
            self._spawn(call)

    def wake(self) -> None:
        """An instant has come for which the run was to be rung: start the attempts that are due, fire the timers."""
        self.rung_for = None
        now = self.hub.clock.now()
        for call in list(self.execution.retrying):
            if not call.started and (call.when is None or call.when <= now):
                self._start(call)
        self.pump_soon()

    async def _run_steps(self, call: StepCall) -> None:
        """Attempts of steps, one after the other, each from its start to the run having gone on with its outcome.

        Where a body makes one step after the other they share a task: one for each would be a fifth of a step's time.
        """
        for number in count(1):
            task = call.task
            if not await self._run_step(call) or task is None:
                return
            following = await self.pump(carries=True)
            if following is None or self.is_over:
                return
            if not self.hub.is_as_spawned(task):
                self._spawn(following)
                return
            call = following
            self._belongs_to(task, call)
            if number % STEPS_AT_ONCE == 0:
                # Where neither step nor store waits for anything, others would never have a turn.
                await asyncio.sleep(0)

    async def _run_step(self, call: StepCall) -> bool:
        """One attempt of a step; False when nothing has arrived for the run."""
        number = call.attempt + 1
        call.running = True
        try:
            if call.at_most_once and not await self._record_start(call, number):
                return False
            arrival = await self._arrival(call, number, await self.hub.perform(self, call, number))
        except Exception as error:  # noqa: BLE001 - ours or the store's: the engine must stop, and say so
            self.hub.broke(error)
            return False
        finally:
            # From here on nobody may cancel this task: it pumps the run.
            self._forget_task(call)
            if call.given_up:
                # Its outcome will not come; what the run waits for now may still have to be written down.
                self.pump_soon()
        if self.is_over:
            return False
        self.arrivals.append(arrival)
        return True

    async def step_ended(self, call: StepCall, number: int, result: Returned | Raised) -> None:
        """Go on with the outcome of a step that went on by itself."""
        self.checks += 1  # Until the outcome is among the arrivals the run must stay in memory.
        try:
            arrival = await self._arrival(call, number, result)
        finally:
            self.checks -= 1
        self.arrive(arrival)

    async def _arrival(self, call: StepCall, number: int, result: Returned | Raised) -> Arrival:
        if isinstance(result, Raised):
            return self._failed(call, number, result)
        data = result.value
        if len(data) <= self.hub.max_payload_bytes:
            return Arrival(_done(call, number, Value(data), None), call)
        return Arrival(_done(call, number, *await self.keep(data)), call, live=data)

    def _forget_task(self, call: StepCall) -> None:
        if call.task is not None:
            self.tasks.discard(call.task)
            call.task = None
        call.running = False
        self.in_flight -= 1

    async def _record_start(self, call: StepCall, number: int) -> bool:
        recorded: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        name, occurrence = call.key
        self.arrive(
            Arrival(
                lambda seq, at: StepStarted(seq=seq, at=at, name=name, occurrence=occurrence, attempt=number),
                call,
                done=recorded,
            )
        )
        return await recorded

    def _failed(self, call: StepCall, number: int, result: Raised) -> Arrival:
        name, occurrence = call.key
        if result.pause_s is None:
            return Arrival(
                lambda seq, at: StepFailed(
                    seq=seq,
                    at=at,
                    name=name,
                    occurrence=occurrence,
                    error=result.error,
                    attempt=number,
                    reason="timeout" if result.timed_out else "error",
                ),
                call,
            )
        next_at = round(self.hub.clock.now() + result.pause_s, 6)
        call.started = False
        return Arrival(
            lambda seq, at: StepRetrying(
                seq=seq,
                at=at,
                name=name,
                occurrence=occurrence,
                error=result.error,
                attempt=number,
                next_at=next_at,
            ),
            call,
        )

    # --- leaving ------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Leave memory: steps are stopped, nothing is recorded any more."""
        self.is_over = True
        for task in list(self.tasks):
            task.cancel()
        for arrival in self.arrivals:
            arrival.answer(False)
        self.arrivals.clear()
        for operation in self.execution.journal.pending.values():
            self.hub.forget_wait(self, operation)
        self.execution.evict()


def _outlives(operation: Operation) -> bool:
    """A child's end is awaited even when the body no longer waits for its result."""
    return isinstance(operation, ChildCall)


def _done(call: StepCall, number: int, value: Value, blob: Blob | None) -> Callable[[int, float], Outcome]:
    name, occurrence = call.key

    def make(seq: int, at: float) -> Outcome:
        return StepDone(seq=seq, at=at, name=name, occurrence=occurrence, value=value, blob=blob, attempt=number)

    return make


def _interrupted(call: StepCall) -> Callable[[int, float], Outcome]:
    name, occurrence = call.key
    number = call.attempt + 1
    error = failure_of(RunEndedError("the engine ended while the step ran; whether its effect happened is unknown"))
    error = msgspec.structs.replace(error, type="Interrupted", traceback="")

    def make(seq: int, at: float) -> Outcome:
        return StepFailed(
            seq=seq, at=at, name=name, occurrence=occurrence, error=error, attempt=number, reason="interrupted"
        )

    return make


def arrived(wait: MailWait, value: Value, blob: Blob | None, source: str | None) -> Callable[[int, float], Outcome]:
    """Builds the outcome with which mail reaches *wait*."""
    name, occurrence = wait.key
    subject = wait.subject

    def make(seq: int, at: float) -> Outcome:
        if wait.kind == "event":
            return EventArrived(
                seq=seq,
                at=at,
                name=name,
                occurrence=occurrence,
                event_id=subject,
                value=value,
                blob=blob,
                source=source,
            )
        return WebhookArrived(seq=seq, at=at, name=name, occurrence=occurrence, webhook=subject, value=value, blob=blob)

    return make


def child_ended(
    call: ChildCall, status: RunStatus, value: Value, blob: Blob | None, head: Head
) -> Callable[[int, float], Outcome]:
    """Builds the outcome with which a child's end reaches its parent."""
    name, occurrence = call.key

    def make(seq: int, at: float) -> Outcome:
        return ChildEnded(
            seq=seq,
            at=at,
            name=name,
            occurrence=occurrence,
            run_id=call.child_id,
            status=str(status),
            value=value,
            blob=blob,
            error=head.error,
        )

    return make


__all__ = ["Arrival", "Hub", "Runner", "arrived", "attempt", "child_ended"]
