"""Where does the model gateway keep what it must know after a restart? In a collection of the engine's store."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import msgspec

from boxflow.model import Delete, Item, Put, Value
from boxflow.ports import Store


class StoreKeep:
    """Small records of bytes, as items of one collection."""

    def __init__(self, store: Store, collection: str) -> None:
        self._store = store
        self._collection = collection

    async def put(self, key: str, data: bytes) -> None:
        """Keep *data* under *key*; durable on return."""
        value = Value(msgspec.json.encode(base64.b64encode(data).decode("ascii")))
        await self._store.change_items([Put(Item(collection=self._collection, key=key, value=value))])

    async def get(self, key: str) -> bytes | None:
        """What is kept under *key*."""
        item = await self._store.get_item(self._collection, key)
        return None if item is None else base64.b64decode(msgspec.json.decode(item.value, type=str))

    async def remove(self, key: str) -> None:
        """Keep nothing under *key* any more."""
        await self._store.change_items([Delete(self._collection, key)])

    async def keys(self, prefix: str) -> Sequence[str]:
        """The keys that begin with *prefix*."""
        return [item.key for item in await self._store.list_items(self._collection, prefix=prefix)]
