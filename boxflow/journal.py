"""Which operation does an outcome belong to? The keys, the pending operations, and divergence.

Every durable call of a body is an operation with the key `(name, occurrence)`, the occurrence counted in the order in
which the body issues calls of that name. A recorded outcome belongs to the operation with its key:

    recorded outcome's key is      then
    pending                        the operation is settled with it
    issued before, given up since  the outcome is ignored (the body stopped waiting: a timeout, a cancel, a race)
    never issued                   the code diverged from the journal

Pure: nothing here performs anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from boxflow.model import (
    ChildEnded,
    EventArrived,
    Outcome,
    StepDone,
    StepFailed,
    TimerFired,
    WebhookArrived,
    describe,
)
from boxflow.retry import Retry

Key: TypeAlias = tuple[str, int]
Settling: TypeAlias = StepDone | StepFailed | ChildEnded | EventArrived | WebhookArrived


class Operation:
    """One durable call of a body that has no outcome yet."""

    __slots__ = ("future", "given_up", "key", "started", "when")

    what = "call"

    def __init__(self) -> None:
        self.key: Key = ("", 0)
        self.future: asyncio.Future[Any]
        #: The instant at which the engine has something to do for it, besides what it waits for.
        self.when: float | None = None
        #: The body no longer waits for it.
        self.given_up = False
        #: The engine has begun to perform it, in this life.
        self.started = False

    def __str__(self) -> str:
        return f"{self.what} {describe(*self.key)}"


class StepCall(Operation):
    """A step that must run, or is running."""

    __slots__ = (
        "args",
        "at_most_once",
        "attempt",
        "fn",
        "interrupted",
        "is_job",
        "retry",
        "running",
        "task",
        "timeout_s",
        "type",
    )

    what = "step"

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        retry: Retry | None,
        timeout_s: float | None,
        type: object,
        at_most_once: bool,
        is_job: bool = False,
    ) -> None:
        super().__init__()
        self.fn = fn
        self.args = args
        self.retry = retry
        self.timeout_s = timeout_s
        self.type = type
        self.at_most_once = at_most_once
        #: It waits for a job of a box, and goes on without the run; see job_steps.py.
        self.is_job = is_job
        #: How many attempts have ended, as recorded.
        self.attempt = 0
        #: An earlier life recorded the start of an attempt, but not its end.
        self.interrupted = False
        self.task: asyncio.Task[None] | None = None
        #: The task has had its first turn.
        self.running = False


class SleepCall(Operation):
    """A named sleep; `when` is the instant at which it ends."""

    __slots__ = ()

    what = "sleep"


class MailWait(Operation):
    """A wait for an event, or for mail in the run's own box (a webhook's calls).

    :param token: what the run waits for, as it stands in `Head.waiting`
    """

    __slots__ = ("claimed", "kind", "subject")

    def __init__(self, kind: Literal["event", "webhook"], subject: str) -> None:
        super().__init__()
        self.kind: Literal["event", "webhook"] = kind
        self.subject = subject
        #: Something is on its way to it; the next arrival is for another wait.
        self.claimed = False

    @property
    def what(self) -> str:  # type: ignore[override] # a read-only text either way
        return f"wait for {self.kind} {self.subject!r}"


class ChildCall(Operation):
    """A child run that must be started, or has not ended."""

    __slots__ = ("answered", "child_id", "payload", "version", "workflow")

    what = "child"

    def __init__(self, workflow: str, version: str | None, payload: bytes, child_id: str) -> None:
        super().__init__()
        self.workflow = workflow
        self.version = version
        self.payload = payload
        self.child_id = child_id
        #: Its end is on its way into the journal.
        self.answered = False


class CancelCall(Operation):
    """The body asked to be cancelled itself."""

    __slots__ = ("reason",)

    what = "cancel"

    def __init__(self, reason: str | None) -> None:
        super().__init__()
        self.reason = reason


class UnknownCallError(Exception):
    """The outcome belongs to no call that the body has issued. Caught by the execution, never by users."""


class Journal:
    """The pending operations of one body, and how often each name was issued."""

    def __init__(self) -> None:
        self.pending: dict[Key, Operation] = {}
        self._issued: dict[str, int] = {}

    def issue(self, name: str, operation: Operation) -> None:
        """Give *operation* its key, and wait for its outcome."""
        occurrence = self._issued.get(name, 0) + 1
        self._issued[name] = occurrence
        operation.key = key = (name, occurrence)
        self.pending[key] = operation

    def count(self, name: str) -> int:
        """Count one more occurrence of *name*, for what has a key but no outcome."""
        self._issued[name] = occurrence = self._issued.get(name, 0) + 1
        return occurrence

    def occurrence_of_next(self, name: str) -> int:
        """The occurrence that the next operation of that name will have."""
        return self._issued.get(name, 0) + 1

    def forget(self, operation: Operation) -> None:
        """The body no longer waits for *operation*: an outcome that still comes is ignored."""
        operation.given_up = True
        self.pending.pop(operation.key, None)

    def was_issued(self, key: Key) -> bool:
        """Whether the body has issued that call, pending or not."""
        return key[1] <= self._issued.get(key[0], 0)

    def find(self, key: Key, kind: type[Operation]) -> Operation | None:
        """The pending operation of that key, or None when it was given up.

        :raises UnknownCallError: the body never issued it, or issued another kind of call under that name
        """
        operation = self.pending.get(key)
        if operation is None:
            if key[1] <= self._issued.get(key[0], 0):
                return None
            raise UnknownCallError
        if not isinstance(operation, kind):
            raise UnknownCallError
        return operation

    def settle(self, outcome: Settling) -> Operation | None:
        """Hand *outcome* to its operation; None when that was given up.

        :raises UnknownCallError: the body never issued it
        """
        key = (outcome.name, outcome.occurrence)
        operation = self.pending.get(key)
        if operation is None or not isinstance(operation, SETTLES[type(outcome)]):
            return self.find(key, SETTLES[type(outcome)])
        del self.pending[key]
        if not operation.future.done():
            operation.future.set_result(outcome)
        return operation


SETTLES: dict[type[Outcome], type[Operation]] = {
    StepDone: StepCall,
    StepFailed: StepCall,
    ChildEnded: ChildCall,
    EventArrived: MailWait,
    WebhookArrived: MailWait,
    TimerFired: Operation,
}
"""Which kind of operation each kind of outcome settles."""


def location(coroutine: object) -> str | None:
    """The innermost line of user code at which *coroutine* is suspended, as `file:line in function`."""
    found: str | None = None
    inner: Any = coroutine
    while inner is not None:
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None) or getattr(inner, "ag_frame", None)
        if frame is not None and not frame.f_globals.get("__name__", "").startswith(("boxflow.", "asyncio", "anyio")):
            found = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
        inner = (
            getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None) or getattr(inner, "ag_await", None)
        )
    return found
