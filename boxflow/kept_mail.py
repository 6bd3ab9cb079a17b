"""Where does mail wait that nobody waits for yet? In a collection of the store, oldest first, for a limited time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from boxflow.errors import EventsFullError
from boxflow.mail import mailbox_prefix
from boxflow.model import Change, Delete, Item, Put, Value
from boxflow.ports import Clock, Store

KEPT: Final = "mail"
"""The collection in which mail waits for a wait."""

Kind: TypeAlias = Literal["event", "webhook"]


class Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One kept item: for whom (empty: for everybody), about what, until when."""

    kind: Kind
    subject: str
    owner: str = ""
    source: str | None = None
    expires_at: float
    data: msgspec.Raw


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was sent.

    :param source: identifies the sending, where that is known, so that it counts once
    """

    kind: Kind
    subject: str
    data: bytes
    source: str | None = None

    @property
    def token(self) -> str:
        """Kind and subject, as they stand in `Head.waiting`."""
        return f"{self.kind}:{self.subject}"


class Hub(Protocol):
    """What kept mail asks of its engine."""

    clock: Clock
    store: Store


class KeptMail:
    """Mail that waits.

    :param keep_s: how long
    :param max_kept: how many at most
    """

    def __init__(self, hub: Hub, *, keep_s: float, max_kept: int) -> None:
        self._hub = hub
        self._keep_s = keep_s
        self._max_kept = max_kept
        self._last_stamp = 0
        #: How many are kept in all.
        self.count = 0

    async def recover(self) -> list[Kept]:
        """All that was kept when the engine started."""
        items = await self._hub.store.list_items(KEPT)
        self.count = len(items)
        return [msgspec.json.decode(item.value, type=Kept) for item in items]

    async def oldest(self, owner: str, token: str) -> tuple[Kept, Delete] | None:
        """What has waited longest, and the change that removes it."""
        items = await self._hub.store.list_items(KEPT, prefix=mailbox_prefix(owner, token), limit=1)
        if not items:
            return None
        return msgspec.json.decode(items[0].value, type=Kept), Delete(KEPT, items[0].key)

    async def has_source(self, owner: str, mail: Mail) -> bool:
        """Whether it is kept already: sent again after a crash."""
        if mail.source is None:
            return False
        items = await self._hub.store.list_items(KEPT, prefix=mailbox_prefix(owner, mail.token))
        return any(msgspec.json.decode(item.value, type=Kept).source == mail.source for item in items)

    def put(self, owner: str, mail: Mail, *, beside: int = 0) -> Put:
        """The change that keeps *mail*, and has to be counted when it is made.

        :param beside: how many others are kept by the same change
        :raises EventsFullError: too much is kept
        """
        count = self.count + beside
        if count >= self._max_kept:
            raise EventsFullError(
                f"{count} events are kept and nothing consumes them; {mail.kind} {mail.subject!r} was not accepted. "
                "Wait for them in a workflow, or raise Engine(max_kept_events=...)"
            )
        # Mail is taken in the order in which it came, also by an engine that starts later.
        self._last_stamp = stamp = max(self._last_stamp + 1, int(self._hub.clock.now() * 1e6))
        return self._put(owner, mail, f"{stamp:017d}-{os.urandom(3).hex()}")

    def put_back(self, run_id: str, mail: Sequence[Mail], seq: int) -> list[Change]:
        """Changes that put mail back to the front of a run's mailbox, in its order.

        :param seq: the position of the resumption: the later one's mail had been taken first
        """
        self.count += len(mail)
        # "!" comes before digits: in front of all that has come since.
        return [self._put(run_id, one, f"!{10**12 - seq:012d}-{number:06d}") for number, one in enumerate(mail)]

    def _put(self, owner: str, mail: Mail, place: str) -> Put:
        kept = Kept(
            kind=mail.kind,
            subject=mail.subject,
            owner=owner,
            source=mail.source,
            expires_at=self._hub.clock.now() + self._keep_s,
            data=Value(mail.data),
        )
        value = Value(msgspec.json.encode(kept))
        key = f"{mailbox_prefix(owner, mail.token)}{place}"
        return Put(Item(collection=KEPT, key=key, value=value, run_id=owner or None))

    async def drop_expired(self) -> None:
        """Forget what has waited too long."""
        now = self._hub.clock.now()
        gone = [
            Delete(KEPT, item.key)
            for item in await self._hub.store.list_items(KEPT)
            if msgspec.json.decode(item.value, type=Kept).expires_at < now
        ]
        if gone:
            await self._hub.store.change_items(gone)
            self.count -= len(gone)

    async def closing_changes(self, run_id: str) -> list[Change]:
        """What goes when the run ends: its mailbox."""
        gone = await self._hub.store.list_items(KEPT, prefix=f"{len(run_id)}:{run_id}:")
        self.count -= len(gone)
        return [Delete(KEPT, item.key) for item in gone]
