"""A run as its user holds it: ask how it stands, wait for its result, follow it, steer it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import attrs

from boxflow.codec import decode_value
from boxflow.errors import (
    RunCancelledError,
    RunDivergedError,
    RunFailedError,
    RunNotFoundError,
    RunStateError,
    RunTimeoutError,
)
from boxflow.model import Duration, Failure, Head, Outcome, RunStatus, StepDone, seconds, utc
from boxflow.model import RunRecord as StoredRecord
from boxflow.ports import StoredRun

if TYPE_CHECKING:
    from boxflow.boxes import RunUsage

# Covariant: a run that results in a text is a run that results in an object.
O_co = TypeVar("O_co", covariant=True)

AT_ONCE = 1000
AT_ONCE_BYTES = 4 * 1024 * 1024
"""How much of a journal is held for who reads it slowly: so many outcomes, or so many bytes of their values."""


class Hub(Protocol):
    """What a run's handle asks of its engine."""

    async def find(self, run_id: str) -> StoredRun | None: ...

    def live_status(self, run_id: str, stored: Head) -> RunStatus: ...

    async def read(self, run_id: str, after: int = 0) -> list[Outcome]: ...

    async def read_lean(self, run_id: str, after: int) -> Sequence[Outcome]: ...

    async def filled(self, run_id: str, outcome: Outcome) -> Outcome: ...

    async def children_of(self, run_id: str) -> list[StoredRun]: ...

    def follow(self, run_id: str, *, until_end: bool = False) -> asyncio.Event: ...

    def unfollow(self, run_id: str, change: asyncio.Event) -> None: ...

    def result_type(self, record: StoredRecord) -> object: ...

    async def result_bytes(self, run_id: str, head: Head) -> bytes: ...

    async def cancel_run(self, run_id: str, reason: str | None) -> None: ...

    async def resume_run(self, run_id: str, *, accept_divergence: bool) -> None: ...

    async def restart_run(self, run_id: str) -> Run[Any]: ...

    async def fork_run(self, run_id: str, *, before: str, occurrence: int) -> Run[Any]: ...

    async def forget_run(self, run_id: str) -> None: ...


@attrs.frozen(kw_only=True)
class RunInfo:
    """A run as it stood when it was asked.

    :param parent: the id of the run whose child it is
    :param error: why it failed, was cancelled or diverged
    :param reason: of its cancellation, where one was given
    :param waiting: what it waits for, as `"event:<id>"`, `"webhook:<name>"`, `"child:<run id>"`
    :param length: how many outcomes its journal has
    :param due: the earliest instant at which it has something to do by itself
    """

    id: str
    workflow: str
    version: str
    labels: tuple[str, ...]
    status: RunStatus
    created_at: datetime
    updated_at: datetime
    parent: str | None = None
    error: Failure | None = None
    reason: str | None = None
    waiting: tuple[str, ...] = ()
    length: int = 0
    due: datetime | None = None


def run_info(record: StoredRecord, head: Head, status: RunStatus) -> RunInfo:
    """A run as its record and its head tell it.

    :param status: as its engine knows it
    """
    return RunInfo(
        id=record.run_id,
        workflow=record.workflow,
        version=record.version,
        labels=record.labels,
        status=status,
        created_at=as_time(record.created_at),
        updated_at=as_time(head.updated_at or record.created_at),
        parent=record.parent,
        error=head.error,
        reason=head.reason,
        waiting=head.waiting,
        length=head.length,
        due=None if head.due is None else as_time(head.due),
    )


def as_time(at: float) -> datetime:
    """Seconds since the epoch as an aware UTC time; what lies beyond the calendar is its last moment."""
    try:
        return utc(at)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC)  # A delay that leads beyond the calendar.


class Run(Generic[O_co]):
    """One execution of a workflow. Only a handle: two of them may stand for the same run.

    :ivar id: unique in the store
    :ivar workflow: the workflow's name
    :ivar labels: as given to `Engine.start`
    :ivar is_new: whether the call that gave this handle has started it; False where it was there already
    """

    def __init__(self, hub: Hub, record: StoredRecord, *, is_new: bool = False) -> None:
        self.id = record.run_id
        self.workflow = record.workflow
        self.labels = record.labels
        self.is_new = is_new
        self._record = record
        self._hub = hub

    def __repr__(self) -> str:
        return f"<Run {self.id!r} of {self.workflow!r}>"

    async def status(self) -> RunStatus:
        """Where it stands now.

        :raises RunNotFoundError: it was pruned meanwhile
        """
        return self._hub.live_status(self.id, (await self._find()).head)

    async def info(self) -> RunInfo:
        """How it stands now: its status, what it waits for, why it failed.

        :raises RunNotFoundError: it was pruned meanwhile
        """
        stored = await self._find()
        return run_info(stored.record, stored.head, self._hub.live_status(self.id, stored.head))

    async def result(self, *, timeout: Duration | None = None) -> O_co:
        """What the workflow returned, once it has: decoded to its return annotation.

        :raises RunFailedError: an exception left the body
        :raises RunCancelledError: it was cancelled (`RunTimeoutError`: by the workflow's own timeout)
        :raises RunDivergedError: the code no longer matches its journal
        :raises TimeoutError: it did not end within *timeout*; the run goes on
        """
        if timeout is None:
            head = await self._ended()
        else:
            async with asyncio.timeout(seconds(timeout)):
                head = await self._ended()
        if head.status is RunStatus.COMPLETED:
            data = await self._hub.result_bytes(self.id, head)
            return cast(O_co, decode_value(data, self._hub.result_type(self._record)))
        raise self._error(head)

    async def result_json(self) -> bytes:
        """What the workflow returned, as the JSON that is recorded; does not wait.

        :raises RunStateError: it has not completed
        """
        head = (await self._find()).head
        if head.status is not RunStatus.COMPLETED:
            raise RunStateError(f"run {self.id!r} is {head.status} and has no result; `result()` waits for one")
        return await self._hub.result_bytes(self.id, head)

    async def history(self) -> list[Outcome]:
        """Its journal, in order."""
        return await self._hub.read(self.id)

    async def watch(self, *, after: int = 0, follow: bool = True) -> AsyncGenerator[Outcome]:
        """Its outcomes from the first one on, then live; ends with the run (or its divergence).

        Leaving the loop early costs nothing and changes nothing. A reader that takes its time holds a bounded part of
        the journal, and nothing else.

        :param after: begin behind the outcome of this `seq`
        :param follow: False ends it with what is recorded already
        """
        seen = after
        change = self._hub.follow(self.id)
        try:
            while True:
                change.clear()
                head = (await self._find()).head
                if head.length > seen:
                    for outcome in _first_of(await self._hub.read_lean(self.id, seen)):
                        seen = outcome.seq
                        yield await self._hub.filled(self.id, outcome)
                    continue
                if not follow or head.status.is_final or head.status is RunStatus.DIVERGED:
                    return
                await change.wait()  # No deadline: it is the run's own, and the caller can leave at any time.
        finally:
            self._hub.unfollow(self.id, change)

    async def usage(self) -> RunUsage:
        """What its agents have used so far, those of its children included: tokens, and what they cost where known."""
        from boxflow.boxes import AGENT_STEP, RunRecord, RunUsage  # The agent half, which most programs do without.

        total = RunUsage()
        waiting = [self.id]
        while waiting:
            run_id = waiting.pop()
            for outcome in await self._hub.read(run_id):
                if isinstance(outcome, StepDone) and outcome.name.endswith(AGENT_STEP):
                    total += decode_value(outcome.value, RunRecord).used()
            waiting += [child.record.run_id for child in await self._hub.children_of(run_id)]
        return total

    async def cancel(self, reason: str | None = None) -> None:
        """Ask it to end: `CancelledError` reaches the body, its children and boxes go. No error when it is over.

        Returns when the request is durable; `result()` waits for the end.
        """
        await self._hub.cancel_run(self.id, reason)

    async def resume(self, *, accept_divergence: bool = False) -> None:
        """Go on from what failed, with the code that is deployed now: what had succeeded is not done again.

        :param accept_divergence: skip recorded outcomes that no longer have a place
        :raises RunStateError: it has neither failed nor diverged
        """
        await self._hub.resume_run(self.id, accept_divergence=accept_divergence)

    async def restart(self) -> Run[O_co]:
        """Begin anew, as a new run with the same payload and labels."""
        return cast("Run[O_co]", await self._hub.restart_run(self.id))

    async def fork(self, *, before: str, occurrence: int = 1) -> Run[O_co]:
        """A new run that shares this one's past up to the call *before*, and makes that call again.

        :raises LookupError: the journal has no outcome of that call
        :raises RunStateError: a box was open at that point
        """
        return cast("Run[O_co]", await self._hub.fork_run(self.id, before=before, occurrence=occurrence))

    async def delete(self) -> None:
        """Forget it, with its journal. Only once it is over, and no parent will ask for it any more.

        :raises RunStateError: it, or the run whose child it is, is not over; cancel that first
        """
        await self._hub.forget_run(self.id)

    async def _find(self) -> StoredRun:
        stored = await self._hub.find(self.id)
        if stored is None:
            raise RunNotFoundError(self.id)
        return stored

    async def _ended(self) -> Head:
        change = self._hub.follow(self.id, until_end=True)
        try:
            while True:
                change.clear()
                head = (await self._find()).head
                if head.status.is_final or head.status is RunStatus.DIVERGED:
                    return head
                await change.wait()  # No deadline: `result(timeout=...)` sets one.
        finally:
            self._hub.unfollow(self.id, change)

    def _error(self, head: Head) -> Exception:
        error = head.error
        match head.status:
            case RunStatus.DIVERGED:
                return RunDivergedError(
                    f"run {self.id!r} of {self.workflow!r} diverged: {error.message if error else ''}",
                    run_id=self.id,
                    error=error,
                )
            case RunStatus.CANCELLED:
                kind = RunTimeoutError if head.timed_out else RunCancelledError
                why = f": {head.reason}" if head.reason else ""
                return kind(
                    f"run {self.id!r} of {self.workflow!r} was cancelled{why}",
                    run_id=self.id,
                    error=error,
                    reason=head.reason,
                )
            case _:
                return RunFailedError(
                    f"run {self.id!r} of {self.workflow!r} failed: {error}; "
                    "mend the cause and `resume()`, or `restart()`",
                    run_id=self.id,
                    error=error,
                )


def _first_of(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """As many of *outcomes* as are held at once, and at least one."""
    held: list[Outcome] = []
    size = 0
    for outcome in outcomes[:AT_ONCE]:
        size += len(bytes(getattr(outcome, "value", b"")))
        if held and size > AT_ONCE_BYTES:
            break
        held.append(outcome)
    return held
