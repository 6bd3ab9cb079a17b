"""How events and webhook calls find their waits, and are kept until one comes: none is lost, none arrives twice.

Whoever sends, and whoever begins to wait, holds the lock of the subject while it looks and acts. So a wait either sees
what was kept, or is seen by the next sending.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from boxflow.errors import EventsFullError, RunEndedError, RunNotFoundError
from boxflow.journal import MailWait
from boxflow.mail import Notified, mailbox_prefix
from boxflow.model import Change, Delete, Item, Put, RunStatus, Value
from boxflow.ports import Clock, RunQuery, Store
from boxflow.runner import Arrival, Runner, arrived

KEPT = "mail"
"""The collection in which mail waits for a wait."""

AT_ONCE = 100
"""How many runs are brought into memory at once for one event."""

Kind: TypeAlias = Literal["event", "webhook"]


class _Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One kept item: for whom, about what, until when."""

    kind: Kind
    subject: str
    owner: str = ""
    source: str | None = None
    expires_at: float
    data: msgspec.Raw


class Hub(Protocol):
    """What the mailroom asks of its engine."""

    clock: Clock
    store: Store

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]: ...

    def resident(self, run_id: str) -> Runner | None: ...

    async def rouse(self, run_id: str) -> Runner | None: ...

    def hold(self, run_id: str) -> AbstractAsyncContextManager[Runner | None]: ...

    def idle(self, runner: Runner) -> None: ...


class Mailroom:
    """Delivers mail, or keeps it.

    :param keep_s: how long an event that nobody waits for is kept
    :param max_kept: how many may be kept in all; beyond, senders get `EventsFullError`
    """

    def __init__(self, hub: Hub, *, keep_s: float, max_kept: int) -> None:
        self._hub = hub
        self._keep_s = keep_s
        self._max_kept = max_kept
        self._kept = 0
        self._last_stamp = 0
        self._waits: dict[str, dict[MailWait, Runner]] = {}
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    # --- waiting ---------------------------------------------------------------------------------------------------

    def await_mail(self, runner: Runner, wait: MailWait) -> None:
        """*wait* has begun: look whether something is kept for it."""
        self._waits.setdefault(_token(wait), {})[wait] = runner
        runner.checks += 1
        self._hub.spawn(self._look(runner, wait))

    def forget(self, wait: MailWait) -> None:
        """*wait* is over."""
        token = _token(wait)
        waits = self._waits.get(token)
        if waits is not None and waits.pop(wait, None) is not None and not waits:
            del self._waits[token]

    async def _look(self, runner: Runner, wait: MailWait) -> None:
        try:
            async with self._lock(_token(wait)):
                await self._take_kept(runner, wait)
        finally:
            runner.checks -= 1
        if not runner.is_over and runner.is_quiet:
            self._hub.idle(runner)

    async def _take_kept(self, runner: Runner, wait: MailWait) -> None:
        now = self._hub.clock.now()
        owners = (runner.run_id, "") if wait.kind == "event" else (runner.run_id,)
        for owner in owners:
            prefix = mailbox_prefix(owner, f"{wait.kind}:{wait.subject}")
            while items := await self._hub.store.list_items(KEPT, prefix=prefix, limit=1):
                if wait.given_up or wait.claimed or runner.is_over:
                    return
                kept = msgspec.json.decode(items[0].value, type=_Kept)
                gone = Delete(KEPT, items[0].key)
                if kept.expires_at < now or (kept.source is not None and kept.source in runner.execution.sources):
                    await self._hub.store.change_items([gone])
                    self._kept -= 1
                    continue
                if await self._hand(runner, wait, bytes(kept.data), kept.source, (gone,)):
                    self._kept -= 1
                return

    async def _hand(
        self, runner: Runner, wait: MailWait, data: bytes, source: str | None, changes: tuple[Change, ...] = ()
    ) -> bool:
        """Send *data* on its way to *wait*; True once it is recorded, False when the wait was given up before."""
        value, blob = await runner.keep(data)
        # Claimed and on its way in one breath: a sender that is cancelled leaves no wait claimed for nothing.
        wait.claimed = True
        recorded: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        runner.arrive(
            Arrival(
                arrived(wait, value, blob, source),
                wait,
                live=data if blob else None,
                changes=changes,
                done=recorded,
                alone=True,
            )
        )
        if not await recorded:
            return False
        self.forget(wait)
        return True

    # --- sending ---------------------------------------------------------------------------------------------------

    async def notify(self, event_id: str, data: bytes, *, source: str | None = None) -> Notified:
        """Hand an event to every run that waits for it, or keep it."""
        token = f"event:{event_id}"
        async with self._lock(token):
            woken = await self._wake_all(token, data, source)
            if not woken:
                await self._keep("event", event_id, "", data, source)
        return Notified(run_ids=tuple(woken), kept=not woken)

    async def send(self, run_id: str, kind: Kind, subject: str, data: bytes, *, source: str | None = None) -> Notified:
        """Hand mail to one run, or keep it in the run's own mailbox.

        :raises RunNotFoundError: no such run
        :raises RunEndedError: the run is over, and nothing will ever take it
        """
        token = f"{kind}:{subject}"
        async with self._lock(token):
            stored = await self._hub.store.get_run(run_id)
            if stored is None:
                raise RunNotFoundError(run_id)
            if stored.head.status.is_final:
                raise _over(run_id, stored.head.status, token)
            may_wait = self._hub.resident(run_id) is not None or token in stored.head.waiting
            if may_wait and await self._hand_to(run_id, token, data, source):
                return Notified(run_ids=(run_id,))
            await self._keep(kind, subject, run_id, data, source)
            await self._refuse_if_over(run_id, token)
        return Notified(kept=True)

    async def _refuse_if_over(self, run_id: str, token: str) -> None:
        """The run may have ended while its mail was kept: nothing will ever take it, and the sender is told so."""
        stored = await self._hub.store.get_run(run_id)
        if stored is not None and stored.head.status.is_final:
            await self._hub.store.change_items(await self.closing_changes(run_id))
            raise _over(run_id, stored.head.status, token)

    async def _wake_all(self, token: str, data: bytes, source: str | None) -> list[str]:
        waiting = {runner.run_id: None for runner in self._waits.get(token, {}).values()}
        after = None
        while True:
            found = await self._hub.store.find_runs(RunQuery(waiting_for=token, after=after))
            waiting.update((stored.record.run_id, None) for stored in found)
            if len(found) < RunQuery().limit:
                break
            after = found[-1].record.run_id
        ids, woken = list(waiting), list[str]()
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            taken = await asyncio.gather(*(self._hand_to(run_id, token, data, source) for run_id in some))
            woken += [run_id for run_id, ok in zip(some, taken, strict=True) if ok]
        return woken

    async def _hand_to(self, run_id: str, token: str, data: bytes, source: str | None) -> bool:
        """Hand *data* to the run's oldest wait for *token* that has nothing coming yet; False when there is none."""
        async with self._hub.hold(run_id) as runner:
            if runner is None:
                return False
            if source is not None and source in runner.execution.sources:
                return True  # It has come already: the sender did not live to see our answer.
            for wait, owner in list(self._waits.get(token, {}).items()):
                if owner is not runner:
                    continue
                if self._kept:
                    # A wait that has just begun may not have looked yet, and what is kept came first.
                    await self._take_kept(runner, wait)
                if not wait.claimed and not wait.given_up and await self._hand(runner, wait, data, source):
                    return True
            return False

    async def _keep(self, kind: Kind, subject: str, owner: str, data: bytes, source: str | None) -> None:
        if self._kept >= self._max_kept:
            raise EventsFullError(
                f"{self._kept} events are kept and nothing consumes them; {kind} {subject!r} was not accepted. "
                "Wait for them in a workflow, or raise Engine(max_kept_events=...)"
            )
        now = self._hub.clock.now()
        kept = _Kept(
            kind=kind, subject=subject, owner=owner, source=source, expires_at=now + self._keep_s, data=Value(data)
        )
        prefix = mailbox_prefix(owner, f"{kind}:{subject}")
        if source is not None and await self._is_kept(prefix, source):
            return  # Sent again after a crash.
        # Mail is taken in the order in which it came, also by an engine that starts later.
        self._last_stamp = stamp = max(self._last_stamp + 1, int(now * 1e6))
        key = f"{prefix}{stamp:017d}-{os.urandom(3).hex()}"
        item = Item(collection=KEPT, key=key, value=Value(msgspec.json.encode(kept)), run_id=owner or None)
        await self._hub.store.change_items([Put(item)])
        self._kept += 1

    def put_back(self, run_id: str, mail: Sequence[tuple[Kind, str, bytes, str | None]], seq: int) -> list[Change]:
        """Changes that put mail back to the front of a run's mailbox, in its order: kind, subject, data, source.

        :param seq: the position of the resumption: the later one's mail had been taken first
        """
        changes: list[Change] = []
        for number, (kind, subject, data, source) in enumerate(mail):
            expires_at = self._hub.clock.now() + self._keep_s
            kept = _Kept(
                kind=kind, subject=subject, owner=run_id, source=source, expires_at=expires_at, data=Value(data)
            )
            # "!" comes before digits: in front of all that has come since.
            key = f"{mailbox_prefix(run_id, f'{kind}:{subject}')}!{10**12 - seq:012d}-{number:06d}"
            item = Item(collection=KEPT, key=key, value=Value(msgspec.json.encode(kept)), run_id=run_id)
            changes.append(Put(item))
        self._kept += len(changes)
        return changes

    async def _is_kept(self, prefix: str, source: str) -> bool:
        items = await self._hub.store.list_items(KEPT, prefix=prefix)
        return any(msgspec.json.decode(item.value, type=_Kept).source == source for item in items)

    # --- housekeeping ------------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """After a start, before anything is driven: count what is kept, then wake who waits for some of it."""
        items = await self._hub.store.list_items(KEPT)
        self._kept = len(items)
        tokens: dict[tuple[str, str], None] = {}
        for item in items:
            kept = msgspec.json.decode(item.value, type=_Kept)
            tokens[(kept.owner, f"{kept.kind}:{kept.subject}")] = None
        self._hub.spawn(self._wake_waiting(tokens))

    async def _wake_waiting(self, tokens: Iterable[tuple[str, str]]) -> None:
        # It had been kept, but was not handed over before the engine ended.
        for owner, token in tokens:
            found = await self._hub.store.find_runs(RunQuery(waiting_for=token))
            for stored in reversed(found):
                if not owner or stored.record.run_id == owner:
                    await self._hub.rouse(stored.record.run_id)

    async def drop_expired(self) -> None:
        """Forget kept mail whose time is over."""
        now = self._hub.clock.now()
        gone = [
            Delete(KEPT, item.key)
            for item in await self._hub.store.list_items(KEPT)
            if msgspec.json.decode(item.value, type=_Kept).expires_at < now
        ]
        if gone:
            await self._hub.store.change_items(gone)
            self._kept -= len(gone)

    async def closing_changes(self, run_id: str) -> list[Change]:
        """What goes when the run ends: its mailbox."""
        prefix = f"{len(run_id)}:{run_id}:"
        gone: Iterable[Item] = await self._hub.store.list_items(KEPT, prefix=prefix)
        changes: list[Change] = [Delete(KEPT, item.key) for item in gone]
        self._kept -= len(changes)
        return changes

    @asynccontextmanager
    async def _lock(self, token: str) -> AsyncGenerator[None]:
        lock, users = self._locks.get(token) or (asyncio.Lock(), 0)
        self._locks[token] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            users = self._locks[token][1] - 1
            if users:
                self._locks[token] = (lock, users)
            else:
                del self._locks[token]


def _token(wait: MailWait) -> str:
    return f"{wait.kind}:{wait.subject}"


def _over(run_id: str, status: RunStatus, token: str) -> RunEndedError:
    return RunEndedError(f"run {run_id!r} is over ({status}); nothing waits for {token!r} there")
