"""One run in memory: its body on its private loop, fed with outcomes one at a time.

`Execution` decides and performs nothing. It is begun, then fed with every outcome of the journal in order, each with a
full drain of the loop; what the body newly asks for stands in `issued`, what it no longer wants in `given_up`, and the
runner acts on both. Live and replay call the very same `deliver`.

    begin() --> body runs --> returns, raises, or is cancelled --> finishing --> ended
                                                                   leftover tasks are cancelled and awaited,
                                                                   the failure function runs (failed, cancelled),
                                                                   children end, boxes are deleted
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from typing import Any, cast

from boxflow.codec import encode_value
from boxflow.context import Context, Services
from boxflow.errors import DivergenceError, EncodeError, NotDurableError
from boxflow.failure import causes, failure_of
from boxflow.journal import ChildCall, Journal, MailWait, Operation, StepCall, UnknownCallError, location
from boxflow.loop import Evicted, WorkflowLoop
from boxflow.model import (
    CancelAsked,
    ChangePatched,
    ChildEnded,
    EventArrived,
    Failure,
    Outcome,
    RunRecord,
    RunResumed,
    RunStatus,
    StepDone,
    StepFailed,
    StepRetrying,
    StepStarted,
    TimerFired,
    WebhookArrived,
    describe,
    unique,
)
from boxflow.workflow import RunFailure, Workflow

PLAIN_TIMER = "asyncio.timer"
"""The name under which timers of `asyncio.sleep`, `asyncio.timeout` and anyio stand in the journal."""

RUN_TIMEOUT = "run.timeout"
"""The name under which the end of a workflow's `timeout=` stands in the journal."""

FAILURE_FUNCTION_PAUSES_S = (1.0, 5.0, 30.0, 120.0)
"""How long to wait before a failure function is tried again: five tries within about two and a half minutes."""


class Execution:
    """A body, its loop and its pending operations."""

    def __init__(
        self,
        record: RunRecord,
        workflow: Workflow[Any, Any],
        payload: Any,
        services: Services,
        *,
        drain: Callable[[WorkflowLoop], None] = WorkflowLoop.drain,
    ) -> None:
        self.record = record
        self.workflow = workflow
        self.journal = Journal()
        self.loop = WorkflowLoop(now=record.start_at)
        self.loop.on_violation = self._violated
        #: Recorded outcomes are being delivered; nothing may be logged.
        self.replaying = False
        #: How many outcomes have been delivered.
        self.length = 0
        #: Operations that the body has issued and given up since the runner last looked, in order.
        self.issued: list[Operation] = []
        self.given_up: list[Operation] = []
        #: Steps that wait for their next attempt.
        self.retrying: dict[StepCall, None] = {}
        #: Rebuilt after its body had come to rest behind the last outcome: what runs up to there is no news.
        self.settled = False
        #: Outcomes that must be recorded with the next append: answers of `patched`.
        self.markers: list[str] = []
        #: Boxes that must be deleted before the run ends: id and name.
        self.boxes: dict[str, str] = {}
        #: Everything is over: no durable call may be made.
        self.closed = False
        #: Thrown out of memory: what was begun in the world goes on.
        self.evicted = False
        self.status: RunStatus | None = None
        self.result: bytes = b"null"
        self.error: Failure | None = None
        self.reason: str | None = None
        self.timed_out = False
        self.body_ended: int | None = None
        self.causes: tuple[int, ...] = ()
        #: Called when something outside the law happened in a thread that the body started.
        self.on_violation: Callable[[], None] | None = None
        #: Sources of events that this run has received, so that a repeated sending counts once.
        self.sources: set[str] = set()
        self._payload = payload
        self._drain = drain
        #: A cancel has reached the run.
        self.cancel_asked = False
        self._undelivered = 0
        self._patches: dict[str, bool] = {}
        seeds = [run_id for run_id, _ in record.forked[1:]] + [record.run_id]
        #: From which outcome on a fork draws the random numbers of another run, at last its own.
        self._seeds = [(upto, seed) for (_, upto), seed in zip(record.forked, seeds, strict=False)]
        self._accept_until = 0
        self._plain_timers = 0
        self._children: dict[ChildCall, None] = {}
        self._body: asyncio.Task[Any] | None = None
        self._finishing: asyncio.Task[None] | None = None
        self._timeout: asyncio.TimerHandle | None = None
        self.ctx = Context(self, services)
        self.loop.owner = self.ctx

    # --- feeding ------------------------------------------------------------------------------------------------------

    def prepare(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Take note of what a journal says about itself, and return the outcomes that count."""
        dropped: set[int] = set()
        for outcome in outcomes:
            if isinstance(outcome, ChangePatched):
                self._patches[outcome.name] = True
            elif isinstance(outcome, RunResumed):
                dropped.update(outcome.dropped)
                if outcome.accept_divergence:
                    self._accept_until = outcome.seq
        counting = [outcome for outcome in outcomes if outcome.seq not in dropped]
        self._undelivered = len(counting)
        self.replaying = bool(counting)
        return counting

    def take_over(self, other: Execution) -> None:
        """Answer as *other* has: for a second body of one run, which is fed with what the first one has had."""
        self._patches = dict(other._patches)
        self._accept_until = other._accept_until
        self.replaying = True

    def begin(self) -> None:
        """Start the body and run it until it waits."""
        self._drive(self._start)

    def _start(self) -> None:
        loop = self.loop
        # An empty context: what the host happens to have in its context variables is no input of the body.
        context = contextvars.Context()
        self._body = loop.create_task(
            self.workflow.function(self.ctx, self._payload), name=self.workflow.name, context=context
        )
        self._body.add_done_callback(self._body_done, context=context)
        if self.workflow.timeout_s is not None:
            # A fork was created later than the start that it shares with its origin, and has its own time.
            when = max(self.record.start_at, self.record.created_at) + self.workflow.timeout_s
            self.journal.count(RUN_TIMEOUT)
            self._timeout = loop.call_at_named(when, (RUN_TIMEOUT, 1), self._run_timed_out, context=context)

    def deliver(self, outcome: Outcome) -> None:
        """Hand one recorded outcome to the body, and run it until it waits again.

        :raises DivergenceError: the outcome belongs to no call that the body has made
        """
        self.length = outcome.seq
        if self._undelivered:
            self._undelivered -= 1
        self.loop.set_time(outcome.at)
        while self._seeds and outcome.seq >= self._seeds[0][0]:
            self.ctx.random.seed(self._seeds.pop(0)[1])
        try:
            if type(outcome) is StepDone:
                done = self.journal.settle(outcome)
                if self.retrying and isinstance(done, StepCall):
                    self.retrying.pop(done, None)  # On replay: an earlier life made the next attempt.
            else:
                self._deliver_other(outcome)
        except UnknownCallError:
            if outcome.seq > self._accept_until:
                raise self._divergence(outcome) from None
        self._run()

    def replayed(self) -> None:
        """The journal is delivered: from here on the run is live."""
        self.replaying = self.settled = False
        self._undelivered = 0
        self.issued = list(self.journal.pending.values())
        self.given_up.clear()

    def _deliver_other(self, outcome: Outcome) -> None:  # noqa: C901, PLR0912 - the whole table, in one place
        match outcome:
            case StepFailed() | WebhookArrived():
                if isinstance(step := self.journal.settle(outcome), StepCall):
                    self.retrying.pop(step, None)
            case EventArrived():
                if outcome.source is not None:
                    self.sources.add(outcome.source)
                self.journal.settle(outcome)
            case ChildEnded():
                child = self.journal.settle(outcome)
                if isinstance(child, ChildCall):
                    self._children.pop(child, None)
            case StepRetrying():
                step = self.journal.find((outcome.name, outcome.occurrence), StepCall)
                if isinstance(step, StepCall):
                    step.attempt, step.when, step.interrupted = outcome.attempt, outcome.next_at, False
                    self.retrying[step] = None
            case StepStarted():
                step = self.journal.find((outcome.name, outcome.occurrence), StepCall)
                if isinstance(step, StepCall):
                    step.interrupted = True
            case TimerFired():
                self._fire(outcome)
            case CancelAsked():
                self._cancel(outcome.reason)
            case ChangePatched() | RunResumed():
                pass
            case StepDone():
                self.journal.settle(outcome)

    def _fire(self, outcome: TimerFired) -> None:
        key = (outcome.name, outcome.occurrence)
        if outcome.name == PLAIN_TIMER:
            due = self.loop.next_due()
            self._plain_timers = outcome.occurrence
        else:
            operation = self.journal.pending.get(key)
            due = operation.when if operation is not None else None
            if outcome.name == RUN_TIMEOUT:
                due = self.loop.next_due()
            elif due is None and self.journal.was_issued(key):
                return
        if due is None:
            raise UnknownCallError
        self.loop.fire(due, outcome.at)

    def next_timer(self) -> TimerFired | None:
        """The outcome that the earliest timer will be, its `seq` and `at` still to be set; None without timers."""
        due = self.loop.next_due()
        if due is None:
            return None
        name, occurrence = cast("tuple[str, int]", self.loop.due_name() or (PLAIN_TIMER, self._plain_timers + 1))
        return TimerFired(seq=0, at=due, name=name, occurrence=occurrence, due=due)

    def next_due(self) -> float | None:
        """The earliest instant at which the run has something to do by itself: a timer, or a step's next attempt."""
        due = self.loop.next_due()
        for call in self.retrying:
            if call.when is not None and (due is None or call.when < due):
                due = call.when
        return due

    def waits_at(self) -> tuple[str, ...]:
        """The lines of the body that wait, as `file:line in function`."""
        lines = (location(task.get_coro()) for task in self.loop.tasks())
        return tuple(line for line in lines if line)

    def _divergence(self, outcome: Outcome) -> DivergenceError:
        pending = [str(operation) for operation in self.journal.pending.values()]
        kind = outcome.kind.replace("_", " ")
        return DivergenceError(
            recorded=f"{kind} {describe(outcome.name, outcome.occurrence)}",
            seq=outcome.seq,
            pending=pending,
            waiting_at=self.waits_at(),
        )

    def _drive(self, start: Callable[[], None]) -> None:
        self.loop.call_soon(start, context=contextvars.Context())
        self._run()

    def _run(self) -> None:
        while True:
            try:
                return self._drain(self.loop)
            except SystemExit:
                # `sys.exit()` in a body fails the run, like any exception; it must not end the application, which
                # would meet the same run again at its next start. The task has kept it.
                continue

    # --- what the context asks ----------------------------------------------------------------------------------------

    def issue(self, name: str, operation: Operation) -> None:
        """The body makes a durable call."""
        operation.future = self.loop.create_future()
        self.journal.issue(name, operation)
        self.issued.append(operation)
        if isinstance(operation, ChildCall):
            self._children[operation] = None

    def give_up(self, operation: Operation) -> None:
        """The body no longer waits for *operation*."""
        self.journal.forget(operation)
        self.given_up.append(operation)
        if isinstance(operation, StepCall):
            self.retrying.pop(operation, None)

    def give_up_child(self, child: ChildCall) -> None:
        """The body no longer waits for *child*: it is to be cancelled, and its end is still awaited."""
        child.given_up = True
        self.given_up.append(child)

    def patched(self, change_id: str) -> bool:
        """Answer `Context.patched`: True where the journal says so or the run is live, and the same ever after."""
        known = self._patches.get(change_id)
        if known is None:
            known = self._patches[change_id] = self._undelivered == 0 and not self.settled
            if known:
                self.markers.append(change_id)
        return known

    def waiting(self) -> tuple[str, ...]:
        """What the run waits for from outside, as it stands in `Head.waiting`."""
        found: list[str] = []
        for operation in self.journal.pending.values():
            if isinstance(operation, MailWait):
                found.append(f"{operation.kind}:{operation.subject}")
            elif isinstance(operation, ChildCall):
                found.append(f"child:{operation.child_id}")
            elif isinstance(operation, StepCall) and operation.is_job:
                found.append(f"job:{operation.key[0]}")
        return unique(found)

    # --- the end of the body ------------------------------------------------------------------------------------------

    def _cancel(self, reason: str | None) -> None:
        if self._body is None or self._body.done():
            return
        self.cancel_asked = True
        if reason is not None or self.reason is None:
            self.reason = reason
        self._body.cancel()

    def _run_timed_out(self) -> None:
        if self._body is not None and not self._body.done():
            self.timed_out = True
            self._cancel(f"it took longer than its timeout of {self.workflow.timeout_s:g} s")

    def _violated(self, error: NotDurableError) -> None:
        # Called in a foreign thread: only note it, and let the host's thread act.
        on_violation = self.on_violation
        if on_violation is not None:
            on_violation()

    def end_by_violation(self) -> None:
        """End the body that started a thread: the thread's answer can never come."""
        error = self.loop.violation
        if error is not None and self._body is not None and not self._body.done():
            self.error = failure_of(error)
            self._body.cancel()
            self._drain(self.loop)

    def _body_done(self, body: asyncio.Task[Any]) -> None:
        self.body_ended = self.length
        if self._timeout is not None:
            self._timeout.cancel()
        if self.error is not None:
            self.status = RunStatus.FAILED
        elif body.cancelled():
            if self.cancel_asked:
                self.status = RunStatus.CANCELLED
                kind = "RunTimeoutError" if self.timed_out else "RunCancelledError"
                self.error = Failure(type=kind, message=self.reason or "the run was cancelled")
            else:
                self.status = RunStatus.FAILED
                self.error = Failure(type="CancelledError", message="the body raised CancelledError itself")
        else:
            self._take_result(body)
        if not self.cancel_asked or self.status is not RunStatus.CANCELLED:
            self.timed_out = False
        leftover = [task for task in self.loop.tasks() if task is not body]
        for task in leftover:
            task.cancel()
        self._finishing = self.loop.create_task(self._finish(leftover), name="finishing", context=contextvars.Context())
        self._finishing.add_done_callback(self._finished, context=contextvars.Context())

    def _take_result(self, body: asyncio.Task[Any]) -> None:
        error = body.exception()
        if error is None:
            try:
                self.result = encode_value(body.result(), self.workflow.return_type)
            except EncodeError as refusal:
                self.status = RunStatus.FAILED
                message = f"workflow {self.workflow.name!r} returned {refusal}"
                self.error = failure_of(refusal, message=message)
            else:
                self.status = RunStatus.COMPLETED
        else:
            self.status = RunStatus.FAILED
            self.error = failure_of(error)
            self.causes = causes(error)

    async def _finish(self, leftover: Sequence[asyncio.Task[Any]]) -> None:
        if leftover:
            await asyncio.wait(leftover)
            for task in leftover:
                if not task.cancelled():
                    task.exception()  # Looked at, so that asyncio does not complain: the body did not await it.
        await self.loop.shutdown_asyncgens()
        failure_function = self.workflow.failure_function
        if failure_function is not None and self.status is not RunStatus.COMPLETED:
            await self._run_failure_function()
        children = [child for child in self._children if child.key in self.journal.pending]
        for child in children:
            if not child.given_up:
                self.give_up_child(child)
        for child in children:
            await child.future
        for box_id, name in list(self.boxes.items()):
            await self.ctx.close_box(box_id, name)

    async def _run_failure_function(self) -> None:
        function = self.workflow.failure_function
        assert function is not None and self.status is not None and self.error is not None
        failure = RunFailure(
            run_id=self.record.run_id,
            status=self.status,
            error=self.error,
            payload=self._payload,
            reason=self.reason,
        )
        for pause_s in (*FAILURE_FUNCTION_PAUSES_S, None):
            try:
                await function(self.ctx, failure)
            except Exception as error:  # noqa: BLE001 - it is the user's code, and has another try
                self.ctx.log.warning("the failure function of run %r failed: %s", self.record.run_id, failure_of(error))
                if pause_s is None:
                    return
                await self.ctx.sleep("failure_function.retry", pause_s)
            else:
                return

    def _finished(self, finishing: asyncio.Task[None]) -> None:
        if not finishing.cancelled() and (error := finishing.exception()) is not None:
            # Nothing in finishing raises for a run's own reasons; this is a defect of ours, and must be seen.
            self.status = RunStatus.FAILED
            self.error = failure_of(error)
        self.closed = True

    def evict(self) -> None:
        """Leave memory: the body is thrown away; no durable call runs, and no `except Exception` sees it."""
        if self.evicted:
            return
        self.closed = self.evicted = True
        self.loop.evict(Evicted)
        self._body = self._finishing = self._timeout = None
        self.journal.pending.clear()
        self._children.clear()
        # The context refers to this, and this is needed no more: without a circle it is freed at once.
        self.on_violation = None
        del self.ctx
