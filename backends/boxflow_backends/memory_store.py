"""A store that keeps everything in memory, for tests, notebooks and runs that need not survive the process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec

from boxflow.errors import FenceError, RunNotFoundError, StoreClosedError, StoreCorruptError, StoreError
from boxflow.model import Blob, Change, Head, Item, Outcome, RunRecord
from boxflow.ports import Fence, RunQuery, StoredRun
from boxflow_backends.item_table import ItemTable
from boxflow_backends.run_index import IndexedRun, RunIndex, fence_token


class _Journal(msgspec.Struct, eq=False):
    record: RunRecord
    head: Head
    outcomes: list[Outcome]


class MemoryStore:
    """A `Store` that lives as long as the object.

    It may be opened again, by another engine too: like a machine that restarts, opening keeps what is stored and makes
    every fence that was issued before stale. No method ever suspends.
    """

    def __init__(self) -> None:
        self._index = RunIndex[_Journal]()
        self._items = ItemTable()
        self._blobs: dict[str, dict[str, bytes]] = {}
        self._opened = 0
        self._openings = 0

    @property
    def outlives_process(self) -> bool:
        """It is gone with the process."""
        return False

    async def __aenter__(self) -> Self:
        self._opened += 1
        self._openings += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Counted, because an engine that is thrown away in a test may be left after its successor was entered.
        self._opened = max(self._opened - 1, 0)

    async def claim(self, run_id: str, owner: str) -> Fence:
        run = self._run(run_id)
        return self._index.claim(run, self._openings)

    async def create_run(self, record: RunRecord, head: Head, changes: Sequence[Change] = ()) -> StoredRun:
        self._check_open()
        run = self._index.runs.get(record.run_id)
        if run is None:
            if head.length:
                raise StoreError(f"run {record.run_id!r} cannot begin with {head.length} outcomes; append them")
            self._index.add(record, head, _Journal(record, head, []))
            self._items.apply(changes)
            return StoredRun(record=record, head=head)
        return _stored(run)

    async def append(
        self, run_id: str, outcomes: Sequence[Outcome], head: Head, fence: Fence, changes: Sequence[Change] = ()
    ) -> None:
        run = self._index.runs.get(run_id)
        if run is None or not self._opened:
            raise self._missing(run_id)
        if fence.token != fence_token(run, self._openings):
            raise FenceError(f"run {run_id!r} has another owner now; this append changed nothing")
        if head.length != run.length + len(outcomes) or (outcomes and outcomes[0].seq != run.length + 1):
            raise StoreError(f"run {run_id!r} has {run.length} outcomes; {len(outcomes)} do not lead to {head.length}")
        journal = run.kept
        journal.outcomes.extend(outcomes)
        journal.head = head
        self._index.update(run, head)
        if changes:
            self._items.apply(changes)

    async def read_journal(self, run_id: str, *, after: int = 0) -> Sequence[Outcome]:
        return self._run(run_id).kept.outcomes[after:]

    async def get_run(self, run_id: str) -> StoredRun | None:
        self._check_open()
        run = self._index.runs.get(run_id)
        return None if run is None else _stored(run)

    async def find_runs(self, query: RunQuery) -> Sequence[StoredRun]:
        self._check_open()
        before = None
        if query.after is not None:
            last = self._run(query.after)
            before = (last.created_at, last.run_id)
        return [_stored(run) for run in self._index.find(query, before=before)]

    async def delete_run(self, run_id: str) -> None:
        self._check_open()
        self._blobs.pop(run_id, None)
        self._items.apply(self._items.of_run(run_id))
        run = self._index.runs.get(run_id)
        if run is not None:
            self._index.remove(run)

    async def change_items(self, changes: Sequence[Change]) -> None:
        self._check_open()
        self._items.apply(changes)

    async def get_item(self, collection: str, key: str) -> Item | None:
        self._check_open()
        return self._items.get(collection, key)

    async def list_items(self, collection: str, *, prefix: str = "", limit: int | None = None) -> Sequence[Item]:
        self._check_open()
        return self._items.list(collection, prefix=prefix, limit=limit)

    async def put_blob(self, run_id: str, data: bytes) -> Blob:
        self._check_open()
        name = hashlib.sha256(data).hexdigest()
        self._blobs.setdefault(run_id, {})[name] = bytes(data)
        return Blob(name, len(data))

    async def get_blob(self, run_id: str, blob: Blob) -> bytes:
        self._check_open()
        data = self._blobs.get(run_id, {}).get(blob.blob)
        if data is None or len(data) != blob.size_bytes:
            raise StoreCorruptError(f"blob {blob.blob!r} of run {run_id!r} is missing; it was never put, or deleted")
        return data

    def _check_open(self) -> None:
        if not self._opened:
            raise StoreClosedError("this MemoryStore is not open; use it inside `async with store:`")

    def _run(self, run_id: str) -> IndexedRun[_Journal]:
        run = self._index.runs.get(run_id)
        if run is None or not self._opened:
            raise self._missing(run_id)
        return run

    def _missing(self, run_id: str) -> Exception:
        self._check_open()
        return RunNotFoundError(run_id)


def _stored(run: IndexedRun[_Journal]) -> StoredRun:
    return StoredRun(record=run.kept.record, head=run.kept.head)
