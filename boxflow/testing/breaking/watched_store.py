"""What is written, and when? A store in front of another one, that tells of each write before and after it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

import attrs

from boxflow.model import Blob, Change, Head, Item, Outcome, RunRecord, describe
from boxflow.ports import Fence, RunQuery, Store, StoredRun


@attrs.frozen
class Write:
    """One write: what it was, and the outcomes that it recorded."""

    what: str
    run_id: str | None = None
    outcomes: tuple[Outcome, ...] = ()

    def __str__(self) -> str:
        return self.what


Told = Callable[[Write], Awaitable[None]]


class WatchedStore:
    """A `Store` that is *store*, and tells of its writes.

    :param before: awaited before a write is made; while it waits, nothing is written
    :param after: awaited when it is made, before its caller hears of it
    """

    def __init__(self, store: Store, before: Told, after: Told) -> None:
        self._store = store
        self._before = before
        self._after = after

    @property
    def outlives_process(self) -> bool:
        """As the store behind it."""
        return self._store.outlives_process

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._store.__aexit__(kind, error, traceback)

    async def create_run(self, record: RunRecord, head: Head, changes: Sequence[Change] = ()) -> StoredRun:
        if await self._store.get_run(record.run_id) is not None:
            return await self._store.create_run(record, head, changes)
        write = Write(f"run {record.run_id!r} created", record.run_id)
        await self._before(write)
        stored = await self._store.create_run(record, head, changes)
        await self._after(write)
        return stored

    async def append(
        self, run_id: str, outcomes: Sequence[Outcome], head: Head, fence: Fence, changes: Sequence[Change] = ()
    ) -> None:
        write = Write(_appended(run_id, outcomes, head), run_id, tuple(outcomes))
        await self._before(write)
        await self._store.append(run_id, outcomes, head, fence, changes)
        await self._after(write)

    async def change_items(self, changes: Sequence[Change]) -> None:
        write = Write("an item of the engine changed")
        await self._before(write)
        await self._store.change_items(changes)
        await self._after(write)

    async def claim(self, run_id: str, owner: str) -> Fence:
        return await self._store.claim(run_id, owner)

    async def read_journal(self, run_id: str, *, after: int = 0) -> Sequence[Outcome]:
        return await self._store.read_journal(run_id, after=after)

    async def get_run(self, run_id: str) -> StoredRun | None:
        return await self._store.get_run(run_id)

    async def find_runs(self, query: RunQuery) -> Sequence[StoredRun]:
        return await self._store.find_runs(query)

    async def delete_run(self, run_id: str) -> None:
        await self._store.delete_run(run_id)

    async def get_item(self, collection: str, key: str) -> Item | None:
        return await self._store.get_item(collection, key)

    async def list_items(self, collection: str, *, prefix: str = "", limit: int | None = None) -> Sequence[Item]:
        return await self._store.list_items(collection, prefix=prefix, limit=limit)

    async def put_blob(self, run_id: str, data: bytes) -> Blob:
        return await self._store.put_blob(run_id, data)

    async def get_blob(self, run_id: str, blob: Blob) -> bytes:
        return await self._store.get_blob(run_id, blob)


def _appended(run_id: str, outcomes: Sequence[Outcome], head: Head) -> str:
    if not outcomes:
        return f"run {run_id!r} is {head.status}"
    return ", ".join(f"{outcome.kind} {describe(outcome.name, outcome.occurrence)}" for outcome in outcomes)
