"""Which accounts are open, what has each spent, and when is that written down?"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import anyio
import attrs

from boxflow.gateway.accounts import Account, AccountNotFoundError, check_account, digest_of, limit_reached, output_left
from boxflow.gateway.ledger import Ledger, Record, decode_record
from boxflow.gateway.metering import Meter
from boxflow.gateway.problems import Kind, Problem
from boxflow.gateway.spending import Spent

logger = logging.getLogger("boxflow.gateway")

# How long after a failure a ledger is tried again.
_LEDGER_RETRY_S = 2.0
# For the last records, when the gateway closes.
_FLUSH_S = 5.0


@attrs.define(eq=False)
class Running:
    """A request that is being served.

    :param metered: it will cost something
    :param meter: once it is on its way to the model's host, until it has been charged
    """

    metered: bool
    meter: Meter | None = None


@attrs.define(eq=False)
class OpenAccount:
    """An account that requests are made for."""

    account: Account
    digest: str
    spent: Spent
    closed: bool = False
    _running: dict[anyio.CancelScope, Running] = attrs.field(factory=dict[anyio.CancelScope, Running])
    _writing: anyio.Lock = attrs.field(factory=anyio.Lock)

    @contextmanager
    def request(self, most: int, *, metered: bool) -> Generator[Running]:
        """Serve one more request in this block, which is left at once when the account is closed.

        :param most: how many may be served at once
        :raises Problem: it may not; a limit of the account is the reason if the kind is `NO_CREDIT`
        """
        if self.closed:
            raise unknown_token()
        if len(self._running) >= most:
            name = self.account.name
            raise Problem(Kind.BUSY, f"{name!r} makes {most} requests at once already; wait for some of them")
        if metered:
            # Those that have not been answered yet count as well.
            requests = self.spent.usage.requests + sum(one.metered for one in self._running.values())
            if reached := limit_reached(self.account, self.so_far(), requests):
                raise Problem(Kind.NO_CREDIT, f"the budget of {self.account.name!r} is spent: {reached}")
        with anyio.CancelScope() as scope:
            running = self._running[scope] = Running(metered)
            try:
                yield running
            finally:
                del self._running[scope]

    def output_left(self) -> int | None:
        """How many tokens the next answer may have; None when that is not limited."""
        return output_left(self.account, self.so_far())

    def so_far(self) -> Spent:
        """What was spent, with what the answers that are under way have told up to now."""
        spent = self.spent
        for running in self._running.values():
            if running.meter is not None and running.meter.began:
                spent = spent.plus(running.meter.seen(), self.account.prices)
        return spent

    async def write(self, ledger: Ledger) -> None:
        """Write down what was spent. Never after `remove`."""
        async with self._writing:
            if not self.closed:
                await ledger.put(self.digest, Record(account=self.account, spent=self.spent).encode())

    async def remove(self, ledger: Ledger) -> None:
        """End the account: its requests, and its record."""
        self.closed = True
        for scope in self._running:
            scope.cancel()
        async with self._writing:
            await ledger.remove(self.digest)


@attrs.define(eq=False)
class Books:
    """All accounts of one gateway."""

    ledger: Ledger
    secrets: Mapping[str, str]
    _open: dict[str, OpenAccount] = attrs.field(factory=dict[str, OpenAccount], init=False)
    _closings: int = attrs.field(default=0, init=False)
    _dirty: set[OpenAccount] = attrs.field(factory=set[OpenAccount], init=False)
    _changed: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    async def open(self, account: Account) -> None:
        """Let requests be made for *account*. What was spent stays, when it was open before."""
        check_account(account, self.secrets)
        digest = digest_of(account.token)
        kept = attrs.evolve(account, token="")
        opened = await self._find(digest)
        if opened is None:
            cost_usd = None if account.prices is None else 0.0
            opened = self._open.setdefault(digest, OpenAccount(kept, digest, Spent(cost_usd=cost_usd)))
        opened.account = kept
        await opened.write(self.ledger)

    async def find(self, token: str) -> OpenAccount:
        """The account that *token* belongs to, also one that was opened before a restart.

        :raises AccountNotFoundError: there is none
        """
        opened = await self._find(digest_of(token))
        if opened is None:
            raise AccountNotFoundError
        return opened

    async def _find(self, digest: str) -> OpenAccount | None:
        while (opened := self._open.get(digest)) is None:
            closings = self._closings
            data = await self.ledger.get(digest)
            record = None if data is None else decode_record(data)
            if self._closings != closings:
                continue  # It may have been this one that was closed: look again.
            if record is None:
                return None
            self._open.setdefault(digest, OpenAccount(record.account, digest, record.spent))
        return opened

    async def close(self, token: str) -> None:
        """Let no request be made with *token* from now on. No error when none could be."""
        digest = digest_of(token)
        self._closings += 1
        opened = self._open.pop(digest, None)
        try:
            if opened is None:
                await self.ledger.remove(digest)
            else:
                self._dirty.discard(opened)
                await opened.remove(self.ledger)
        finally:
            # Who read the ledger before the record was gone must look again.
            self._closings += 1

    def refuse(self, opened: OpenAccount) -> None:
        """Count a request that was over a limit."""
        opened.spent = attrs.evolve(opened.spent, refused=opened.spent.refused + 1)
        self._note(opened)

    def charge(self, opened: OpenAccount, running: Running) -> None:
        """Count a request that was made."""
        if running.meter is not None:
            opened.spent = opened.spent.plus(running.meter.total(), opened.account.prices)
            running.meter = None
            self._note(opened)

    def _note(self, opened: OpenAccount) -> None:
        if not opened.closed:
            self._dirty.add(opened)
            self._changed.set()

    async def keep(self) -> None:
        """Write down what changes, until cancelled. What changes while the ledger is busy is written at once."""
        while True:
            # Without a deadline: nothing may ever be spent.
            await self._changed.wait()
            self._changed = anyio.Event()
            if not await self._write_all():
                await anyio.sleep(_LEDGER_RETRY_S)
                self._changed.set()

    async def flush(self) -> None:
        """Write down what has not been, whatever happens to the caller; but not for ever."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(_FLUSH_S):
            await self._write_all()
        if self._dirty:
            logger.error("what %d accounts spent last was not written to the ledger", len(self._dirty))

    async def _write_all(self) -> bool:
        dirty, self._dirty = self._dirty, set()
        left = set(dirty)
        try:
            for opened in dirty:
                try:
                    await opened.write(self.ledger)
                    left.discard(opened)
                except Exception as exc:  # noqa: BLE001  # a ledger may be anything; requests go on, and it is tried again
                    name = opened.account.name
                    logger.warning("what %r spent could not be written: %s; trying again", name, type(exc).__name__)
        finally:
            self._dirty |= {opened for opened in left if not opened.closed}
        return not self._dirty


def unknown_token() -> Problem:
    """The same words for one that was never open and one that is closed: the sender learns nothing from it."""
    return Problem(Kind.UNAUTHORIZED, "this token is not valid (any more); the run that it was made for has ended")
