"""Where is it kept what was spent, so that it survives the engine?"""

from __future__ import annotations

from typing import Protocol

import attrs
import msgspec

from boxflow.gateway.accounts import Account
from boxflow.gateway.spending import Spent


class Ledger(Protocol):
    """Keeps one record for each open account. What `put` has returned for is durable, as far as the ledger is."""

    async def put(self, key: str, data: bytes) -> None:
        """Keep *data* under *key*, instead of what was there."""
        ...

    async def get(self, key: str) -> bytes | None:
        """What is kept under *key*; None when nothing is."""
        ...

    async def remove(self, key: str) -> None:
        """Keep nothing under *key* any more. No error when nothing was."""
        ...


class MemoryLedger:
    """A ledger that lasts as long as this object."""

    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}

    async def put(self, key: str, data: bytes) -> None:
        self._records[key] = data

    async def get(self, key: str) -> bytes | None:
        return self._records.get(key)

    async def remove(self, key: str) -> None:
        self._records.pop(key, None)


@attrs.frozen(kw_only=True)
class Record:
    """What a ledger keeps of one account: everything that a gateway needs to serve it after a restart.

    :param account: without its token; its key is a template
    """

    account: Account
    spent: Spent

    def encode(self) -> bytes:
        """As bytes: JSON."""
        return msgspec.json.encode(self)


def decode_record(data: bytes) -> Record | None:
    """The record that was kept as *data*; None when it is none that this version can read."""
    try:
        return msgspec.json.decode(data, type=Record)
    except msgspec.MsgspecError:
        return None
