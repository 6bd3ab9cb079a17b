"""What a workflow body can do: `Context`, the durable side of every call.

Everything here runs on the run's private loop. A method issues an operation, waits for its outcome, and turns the
outcome into a value or an exception. Nothing here performs anything: the engine does, after the loop has been drained.
"""

from __future__ import annotations

import asyncio
import logging
import random
from asyncio.events import _get_running_loop  # pyright: ignore[reportPrivateUsage] # cheaper, and None off a loop
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, TypeVarTuple, Unpack, cast, overload
from uuid import UUID

import attrs

# By its whole name: what it has is loaded when it is first used, and `Context.boxes` is something else.
import boxflow.boxes
from boxflow.codec import ANY, decode_value, encode_loose, return_type
from boxflow.errors import (
    BoxFileNotFoundError,
    BoxNotFoundError,
    BoxPathError,
    BoxStateError,
    ChildFailedError,
    ConfigurationError,
    EncodeError,
    ImageNotFoundError,
    JobLostError,
    JobNotFoundError,
    NestedStepError,
    NotDurableError,
    NotSupportedError,
    RunEndedError,
    SandboxUnavailableError,
    SnapshotNotFoundError,
    StepFailedError,
    StepInterruptedError,
    StepNotRunningError,
    StepTimeoutError,
    WaitTimeoutError,
)
from boxflow.failure import printable
from boxflow.journal import CancelCall, ChildCall, MailWait, Operation, SleepCall, StepCall
from boxflow.loop import Evicted
from boxflow.mail import Notified, Webhook, WebhookCheck, WebhookRequest
from boxflow.model import (
    ChildEnded,
    Duration,
    EventArrived,
    RunStatus,
    StepDone,
    StepFailed,
    WebhookArrived,
    seconds,
    utc,
)
from boxflow.retry import Retry
from boxflow.web import Response
from boxflow.webhook_checks import SecretVerifier, Verifier, webhook_check
from boxflow.webhook_signatures import Scheme
from boxflow.workflow import I, O, Workflow, encode_payload

if TYPE_CHECKING:
    from boxflow.execution import Execution

logger = logging.getLogger("boxflow.workflow")

R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

DELETE_RETRY = Retry(attempts=None, delay=1.0, factor=2.0, max_delay=60.0, jitter=0.0)
"""A box is deleted however long its sandbox is away: nothing else may end the run before."""


BOX_ERRORS: Mapping[str, Callable[[str], Exception]] = {"ConfigurationError": ConfigurationError} | {
    kind.__name__: kind.told
    for kind in (
        BoxFileNotFoundError,
        BoxNotFoundError,
        BoxPathError,
        BoxStateError,
        ImageNotFoundError,
        JobLostError,
        JobNotFoundError,
        NotSupportedError,
        SandboxUnavailableError,
        SnapshotNotFoundError,
    )
}
"""Errors of boxes that reach a body as themselves."""


MAX_REFUSALS = 1000
"""How often a body that is thrown out of memory is told so at its calls, before it is left waiting instead."""


@attrs.frozen(kw_only=True)
class StepInfo:
    """What a step may know about itself.

    :param attempt: 1 for the first try
    :param idempotency_key: the same text on every attempt and after every crash; send it along with side effects
    """

    run_id: str
    name: str
    occurrence: int
    attempt: int
    idempotency_key: str


current_step: ContextVar[tuple[str, str, int, int]] = ContextVar("boxflow_step")
"""Run, name, occurrence and attempt: what `step()` is made from when a step asks, which few do."""


def step() -> StepInfo:
    """The step that is running here.

    :raises StepNotRunningError: called outside of a function that `ctx.run` runs
    """
    info = current_step.get(None)
    if info is None:
        raise StepNotRunningError("step() was called outside of a step; call it in a function that `ctx.run` runs")
    run_id, name, occurrence, attempt = info
    return StepInfo(
        run_id=run_id,
        name=name,
        occurrence=occurrence,
        attempt=attempt,
        idempotency_key=f"{run_id}:{name}:{occurrence}",
    )


class Services(Protocol):
    """What a context asks of its engine. Everything async here runs on the host loop, inside a step."""

    boxes: boxflow.boxes.Boxes

    async def send(self, event_id: str, data: bytes, *, run_id: str | None, source: str) -> Notified: ...

    def webhook(self, run_id: str, key: str, check: WebhookCheck | None) -> Webhook: ...

    def find_workflow(self, workflow: Workflow[Any, Any] | str) -> Workflow[Any, Any]: ...

    async def create_box(self, run_id: str, box_id: str, name: str, spec: boxflow.boxes.BoxSpec) -> None: ...

    async def delete_box(self, run_id: str, box_id: str) -> None: ...

    def box(self, box_id: str, name: str, spec: boxflow.boxes.BoxSpec) -> boxflow.boxes.Box: ...

    def box_id(self, run_id: str, name: str, occurrence: int) -> str: ...

    async def call(
        self,
        url: str,
        method: str,
        headers: Mapping[str, str],
        json: bytes | None,
        content: bytes | None,
        timeout_s: float,
    ) -> Response: ...


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that says nothing while recorded outcomes are replayed; its records carry `run_id` and `workflow`."""

    def __init__(self, execution: Execution) -> None:
        record = execution.record
        super().__init__(logger, {"run_id": record.run_id, "workflow": record.workflow})
        self._execution = execution

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name logging gives it
        return not self._execution.replaying and super().isEnabledFor(level)


class Context:
    """The durable side of a workflow body. Made by the engine, one for each run; use it in the body only."""

    def __init__(self, execution: Execution, services: Services) -> None:
        record = execution.record
        self.run_id: str = record.run_id
        self.workflow: str = record.workflow
        self.labels: tuple[str, ...] = record.labels
        #: Silent while recorded outcomes are replayed.
        self.log: logging.LoggerAdapter[logging.Logger] = RunLogger(execution)
        #: The engine's boxes; for boxes of this run, use `box`.
        self.boxes: boxflow.boxes.Boxes = services.boxes
        self._execution = execution
        self._services = services
        self._refusals = 0
        self._random: random.Random | None = None

    def __repr__(self) -> str:
        return f"<Context of run {self.run_id!r}>"

    # --- steps --------------------------------------------------------------------------------------------------------

    @overload
    async def run(
        self,
        name: str,
        fn: Callable[[*Ts], Awaitable[R]],
        /,
        *args: *Ts,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        type: object = None,
        at_most_once: bool = False,
    ) -> R: ...

    @overload
    async def run(
        self,
        name: str,
        fn: Callable[[*Ts], R],
        /,
        *args: *Ts,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        type: object = None,
        at_most_once: bool = False,
    ) -> R: ...

    async def run(
        self,
        name: str,
        fn: Callable[[*Ts], Any],
        /,
        *args: *Ts,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        type: object = None,
        at_most_once: bool = False,
    ) -> Any:
        """Run `fn(*args)` as a step: its outcome is recorded once, and found again on replay.

        A coroutine function runs on the host's loop, a plain function in a worker thread. The value that arrives went
        through the codec: it has the type of *fn*'s return annotation, or *type*.

        :param retry: how often and when it is tried again; the workflow's `retry=` by default, else one attempt
        :param timeout: for each attempt, in seconds, as `timedelta` or as text (`"30s"`)
        :param at_most_once: never start it a second time after a crash; raise `StepInterruptedError` instead
        :raises StepFailedError: the last attempt failed (`StepTimeoutError`: ran into *timeout*)
        :raises NestedStepError: called inside a step
        """
        self._enter(name)
        call = StepCall(
            fn,
            args,
            retry=retry,
            timeout_s=None if timeout is None else seconds(timeout),
            type=return_type(fn) if type is None else type,
            at_most_once=at_most_once,
        )
        # As `_step` does it; two coroutines fewer for what bodies do most.
        execution = self._execution
        execution.issue(name, call)
        try:
            outcome = await call.future
        except asyncio.CancelledError:
            execution.give_up(call)
            raise
        if outcome.__class__ is StepDone:
            return decode_value(outcome.value, call.type)
        raise _step_error(cast(StepFailed, outcome))

    async def _step(self, name: str, call: StepCall) -> Any:
        outcome = await self._outcome(name, call)
        if outcome.__class__ is StepDone:
            return decode_value(outcome.value, call.type)
        raise _step_error(cast(StepFailed, outcome))

    async def _outcome(self, name: str, operation: Operation) -> Any:
        """Issue *operation* and wait for its outcome; give it up when the waiting is cancelled."""
        execution = self._execution
        execution.issue(name, operation)
        try:
            return await operation.future
        except asyncio.CancelledError:
            execution.give_up(operation)
            raise

    def _enter(self, name: str) -> None:
        """Refuse a durable call that is made in the wrong place."""
        execution = self._execution
        if _get_running_loop() is not execution.loop:
            raise self._misplaced(name)
        if execution.loop.evicting:
            self._refusals += 1
            if self._refusals <= MAX_REFUSALS:
                raise Evicted
            return  # The body catches everything and calls again: let it wait, so that it can be thrown away there.
        if execution.closed:
            raise RunEndedError(
                f"{name!r} was called after run {self.run_id!r} had ended; await every task in the body"
            )
        if not _is_text(name):
            kind = "text without lone surrogates" if name else "non-empty text"
            raise ConfigurationError(f"a durable call needs a name, a {kind}; got {name!r}")

    def _misplaced(self, name: str) -> Exception:
        running = current_step.get(None)
        if running is not None:
            return NestedStepError(
                f"{name!r} was called inside step {running[1]!r}; steps do not nest: return from the step, "
                "then make the call in the workflow body"
            )
        if self._execution.closed:
            return RunEndedError(
                f"{name!r} was called on the context of run {self.run_id!r}, which has ended; "
                "make durable calls in the workflow body only"
            )
        return NotDurableError(
            f"{name!r} was called outside of the workflow body of run {self.run_id!r}; a context works only in its "
            "body, on the run's own event loop"
        )

    @property
    def random(self) -> random.Random:
        """Seeded by the run's id: the same numbers on replay. A fork draws those of its past, then its own."""
        if self._random is None:
            # When it is first asked for: seeding takes a tenth of the time of a short run, and few draw.
            record = self._execution.record
            self._random = random.Random(record.forked[0][0] if record.forked else record.run_id)
        return self._random

    # --- time ---------------------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """The journal's time: when the newest outcome was recorded, as an aware UTC time. The same on replay."""
        return utc(self._execution.loop.time())

    async def sleep(self, name: str, delay: Duration) -> None:
        """Sleep for *delay*, durably: the process may end and start again meanwhile."""
        self._enter(name)
        await self._sleep_until(name, self._execution.loop.time() + seconds(delay))

    async def sleep_until(self, name: str, when: datetime) -> None:
        """Sleep until *when*, an aware time; at once when it is past.

        :raises ConfigurationError: *when* is naive
        """
        self._enter(name)
        if when.tzinfo is None:
            raise ConfigurationError(f"sleep {name!r} got the naive time {when!r}; give it a timezone, such as UTC")
        await self._sleep_until(name, when.astimezone(UTC).timestamp())

    async def _sleep_until(self, name: str, when: float) -> None:
        loop = self._execution.loop
        sleep = SleepCall()
        handle = None
        self._execution.issue(name, sleep)
        if when > loop.time():
            sleep.when = when
        handle = loop.call_at_named(when, sleep.key, _wake, sleep.future)
        try:
            await sleep.future
        finally:
            handle.cancel()
            self._execution.give_up(sleep)

    # --- events, webhooks ---------------------------------------------------------------------------------------------

    @overload
    async def wait_for_event(
        self, name: str, event_id: str, *, type: type[T], timeout: Duration | None = None
    ) -> T: ...

    @overload
    async def wait_for_event(
        self, name: str, event_id: str, *, type: object = ANY, timeout: Duration | None = None
    ) -> Any: ...

    async def wait_for_event(
        self, name: str, event_id: str, *, type: object = ANY, timeout: Duration | None = None
    ) -> Any:
        """The data of the next event sent to *event_id*, decoded to *type* (plain JSON data by default).

        An event sent before the wait counts. Each event goes to every run that waits when it comes, or is kept for one.

        :raises WaitTimeoutError: none came within *timeout*
        :raises DecodeError: its data does not fit *type*
        """
        self._enter(name)
        _check_subject(event_id, "event_id")
        outcome = await self._mail(name, MailWait("event", event_id), f"event {event_id!r}", timeout)
        return decode_value(cast(EventArrived, outcome).value, type)

    @overload
    async def create_webhook(
        self, name: str, *, verify: Scheme | None = None, secret: str | None = None
    ) -> Webhook: ...

    @overload
    async def create_webhook(self, name: str, *, verify: Verifier) -> Webhook: ...

    @overload
    async def create_webhook(self, name: str, *, verify: SecretVerifier, secret: str) -> Webhook: ...

    async def create_webhook(
        self, name: str, *, verify: Scheme | Verifier | SecretVerifier | None = None, secret: str | None = None
    ) -> Webhook:
        """A URL that belongs to this run; each call to it is kept for `wait_for_webhook`.

        It may be called before the wait, and more than once. Without `Engine(base_url=...)` the URL is a path only.

        :param verify: check who calls, before the call is kept: `"github"`, `"slack"`, `"standard-webhooks"`, or a
            function that stands at the top of a module. It gets the `WebhookRequest` (and the secret, where `secret=`
            is given), and returns the call's id, so that the same call counts once; True when it has none; False to
            refuse it. A coroutine function runs on the host's loop, a plain one in a worker thread, for 10 s at most
        :param secret: `"$NAME"`: the variable of the engine's environment that holds the secret, read at each call. By
            default `$GITHUB_WEBHOOK_SECRET`, `$SLACK_SIGNING_SECRET`, `$WEBHOOK_SECRET`
        :raises ConfigurationError: no such scheme, no such way to name a secret, or a function that has no name
        """
        self._enter(name)
        check = webhook_check(verify, secret)
        counted = f"webhook:{name}"
        occurrence = self._execution.journal.count(counted)
        return self._services.webhook(self.run_id, name if occurrence == 1 else f"{name}#{occurrence}", check)

    async def wait_for_webhook(self, name: str, webhook: Webhook, *, timeout: Duration | None = None) -> WebhookRequest:
        """The next call of *webhook*, oldest first; each wait takes one.

        :raises WaitTimeoutError: none came within *timeout*
        """
        self._enter(name)
        outcome = await self._mail(
            name, MailWait("webhook", webhook.name), f"call of webhook {webhook.name!r}", timeout
        )
        return cast(WebhookRequest, decode_value(cast(WebhookArrived, outcome).value, WebhookRequest))

    async def _mail(self, name: str, wait: MailWait, what: str, timeout: Duration | None) -> object:
        if timeout is None:
            return await self._outcome(name, wait)
        timeout_s = seconds(timeout)
        loop = self._execution.loop
        self._execution.issue(name, wait)
        wait.when = loop.time() + timeout_s
        handle = loop.call_at_named(wait.when, wait.key, _wake, wait.future)
        try:
            outcome = await wait.future
        finally:
            handle.cancel()
            if wait.key in self._execution.journal.pending:
                self._execution.give_up(wait)
        if outcome is None:
            raise WaitTimeoutError(name, what, timeout_s)
        return cast(object, outcome)

    async def notify(self, name: str, event_id: str, data: object = None, *, run_id: str | None = None) -> Notified:
        """Send *data* to whoever waits for *event_id*; kept for the next wait when nobody does. A step.

        :param run_id: send it to that run's own mailbox only
        """
        self._enter(name)
        _check_subject(event_id, "event_id")
        encoded = encode_loose(data)

        async def send() -> Notified:
            return await self._services.send(event_id, encoded, run_id=run_id, source=step().idempotency_key)

        return cast(Notified, await self._internal(name, send, type=Notified))

    # --- children, calls, cancel --------------------------------------------------------------------------------------

    @overload
    async def invoke(
        self, name: str, workflow: Workflow[I, O], payload: I = ..., *, run_id: str | None = None
    ) -> O: ...

    @overload
    async def invoke(self, name: str, workflow: str, payload: object = ..., *, run_id: str | None = None) -> Any: ...

    async def invoke(
        self, name: str, workflow: Workflow[Any, Any] | str, payload: object = ..., *, run_id: str | None = None
    ) -> Any:
        """Run another workflow as a child with a journal of its own, and return its result.

        Its id is `<this run's id>/<name>` unless *run_id* says otherwise. Cancelling the wait cancels the child.

        :raises ChildFailedError: it failed, or was cancelled
        """
        self._enter(name)
        found = self._services.find_workflow(workflow)
        encoded = encode_payload(found, payload)
        if run_id is not None:
            _check_subject(run_id, "run_id")
        else:
            occurrence = self._execution.journal.occurrence_of_next(name)
            run_id = f"{self.run_id}/{name}" + ("" if occurrence == 1 else f"#{occurrence}")
        call = ChildCall(found.name, found.version if isinstance(workflow, Workflow) else None, encoded, run_id)
        self._execution.issue(name, call)
        try:
            outcome: ChildEnded = await asyncio.shield(call.future)
        except asyncio.CancelledError:
            # The child is asked to end, and stays ours until it has: the run does not end before its children.
            self._execution.give_up_child(call)
            raise
        if outcome.status == RunStatus.COMPLETED:
            return decode_value(outcome.value, found.return_type)
        raise ChildFailedError(name, run_id=outcome.run_id, status=outcome.status, error=outcome.error, seq=outcome.seq)

    async def call(
        self,
        name: str,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        json: object = ...,
        content: bytes | str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
    ) -> Response:
        """Make an HTTP request as a step, and keep its response, whatever its status.

        With *retry*, answers that ask for another try (408, 425, 429, 500, 502, 503, 504) are failed attempts, and a
        `Retry-After` header is followed. A request that got no answer is a failed attempt always.

        :param json: a body, sent as `application/json`
        :param timeout: for the whole exchange; 60 seconds by default
        """
        self._enter(name)
        body_json = None if json is ... else encode_loose(json)
        body = content.encode() if isinstance(content, str) else content
        timeout_s = 60.0 if timeout is None else seconds(timeout)
        policy = retry or self._execution.workflow.retry

        async def send() -> Response:
            response = await self._services.call(url, method, dict(headers or {}), body_json, body, timeout_s)
            if policy is not None:
                response.raise_for_retry()
            return response

        return cast(Response, await self._internal(name, send, type=Response, retry=retry, timeout_s=timeout_s))

    async def cancel(self, reason: str | None = None) -> None:
        """Cancel this run: `CancelledError` is raised here, and `finally` blocks run as for any other cancel."""
        self._enter("cancel")
        await self._outcome("cancel", CancelCall(None if reason is None else printable(reason)))

    async def _internal(
        self,
        name: str,
        fn: Callable[[], Awaitable[Any]],
        *,
        type: object,
        retry: Retry | None = None,
        timeout_s: float | None = None,
        is_job: bool = False,
    ) -> Any:
        call = StepCall(fn, (), retry=retry, timeout_s=timeout_s, type=type, at_most_once=False, is_job=is_job)
        return await self._step(name, call)

    # --- values that must not change on replay ------------------------------------------------------------------------

    def uuid4(self) -> UUID:
        """A random UUID, the same on replay."""
        return UUID(int=self.random.getrandbits(128), version=4)

    def patched(self, change_id: str) -> bool:
        """Whether this run is new enough for the change *change_id*.

        False for a run that was past this line before the change was deployed, True for every other: the answer is
        recorded, and stays. Keep the old branch until no run answers False.
        """
        _check_subject(change_id, "change_id")
        return self._execution.patched(change_id)

    # --- boxes --------------------------------------------------------------------------------------------------------

    def box(self, name: str, **options: Unpack[boxflow.boxes.BoxOptions]) -> BoxOpening:
        """A box of this run: `async with ctx.box("a") as box:` deletes it at the end of the block.

        `box = await ctx.box("a")` keeps it until the run ends. In every case it is recorded before it is created, and
        deleted before the run reaches a final status, unless `keep=True`.

        :param options: as for `Boxes.create`; see `BoxOptions`
        :raises ConfigurationError: *options* contradict each other
        """
        return BoxOpening(self, name, boxflow.boxes.box_spec(options))

    async def box_call(self, name: str, fn: Callable[[], Awaitable[T]], *, type: object, is_job: bool) -> T:
        """How a `Box` makes a call durable when it is used in the body; not for users."""
        self._enter(name)
        execution = self._execution

        async def carried_out() -> T:
            boxflow.boxes.durable_call.set(boxflow.boxes.DurableCall(step().idempotency_key, lambda: execution.evicted))
            return await fn()

        try:
            # A job's step knows by itself when it may leave its job behind: it outlives this execution.
            result = cast(T, await self._internal(name, fn if is_job else carried_out, type=type, is_job=is_job))
        except StepFailedError as error:
            # A missing file is a missing file, in a body as in a step.
            told_again = BOX_ERRORS.get(error.cause_type)
            if told_again is None:
                raise
            raise told_again(error.cause_message) from error
        if name.endswith(".delete"):
            # Deleted by hand: the end of the run has nothing left to do for it.
            owned = [box_id for box_id, box in self._execution.boxes.items() if f"{box}.delete" == name]
            for box_id in owned[:1]:
                del self._execution.boxes[box_id]
        return result

    async def open_box(self, name: str, spec: boxflow.boxes.BoxSpec) -> boxflow.boxes.Box:
        """Create the box as a step; `ctx.box` is the public form."""
        step_name = f"{name}.create"
        self._enter(step_name)
        occurrence = self._execution.journal.occurrence_of_next(step_name)
        box_id = self._services.box_id(self.run_id, name, occurrence)
        if not spec.keep:
            self._execution.boxes[box_id] = name

        async def create() -> None:
            await self._services.create_box(self.run_id, box_id, name, spec)

        await self._internal(step_name, create, type=None, retry=Retry(attempts=3, delay=1.0))
        return self._services.box(box_id, name, spec)

    async def close_box(self, box_id: str, name: str) -> None:
        """Delete the box as a step, however often that must be tried."""

        async def delete() -> None:
            await self._services.delete_box(self.run_id, box_id)

        await self._internal(f"{name}.delete", delete, type=None, retry=DELETE_RETRY)
        self._execution.boxes.pop(box_id, None)


class BoxOpening:
    """A box that is about to be made: await it, or enter it."""

    def __init__(self, ctx: Context, name: str, spec: boxflow.boxes.BoxSpec) -> None:
        self._ctx = ctx
        self._name = name
        self._spec = spec
        self._box: boxflow.boxes.Box | None = None

    def __await__(self) -> Generator[Any, None, boxflow.boxes.Box]:
        return self._ctx.open_box(self._name, self._spec).__await__()

    async def __aenter__(self) -> boxflow.boxes.Box:
        self._box = await self._ctx.open_box(self._name, self._spec)
        return self._box

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Leaving memory is not leaving the block.
        if isinstance(error, (Evicted, GeneratorExit)) or self._box is None:
            return
        if not self._spec.keep:
            await self._ctx.close_box(self._box.id, self._name)


def _wake(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)


def _is_text(name: object) -> bool:
    if not isinstance(name, str) or not name:
        return False
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        # Lone surrogates have no UTF-8 form: no store could keep them.
        return False
    return True


def _check_subject(text: object, what: str) -> None:
    if not _is_text(text):
        raise ConfigurationError(f"{what}={text!r} must be a non-empty text without lone surrogates")


def _step_error(outcome: StepFailed) -> StepFailedError:
    kind = {"error": StepFailedError, "timeout": StepTimeoutError, "interrupted": StepInterruptedError}[outcome.reason]
    return kind(
        outcome.name,
        occurrence=outcome.occurrence,
        attempts=outcome.attempt,
        cause_type=outcome.error.type,
        cause_message=outcome.error.message,
        traceback=outcome.error.traceback,
        seq=outcome.seq,
    )


__all__ = ["BoxOpening", "Context", "EncodeError", "Services", "StepInfo", "current_step", "step"]
