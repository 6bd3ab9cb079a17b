"""Journals in one SQLite file: a store outside of boxflow, written against `boxflow.ports` alone.

Simple on purpose. Every call is one transaction, in one thread, so that the event loop never waits for the disk.
"""

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from boxflow.errors import (
    FenceError,
    RunNotFoundError,
    StoreClosedError,
    StoreCorruptError,
    StoreError,
    StoreFailedError,
    StoreLockedError,
)
from boxflow.model import Blob, Change, Head, Item, Outcome, Put, RunRecord, Value
from boxflow.ports import Fence, RunQuery, StoredRun

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (last INTEGER NOT NULL);
INSERT INTO tokens SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM tokens);
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY, record TEXT NOT NULL, head TEXT NOT NULL, length INTEGER NOT NULL, token INTEGER NOT NULL,
    status TEXT NOT NULL, workflow TEXT NOT NULL, parent TEXT, created_at REAL NOT NULL, due REAL
);
CREATE INDEX IF NOT EXISTS by_age ON runs (created_at, run_id);
CREATE INDEX IF NOT EXISTS by_status ON runs (status);
CREATE TABLE IF NOT EXISTS outcomes (
    run_id TEXT NOT NULL, seq INTEGER NOT NULL, outcome TEXT NOT NULL, PRIMARY KEY (run_id, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS items (
    collection TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, run_id TEXT, PRIMARY KEY (collection, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blobs (run_id TEXT NOT NULL, name TEXT NOT NULL, data BLOB, PRIMARY KEY (run_id, name));
"""


def as_text(value: object) -> str:
    return msgspec.json.encode(value).decode()


class SqliteStore:
    """A `Store` in the file *path*, which one process owns. As a URL: `"sqlite:state.db"`.

    :param synchronous: as of SQLite: `"FULL"` survives a power cut, `"OFF"` the end of the process only
    """

    outlives_process = True

    def __init__(self, path: str | Path, *, synchronous: str = "FULL") -> None:
        self.path = Path(path)
        self._synchronous = synchronous
        self._thread: ThreadPoolExecutor | None = None
        self._stale = 0
        self._failed: str | None = None

    async def __aenter__(self) -> Self:
        self._thread, self._failed = ThreadPoolExecutor(1, "sqlite"), None
        try:
            await self._call(self._open)
        except BaseException:
            self._thread.shutdown()
            self._thread = None
            raise
        return self

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, isolation_level=None, timeout=0)
        try:
            # The file belongs to whoever has it open: fences could not be trusted otherwise.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {self._synchronous}")
            self._db.executescript("BEGIN EXCLUSIVE;" + SCHEMA + "COMMIT")
            # Every fence that was issued before is stale from now on.
            (self._stale,) = self._db.execute("SELECT last FROM tokens").fetchone()
        except sqlite3.OperationalError as exc:
            self._db.close()
            raise StoreLockedError(f"store {str(self.path)!r} cannot be opened: {exc}; stop its owner") from exc

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._db.close)
            thread.shutdown()

    async def _call(self, fn: Callable[..., T], *args: Any) -> T:
        """Carry out a call in the store's thread: one after the other, each whole, also when its caller is cancelled.

        :raises StoreClosedError: the store is not open
        """
        if self._thread is None:
            raise StoreClosedError(f"store {str(self.path)!r} is not open; use it inside `async with store:`")
        return await asyncio.get_running_loop().run_in_executor(self._thread, fn, *args)

    async def _write(self, fn: Callable[..., T], *args: Any) -> T:
        """The same for what changes something: all of it, or nothing of it."""

        def transaction() -> T:
            if self._failed is not None:
                raise StoreFailedError(f"store {str(self.path)!r} failed before ({self._failed}); open it again")
            try:
                with self._db:
                    self._db.execute("BEGIN IMMEDIATE")
                    return fn(*args)
            except sqlite3.Error as exc:
                self._failed = str(exc)
                raise StoreFailedError(f"store {str(self.path)!r} cannot write: {exc}; open it again") from exc

        return await self._call(transaction)

    # --- runs -------------------------------------------------------------------------------------------------------

    async def claim(self, run_id: str, owner: str) -> Fence:
        return await self._write(self._claim, run_id)

    def _claim(self, run_id: str) -> Fence:
        self._db.execute("UPDATE tokens SET last = last + 1")
        (token,) = self._db.execute("SELECT last FROM tokens").fetchone()
        if not self._db.execute("UPDATE runs SET token = ? WHERE run_id = ?", (token, run_id)).rowcount:
            raise RunNotFoundError(run_id)
        return Fence(token)

    async def create_run(self, record: RunRecord, head: Head, changes: Sequence[Change] = ()) -> StoredRun:
        return await self._write(self._create, record, head, changes)

    def _create(self, record: RunRecord, head: Head, changes: Sequence[Change]) -> StoredRun:
        found = self._get(record.run_id)
        if found is not None:
            return found
        if head.length:
            raise StoreError(f"run {record.run_id!r} cannot begin with {head.length} outcomes; append them")
        row = (record.run_id, as_text(record), as_text(head), record.workflow, record.parent, record.created_at)
        self._db.execute(
            "INSERT INTO runs (run_id, record, head, workflow, parent, created_at, status, due, length, token)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0)",
            (*row, head.status, head.due),
        )
        self._apply(changes)
        return StoredRun(record=record, head=head)

    async def append(
        self, run_id: str, outcomes: Sequence[Outcome], head: Head, fence: Fence, changes: Sequence[Change] = ()
    ) -> None:
        await self._write(self._append, run_id, outcomes, head, fence, changes)

    def _append(
        self, run_id: str, outcomes: Sequence[Outcome], head: Head, fence: Fence, changes: Sequence[Change]
    ) -> None:
        row = self._db.execute("SELECT length, token FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        if row is None:
            raise RunNotFoundError(run_id)
        length, token = row
        if fence.token != token or token <= self._stale:
            raise FenceError(f"run {run_id!r} has another owner now; this append changed nothing")
        if head.length != length + len(outcomes) or (outcomes and outcomes[0].seq != length + 1):
            raise StoreError(f"run {run_id!r} has {length} outcomes; {len(outcomes)} do not lead to {head.length}")
        rows = [(run_id, outcome.seq, as_text(outcome)) for outcome in outcomes]
        self._db.executemany("INSERT INTO outcomes VALUES (?, ?, ?)", rows)
        self._db.execute(
            "UPDATE runs SET head = ?, length = ?, status = ?, due = ? WHERE run_id = ?",
            (as_text(head), head.length, head.status, head.due, run_id),
        )
        self._apply(changes)

    async def read_journal(self, run_id: str, *, after: int = 0) -> Sequence[Outcome]:
        def read() -> list[Outcome]:
            if self._get(run_id) is None:
                raise RunNotFoundError(run_id)
            query = "SELECT outcome FROM outcomes WHERE run_id = ? AND seq > ? ORDER BY seq"
            return [msgspec.json.decode(text, type=Outcome) for (text,) in self._db.execute(query, (run_id, after))]

        return await self._call(read)

    async def get_run(self, run_id: str) -> StoredRun | None:
        return await self._call(self._get, run_id)

    def _get(self, run_id: str) -> StoredRun | None:
        row = self._db.execute("SELECT record, head FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        return None if row is None else _stored(*row)

    async def find_runs(self, query: RunQuery) -> Sequence[StoredRun]:
        def find() -> list[StoredRun]:
            where, values = _conditions(query)
            if query.after is not None:
                if self._get(query.after) is None:
                    raise RunNotFoundError(query.after)
                where += " AND (created_at, run_id) < (SELECT created_at, run_id FROM runs WHERE run_id = ?)"
                values.append(query.after)
            sql = f"SELECT record, head FROM runs WHERE {where} ORDER BY created_at DESC, run_id DESC LIMIT ?"
            return [_stored(*row) for row in self._db.execute(sql, (*values, query.limit))]

        return await self._call(find)

    async def delete_run(self, run_id: str) -> None:
        def delete() -> None:
            for table in ("runs", "outcomes", "items", "blobs"):
                self._db.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))

        await self._write(delete)

    # --- items and blobs --------------------------------------------------------------------------------------------

    async def change_items(self, changes: Sequence[Change]) -> None:
        await self._write(self._apply, changes)

    def _apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if isinstance(change, Put):
                item = change.item
                row = (item.collection, item.key, bytes(item.value).decode(), item.run_id)
                self._db.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?)", row)
            else:
                self._db.execute("DELETE FROM items WHERE (collection, key) = (?, ?)", (change.collection, change.key))

    async def get_item(self, collection: str, key: str) -> Item | None:
        found = await self.list_items(collection, prefix=key, limit=1)
        return found[0] if found and found[0].key == key else None

    async def list_items(self, collection: str, *, prefix: str = "", limit: int | None = None) -> Sequence[Item]:
        def read() -> list[Item]:
            query = (
                "SELECT key, value, run_id FROM items WHERE collection = ? AND key >= ? AND substr(key, 1, ?) = ?"
                " ORDER BY key LIMIT ?"
            )
            rows = self._db.execute(query, (collection, prefix, len(prefix), prefix, -1 if limit is None else limit))
            return [
                Item(collection=collection, key=key, value=Value(value.encode()), run_id=run_id)
                for key, value, run_id in rows
            ]

        return await self._call(read)

    async def put_blob(self, run_id: str, data: bytes) -> Blob:
        name = hashlib.sha256(data).hexdigest()
        sql = "INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)"
        await self._write(lambda: self._db.execute(sql, (run_id, name, data)).rowcount)
        return Blob(name, len(data))

    async def get_blob(self, run_id: str, blob: Blob) -> bytes:
        sql = "SELECT data FROM blobs WHERE (run_id, name) = (?, ?)"
        row = await self._call(lambda: self._db.execute(sql, (run_id, blob.blob)).fetchone())
        if row is None or len(row[0]) != blob.size_bytes:
            raise StoreCorruptError(f"blob {blob.blob!r} of run {run_id!r} is missing; it was never put, or deleted")
        return bytes(row[0])


def _conditions(query: RunQuery) -> tuple[str, list[Any]]:
    """What a run must fulfil, as SQL and its values."""
    where, values = ["1"], list[Any]()
    if query.statuses is not None:
        where.append(f"status IN ({', '.join('?' * len(query.statuses))})")
        values += sorted(query.statuses)
    for condition, value in (
        ("workflow = ?", query.workflow),
        ("parent = ?", query.parent),
        ("due <= ?", query.due_before),
        ("EXISTS (SELECT 1 FROM json_each(record, '$.labels') WHERE value = ?)", query.label),
        ("EXISTS (SELECT 1 FROM json_each(head, '$.waiting') WHERE value = ?)", query.waiting_for),
    ):
        if value is not None:
            where.append(condition)
            values.append(value)
    return " AND ".join(where), values


def _stored(record: str, head: str) -> StoredRun:
    return StoredRun(record=msgspec.json.decode(record, type=RunRecord), head=msgspec.json.decode(head, type=Head))
