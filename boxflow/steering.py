"""How a run is steered from outside: cancel, resume, restart, fork."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol
from weakref import WeakValueDictionary

import msgspec

from boxflow.errors import DivergenceError, RunDivergedError, RunNotFoundError, RunStateError
from boxflow.execution import Execution
from boxflow.journal import Key
from boxflow.kept_mail import Mail
from boxflow.mailroom import Mailroom
from boxflow.model import (
    Blob,
    CancelAsked,
    ChildEnded,
    EventArrived,
    Failure,
    Head,
    Outcome,
    RunRecord,
    RunResumed,
    RunStatus,
    StepDone,
    WebhookArrived,
    microseconds,
)
from boxflow.ports import Clock, Store, StoredRun
from boxflow.resume import (
    ancestry,
    counting,
    dropped_by_resume,
    given_up_reason,
    mail_of,
    prefix_before,
    unfinished_children,
)
from boxflow.runner import Arrival, Runner


class Hub(Protocol):
    """What steering asks of its engine."""

    clock: Clock
    store: Store
    owner: str

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]: ...

    def hold(self, run_id: str) -> AbstractAsyncContextManager[Runner | None]: ...

    async def read(self, run_id: str, after: int = 0) -> list[Outcome]: ...

    async def scratch(self, record: RunRecord) -> Execution: ...

    async def over(self, run_id: str, head: Head) -> None: ...

    def launch(self, record: RunRecord, head: Head) -> None: ...

    def changed(self, run_id: str, *, ended: bool = False) -> None: ...

    def new_id(self) -> str: ...

    def check(self) -> None: ...


class Steering:
    """Acts on stored runs; what drives them takes notice."""

    def __init__(self, hub: Hub, mailroom: Mailroom) -> None:
        self._hub = hub
        self._mailroom = mailroom
        #: Held by who reads a run that nobody drives and then acts on it: two who do so must not both append.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def stored(self, run_id: str) -> StoredRun:
        """:raises RunNotFoundError: no such run."""
        self._hub.check()
        stored = await self._hub.store.get_run(run_id)
        if stored is None:
            raise RunNotFoundError(run_id)
        return stored

    def _now(self) -> float:
        return microseconds(self._hub.clock.now())

    # --- cancel ----------------------------------------------------------------------------------------------------

    async def cancel(self, run_id: str, reason: str | None, *, once: bool = False) -> None:
        """Record that the run is to be cancelled; nothing when it is over.

        :param once: nothing, too, when it was asked before: a second cancel would interrupt the run's cleaning up
        """
        while True:
            stored = await self.stored(run_id)
            head = stored.head
            if head.status.is_final:
                return
            has_begun = head.status is not RunStatus.PENDING or stored.record.start_at <= self._hub.clock.now()
            if head.status is RunStatus.DIVERGED or not has_begun:
                if await self._end_unbegun(head, run_id, reason):
                    return
                continue
            async with self._hub.hold(run_id) as runner:
                if runner is not None:
                    if once and runner.execution.cancel_asked:
                        return
                    if await self._ask(runner, reason):
                        return
            # When its code is not here, nothing of it can run, and its boxes go with it.
            if runner is None and await self._end_unbegun(head, run_id, reason):
                return

    async def _ask(self, runner: Runner, reason: str | None) -> bool:
        recorded: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        runner.arrive(Arrival(lambda seq, at: CancelAsked(seq=seq, at=at, reason=reason), done=recorded))
        return await recorded

    async def _end_unbegun(self, before: Head, run_id: str, reason: str | None) -> bool:
        """Cancel a run whose body does not run: it has not begun, or its code does not fit, or is not here.

        False, and nothing done, when its head is no longer *before*.
        """
        async with self._lock(run_id):
            stored = await self.stored(run_id)
            if stored.head != before:
                return False
            await self._append_cancelled(stored, reason)
            return True

    def _lock(self, run_id: str) -> asyncio.Lock:
        return self._locks.setdefault(run_id, asyncio.Lock())

    async def _append_cancelled(self, stored: StoredRun, reason: str | None) -> None:
        run_id, now = stored.record.run_id, self._now()
        fence = await self._hub.store.claim(run_id, self._hub.owner)
        seq = stored.head.length + 1
        head = Head(
            status=RunStatus.CANCELLED,
            length=seq,
            reason=reason,
            error=Failure(type="RunCancelledError", message=reason or "the run was cancelled"),
            updated_at=now,
        )
        changes = await self._mailroom.closing_changes(run_id)
        await self._hub.store.append(run_id, [CancelAsked(seq=seq, at=now, reason=reason)], head, fence, changes)
        await self._hub.over(run_id, head)

    # --- resume ----------------------------------------------------------------------------------------------------

    async def resume(self, run_id: str, *, accept_divergence: bool) -> None:
        """Go on from what failed, or after a divergence.

        :raises RunStateError: it has neither failed nor diverged
        """
        async with self._lock(run_id):
            await self._resume(run_id, accept_divergence)

    async def _resume(self, run_id: str, accept_divergence: bool, *, given_up_by: str | None = None) -> None:
        stored = await self.stored(run_id)
        head = stored.head
        was_given_up = given_up_by is not None and head.reason == given_up_reason(given_up_by)
        if head.status not in (RunStatus.FAILED, RunStatus.DIVERGED) and not was_given_up:
            raise RunStateError(
                f"run {run_id!r} is {head.status}; only a failed or diverged run is resumed. "
                "`restart()` begins it anew, `fork(before=...)` branches it"
            )
        everything = await self._hub.read(run_id)
        dropped: list[Outcome] = []
        if head.status.is_final:
            dropped = await self._dropped(stored, everything)
            await self._resume_children(run_id, dropped, accept_divergence)
        now = max(self._now(), everything[-1].at if everything else 0.0)
        resumed = RunResumed(
            seq=head.length + 1,
            at=now,
            dropped=tuple(outcome.seq for outcome in dropped),
            accept_divergence=accept_divergence,
        )
        fence = await self._hub.store.claim(run_id, self._hub.owner)
        new = Head(status=RunStatus.RUNNING, length=resumed.seq, updated_at=now)
        mail = [_as_mail(outcome) for outcome in mail_of(dropped)]
        changes = self._mailroom.put_back(run_id, mail, resumed.seq)

        async def go_on() -> None:
            await self._hub.store.append(run_id, [resumed], new, fence, changes)
            self._hub.changed(run_id)
            self._hub.launch(stored.record, new)

        # A task of the engine's: who asked may be cancelled, and a resumed run that nobody drives would stand still.
        await asyncio.shield(self._hub.spawn(go_on()))

    async def _dropped(self, stored: StoredRun, everything: Sequence[Outcome]) -> list[Outcome]:
        scratch = await self._hub.scratch(stored.record)
        try:
            pending_before = _pending_before(scratch, everything)
            counted, head = counting(everything), stored.head
            if head.status is RunStatus.CANCELLED:
                asked = tuple(outcome.seq for outcome in counted if isinstance(outcome, CancelAsked))
                head = msgspec.structs.replace(head, causes=asked)
            return dropped_by_resume(counted, head, pending_before)
        except DivergenceError as error:
            run_id = stored.record.run_id
            raise RunDivergedError(f"run {run_id!r} cannot be resumed: {error}", run_id=run_id) from error
        finally:
            scratch.evict()

    async def _resume_children(self, run_id: str, dropped: Sequence[Outcome], accept_divergence: bool) -> None:
        """Have the children go on whose failure ended the body, and those that had to end because it did."""
        for child_id in unfinished_children(dropped):
            async with self._lock(child_id):
                child = await self._hub.store.get_run(child_id)
                if child is None:
                    continue
                head = child.head
                has_failed = head.status in (RunStatus.FAILED, RunStatus.DIVERGED)
                if has_failed or (head.status is RunStatus.CANCELLED and head.reason == given_up_reason(run_id)):
                    await self._resume(child_id, accept_divergence, given_up_by=run_id)

    # --- forget ----------------------------------------------------------------------------------------------------

    async def forget(self, run_id: str) -> None:
        """Remove a run that is over, with its journal.

        :raises RunStateError: it is not over, or its parent is not, and may yet ask how it ended
        """
        async with self._lock(run_id):
            stored = await self.stored(run_id)
            status = stored.head.status
            if not status.is_final:
                raise RunStateError(f"run {run_id!r} is {status}; only a run that is over is forgotten. `cancel()` it")
            parent_id = stored.record.parent
            parent = None if parent_id is None else await self._hub.store.get_run(parent_id)
            if parent is not None and not parent.head.status.is_final:
                raise RunStateError(
                    f"run {run_id!r} is a child of {parent_id!r}, which is {parent.head.status} and may ask how it "
                    "ended; forget it once that is over"
                )
            await self._hub.store.delete_run(run_id)
        self._hub.changed(run_id, ended=True)

    # --- fork ------------------------------------------------------------------------------------------------------

    async def fork(self, run_id: str, *, before: str, occurrence: int) -> RunRecord:
        """Create a run that shares the past of *run_id* up to a call."""
        stored = await self.stored(run_id)
        copied = prefix_before(await self._hub.store.read_journal(run_id), before, occurrence, run_id)
        store, new_id = self._hub.store, self._hub.new_id()
        record = msgspec.structs.replace(
            stored.record,
            run_id=new_id,
            parent=None,
            created_at=self._now(),
            forked=ancestry(stored.record, len(copied)),
        )
        # Not to be driven before its past is there: an engine that dies in between leaves a run that says so.
        unfinished = Failure(type="ForkInterrupted", message=f"the fork of {run_id!r} was interrupted; fork again")
        await store.create_run(record, Head(status=RunStatus.DIVERGED, error=unfinished))
        fence = await store.claim(new_id, self._hub.owner)
        for blob in _blobs(record, copied):
            await store.put_blob(new_id, await store.get_blob(run_id, blob))
        head = Head(status=RunStatus.RUNNING, length=len(copied), updated_at=self._now())
        await store.append(new_id, copied, head, fence)
        self._hub.launch(record, head)
        return record


def _pending_before(scratch: Execution, everything: Sequence[Outcome]) -> Callable[[int], frozenset[Key]]:
    def pending_before(position: int) -> frozenset[Key]:
        counted = scratch.prepare(everything)
        scratch.begin()
        for outcome in counted:
            if outcome.seq >= position:
                break
            scratch.deliver(outcome)
        return frozenset(scratch.journal.pending)

    return pending_before


def _as_mail(outcome: EventArrived | WebhookArrived) -> Mail:
    if isinstance(outcome, EventArrived):
        return Mail(kind="event", subject=outcome.event_id, data=bytes(outcome.value), source=outcome.source)
    return Mail(kind="webhook", subject=outcome.webhook, data=bytes(outcome.value))


def _blobs(record: RunRecord, outcomes: Sequence[Outcome]) -> list[Blob]:
    found = [record.payload_blob]
    found += [
        outcome.blob
        for outcome in outcomes
        if isinstance(outcome, (StepDone, EventArrived, WebhookArrived, ChildEnded))
    ]
    return [blob for blob in found if blob is not None]
