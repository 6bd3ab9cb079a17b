"""Which waits for mail are there, and how is mail handed to one? Those of the runs in memory, oldest first.

Whoever sends, and whoever begins to wait, holds the lock of the subject while it looks and acts. So a wait either sees
what was kept, or is seen by the next sending.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from boxflow.journal import MailWait
from boxflow.kept_mail import KeptMail, Kind, Mail
from boxflow.mail import mailbox_prefix
from boxflow.model import Change
from boxflow.ports import Clock, Store
from boxflow.runner import Arrival, Runner, arrived


class Hub(Protocol):
    """What waits ask of their engine."""

    clock: Clock
    store: Store

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]: ...

    def hold(self, run_id: str) -> AbstractAsyncContextManager[Runner | None]: ...

    def idle(self, runner: Runner) -> None: ...


class MailWaits:
    """The waits that have begun and have nothing yet."""

    def __init__(self, hub: Hub, kept: KeptMail) -> None:
        self._hub = hub
        self._kept = kept
        self._waits: dict[str, dict[MailWait, Runner]] = {}
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def begin(self, runner: Runner, wait: MailWait) -> None:
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
            async with self.lock(place(wait.kind, wait.subject, runner.run_id)):
                await self._take_kept(runner, wait)
        finally:
            runner.checks -= 1
        if not runner.is_over and runner.is_quiet:
            self._hub.idle(runner)

    async def _take_kept(self, runner: Runner, wait: MailWait) -> None:
        now = self._hub.clock.now()
        owners = (runner.run_id, "") if wait.kind == "event" else (runner.run_id,)
        for owner in owners:
            while (found := await self._kept.oldest(owner, _token(wait))) is not None:
                if wait.given_up or wait.claimed or runner.is_over:
                    return
                kept, gone = found
                if kept.expires_at < now or (kept.source is not None and kept.source in runner.execution.sources):
                    await self._hub.store.change_items([gone])
                    self._kept.count -= 1
                    continue
                if await self._hand(runner, wait, bytes(kept.data), kept.source, (gone,)):
                    self._kept.count -= 1
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

    def of(self, token: str) -> Iterable[Runner]:
        """The runs with waits for *token*, once for each wait, oldest first; what follows may change the waits."""
        return list(self._waits.get(token, {}).values())

    async def hand_to(self, run_id: str, mail: Mail, changes: tuple[Change, ...] = ()) -> bool:
        """Hand *mail* to the run's oldest wait for it that has nothing coming yet; False when there is none."""
        async with self._hub.hold(run_id) as runner:
            if runner is None:
                return False
            if mail.source is not None and mail.source in runner.execution.sources:
                return True  # It has come already: the sender did not live to see our answer.
            for wait, owner in list(self._waits.get(mail.token, {}).items()):
                if owner is not runner:
                    continue
                if self._kept.count:
                    # A wait that has just begun may not have looked yet, and what is kept came first.
                    await self._take_kept(runner, wait)
                if wait.claimed or wait.given_up:
                    continue
                if await self._hand(runner, wait, mail.data, mail.source, changes):
                    return True
            return False

    @asynccontextmanager
    async def lock(self, token: str) -> AsyncGenerator[None]:
        """Nobody else looks at these waits, or hands mail to them, within the block."""
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


def place(kind: Kind, subject: str, run_id: str) -> str:
    """What is locked: an event may be for every run, a webhook is one run's own."""
    token = f"{kind}:{subject}"
    return token if kind == "event" else mailbox_prefix(run_id, token)
