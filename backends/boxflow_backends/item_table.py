"""The small collections of a store, in memory: items by key, in order, and by the run they belong to."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

from boxflow.model import Change, Delete, Item, Put


class ItemTable:
    """All items. Changes are applied at once and cannot fail."""

    def __init__(self) -> None:
        self._items: dict[str, dict[str, Item]] = {}
        self._keys: dict[str, list[str]] = {}
        self._of_run: dict[str, dict[tuple[str, str], None]] = {}

    def apply(self, changes: Iterable[Change]) -> None:
        """Apply *changes* in their order."""
        for change in changes:
            if isinstance(change, Put):
                self._put(change.item)
            else:
                self._delete(change.collection, change.key)

    def get(self, collection: str, key: str) -> Item | None:
        """One item, or None."""
        return self._items.get(collection, {}).get(key)

    def list(self, collection: str, *, prefix: str = "", limit: int | None = None) -> Sequence[Item]:
        """Items whose key starts with *prefix*, in the order of their keys."""
        items = self._items.get(collection)
        if items is None:
            return []
        keys = self._keys[collection]
        found: list[Item] = []
        for position in range(bisect_left(keys, prefix), len(keys)):
            key = keys[position]
            if not key.startswith(prefix) or (limit is not None and len(found) >= limit):
                break
            found.append(items[key])
        return found

    def of_run(self, run_id: str) -> Sequence[Delete]:
        """The changes that remove what belongs to the run."""
        return [Delete(collection, key) for collection, key in self._of_run.get(run_id, ())]

    def all(self) -> Iterable[Item]:
        """Every item; the table must not change meanwhile."""
        return (item for items in self._items.values() for item in items.values())

    def _put(self, item: Item) -> None:
        items = self._items.setdefault(item.collection, {})
        old = items.get(item.key)
        if old is None:
            insort(self._keys.setdefault(item.collection, []), item.key)
        elif old.run_id is not None and old.run_id != item.run_id:
            self._untie(old.run_id, (item.collection, item.key))
        items[item.key] = item
        if item.run_id is not None:
            self._of_run.setdefault(item.run_id, {})[item.collection, item.key] = None

    def _delete(self, collection: str, key: str) -> None:
        items = self._items.get(collection)
        old = items.pop(key, None) if items is not None else None
        if old is None:
            return
        keys = self._keys[collection]
        del keys[bisect_left(keys, key)]
        if not keys:
            del self._keys[collection], self._items[collection]
        if old.run_id is not None:
            self._untie(old.run_id, (collection, key))

    def _untie(self, run_id: str, place: tuple[str, str]) -> None:
        places = self._of_run[run_id]
        del places[place]
        if not places:
            del self._of_run[run_id]
