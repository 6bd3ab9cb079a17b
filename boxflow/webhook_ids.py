"""Which calls of webhooks have come before? Their ids, kept in the store, so that a repeated call is delivered once.

An id is put into the store by the very change that keeps its call or hands it over: after a crash both are there, or
neither. Ids go with their run, and after a week; there is a bound to how many are kept.
"""

from __future__ import annotations

import hashlib
from itertools import islice
from typing import Final, Protocol

import msgspec

from boxflow.errors import EventsFullError
from boxflow.mail import mailbox_prefix
from boxflow.model import Change, Delete, Item, Put, Value
from boxflow.ports import Clock, Store

IDS: Final = "webhook_ids"
"""The collection of ids: when each was last seen."""

KEEP_S: Final = 7 * 86400.0
"""Senders that sign a time repeat a call for a day or so, signed anew; GitHub signs no time, so a week is the limit."""

LEAST_S: Final = 900.0
"""No id goes before a call that was signed when it came could no longer pass: twice five minutes, and some to spare."""

MAX_IDS: Final = 100_000
"""As many as kept events by default: some 50 MB in memory."""

AT_ONCE: Final = 100
"""How many old ids a change may remove."""


class Hub(Protocol):
    """What ids ask of their engine."""

    clock: Clock
    store: Store


class WebhookIds:
    """The ids of calls that have come, oldest first.

    :param max_ids: beyond, the oldest goes; is it too young for that, the call is refused with `EventsFullError`
    """

    def __init__(self, hub: Hub, *, max_ids: int = MAX_IDS) -> None:
        self._hub = hub
        self._max_ids = max_ids
        self._seen_at: dict[str, float] = {}

    async def recover(self) -> None:
        """Read when each was seen."""
        items = await self._hub.store.list_items(IDS)
        seen = [(msgspec.json.decode(item.value, type=float), item.key) for item in items]
        self._seen_at = {key: at for at, key in sorted(seen)}

    async def has(self, key: str) -> bool:
        """Whether a call of that key has come."""
        return await self._hub.store.get_item(IDS, key) is not None

    def remember(self, run_id: str, key: str) -> list[Change]:
        """The changes that keep *key*, to be made together with what becomes of its call.

        :raises EventsFullError: too many calls have come within minutes
        """
        now = self._hub.clock.now()
        changes = self.drop(now)
        if len(self._seen_at) >= self._max_ids and key not in self._seen_at:
            raise EventsFullError(
                f"{len(self._seen_at)} webhook calls with ids have come within {LEAST_S:.0f} s, more than can be told "
                "apart; this one was not accepted, send it again later"
            )
        self._seen_at.pop(key, None)
        self._seen_at[key] = now
        changes.append(Put(Item(collection=IDS, key=key, value=Value(msgspec.json.encode(now)), run_id=run_id)))
        return changes

    def drop(self, now: float) -> list[Change]:
        """The changes that remove some of what is too old, or too much."""
        over = len(self._seen_at) - self._max_ids + 1
        gone = [
            key
            for number, (key, at) in enumerate(islice(self._seen_at.items(), AT_ONCE))
            if now - at > (LEAST_S if number < over else KEEP_S)
        ]
        for key in gone:
            del self._seen_at[key]
        return [Delete(IDS, key) for key in gone]

    async def closing_changes(self, run_id: str) -> list[Change]:
        """What goes when the run ends."""
        items = await self._hub.store.list_items(IDS, prefix=f"{len(run_id)}:{run_id}:")
        for item in items:
            self._seen_at.pop(item.key, None)
        return [Delete(IDS, item.key) for item in items]


def id_key(run_id: str, subject: str, call_id: str) -> str:
    """The key of a call's id. A hash: senders choose ids of any length, with any characters."""
    digest = hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{mailbox_prefix(run_id, subject)}{digest}"
