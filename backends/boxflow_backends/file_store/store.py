"""`FileStore`: the store for real use on one machine. One directory, one owner, one log that all runs share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from boxflow.errors import (
    BoxflowError,
    ConfigurationError,
    FenceError,
    RunNotFoundError,
    StoreClosedError,
    StoreError,
    StoreFailedError,
)
from boxflow.model import Blob, Change, Duration, Head, Item, Outcome, RunRecord, seconds
from boxflow.ports import Fence, RunQuery, StoredRun
from boxflow_backends.file_store.archive import Archive, find
from boxflow_backends.file_store.archive_index import hash_of
from boxflow_backends.file_store.disk import Disk, RealDisk
from boxflow_backends.file_store.lines import (
    PLACE_BITS,
    PLACE_MASK,
    AppendLine,
    Files,
    Line,
    as_lines,
    before_of,
    both,
    damaged,
    encode,
    number_of,
)
from boxflow_backends.file_store.reading import Snapshot, list_runs, may_be_archived, read_outcomes, read_run
from boxflow_backends.file_store.session import ReadOnlySession, Session, Settings
from boxflow_backends.file_store.state import State
from boxflow_backends.file_store.writer import Durability, Waiter, say
from boxflow_backends.run_index import IndexedRun, fence_token

T = TypeVar("T")

_THREADS = 4
# A read that meets a file which compaction has removed looks its places up again; many times in a row is no chance.
_ATTEMPTS = 5


class FileStore:
    """A `Store` in a directory of JSON lines, owned by one process at a time.

    :param durability: what has happened when a change returns. `"always"`: it survives power loss. `"interval"`: it
        survives the death of the process, and power loss except for the last *interval_s*. `"os"`: it survives the
        death of the process; what power loss costs is up to the operating system.
    :param segment_bytes: the size of one log file
    :param retention_s: how long finished runs are kept after they were archived; None keeps them for ever
    :param read_only: look at what is on disk, beside the process that owns it; every change is refused
    """

    def __init__(
        self,
        path: str | Path,
        *,
        durability: Durability = "always",
        interval_s: float = 0.05,
        segment_bytes: int = 8 << 20,
        retention_s: Duration | None = "30d",
        read_only: bool = False,
        disk: Disk | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        if durability not in ("always", "interval", "os"):
            raise ConfigurationError(f"durability {durability!r} is not known; use 'always', 'interval' or 'os'")
        if interval_s <= 0 or segment_bytes <= 0:
            raise ConfigurationError("interval_s and segment_bytes must be positive")
        self.path = Path(path).absolute()
        self._read_only = read_only
        self._settings = Settings(
            root=self.path,
            disk=RealDisk() if disk is None else disk,
            durability=durability,
            interval_s=interval_s,
            segment_bytes=segment_bytes,
            retention_s=None if retention_s is None else seconds(retention_s),
            now=now,
        )
        self._session: Session | ReadOnlySession | None = None
        self._threads: ThreadPoolExecutor | None = None

    @classmethod
    def reader(cls, path: str | Path) -> Self:
        """The same as `FileStore(path, read_only=True)`."""
        return cls(path, read_only=True)

    @property
    def outlives_process(self) -> bool:
        """It is kept on disk."""
        return True

    async def __aenter__(self) -> Self:
        if self._session is not None:
            raise StoreError(f"store {str(self.path)!r} is open already; one `async with` at a time")
        self._threads = ThreadPoolExecutor(_THREADS, "boxflow-file-store")
        try:
            opening = asyncio.get_running_loop().run_in_executor(self._threads, self._open)
            await _to_its_end(opening)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def claim(self, run_id: str, owner: str) -> Fence:
        session = self._changeable()
        while True:
            with session.lock:
                session.check_open()
                run = session.state.index.runs.get(run_id)
                if run is not None:
                    return session.state.index.claim(run, session.log.epoch)
            if not await self._bring_back(session, run_id):
                raise RunNotFoundError(run_id)

    async def create_run(self, record: RunRecord, head: Head, changes: Sequence[Change] = ()) -> StoredRun:
        session = self._changeable()
        if head.length:
            raise StoreError(f"run {record.run_id!r} cannot begin with {head.length} outcomes; append them")
        absent_in: tuple[Archive, ...] | None = None
        while True:
            with session.lock:
                session.check_open()
                state = session.state
                is_there = record.run_id in state.index.runs
                if not is_there and (state.archives is absent_in or not _may_be_archived(state, record.run_id)):
                    line = Line(
                        op="create",
                        epoch=session.log.epoch,
                        synced=session.log.synced_bytes(),
                        run=record.run_id,
                        record=record,
                        head=head,
                        changes=as_lines(changes),
                    )
                    if session.is_being_forgotten(record.run_id):
                        # Only memory knows yet that the one of that id before is gone.
                        session.log.add_unawaited(session.deletion(record.run_id))
                    where, waiter = session.log.add(encode(line), asyncio.get_running_loop())
                    state.index.add(record, head, both(where, where))
                    session.recent.hold(record, head, both(where, where))
                    state.items.apply(changes)
                    break
                archives = state.archives
            found = await self.get_run(record.run_id)
            if found is not None:
                return found
            absent_in = archives
        await waiter
        return StoredRun(record=record, head=head)

    async def append(
        self, run_id: str, outcomes: Sequence[Outcome], head: Head, fence: Fence, changes: Sequence[Change] = ()
    ) -> None:
        session = self._session
        if not isinstance(session, Session):
            session = self._changeable()
        while True:
            with session.lock:
                if not session.is_accepting:
                    session.check_open()
                run = session.state.index.runs.get(run_id)
                if run is not None:
                    waiter = _append(session, run, outcomes, head, fence, changes)
                    break
            if not await self._bring_back(session, run_id):
                raise RunNotFoundError(run_id)
        await waiter

    async def read_journal(self, run_id: str, *, after: int = 0) -> Sequence[Outcome]:
        def read(session: Session | ReadOnlySession, kept: int) -> list[Outcome]:
            return read_outcomes(session.disk, session.root, kept, after)

        outcomes = await self._read(run_id, read)
        if outcomes is None:
            raise RunNotFoundError(run_id)
        return outcomes

    async def get_run(self, run_id: str) -> StoredRun | None:
        def read(session: Session | ReadOnlySession, kept: int) -> StoredRun:
            run = read_run(session.disk, session.root, kept)
            with session.lock:
                session.recent.hold(run.record, run.head, kept)
            return run

        return await self._recent(run_id) or await self._read(run_id, read)

    async def find_runs(self, query: RunQuery) -> Sequence[StoredRun]:
        before = None
        if query.after is not None:
            last = await self.get_run(query.after)
            if last is None:
                raise RunNotFoundError(query.after)
            before = (last.record.created_at, last.record.run_id)

        def read(session: Session | ReadOnlySession, snapshot: Snapshot) -> list[StoredRun]:
            return list_runs(session.disk, session.root, query, before, snapshot)

        async def once() -> list[StoredRun]:
            session = self._opened()
            with session.lock:
                runs = session.state.index.find(query, before=before)
                archives = session.state.archives if may_be_archived(query) else ()
                if not runs and not archives:
                    return []
                newest = max((run.kept & PLACE_MASK for run in runs), default=0)
                found = [session.recent.find(run.run_id, run.kept) for run in runs]
                live = [(run.created_at, run.run_id, run.kept) for run in runs]
                snapshot = Snapshot(
                    live=live,
                    archives=archives,
                    gone=session.state.gone,
                    hidden=frozenset(session.state.revived),
                )
            if runs:
                await self._written(session, newest)
            if not archives and None not in found:
                return [run for run in found if run is not None]
            listed = await self._in_thread(lambda: read(session, snapshot))
            if len(live) == 1 and not archives:
                # The one run that waits for something: it is about to go on.
                with session.lock:
                    session.recent.hold(listed[0].record, listed[0].head, live[0][2])
            return listed

        return await self._again_when_moved(once)

    async def delete_run(self, run_id: str) -> None:
        session = self._changeable()
        is_absent = False
        while True:
            with session.lock:
                session.check_open()
                run = session.state.index.runs.get(run_id)
                if run is not None or is_absent or not _may_be_archived(session.state, run_id):
                    waiter = _delete(session, run_id, run)
                    break
            is_absent = not await self._bring_back(session, run_id)
        if waiter is not None:
            await waiter
        await self._change_in_thread(session, lambda: session.blobs.remove(run_id, unless=session.is_live))

    async def change_items(self, changes: Sequence[Change]) -> None:
        session = self._changeable()
        with session.lock:
            session.check_open()
            log = session.log
            line = Line(op="change", epoch=log.epoch, synced=log.synced_bytes(), changes=as_lines(changes))
            _, waiter = log.add(encode(line), asyncio.get_running_loop())
            session.state.items.apply(changes)
        await waiter

    async def get_item(self, collection: str, key: str) -> Item | None:
        session = self._opened()
        with session.lock:
            return session.state.items.get(collection, key)

    async def list_items(self, collection: str, *, prefix: str = "", limit: int | None = None) -> Sequence[Item]:
        session = self._opened()
        with session.lock:
            return session.state.items.list(collection, prefix=prefix, limit=limit)

    async def put_blob(self, run_id: str, data: bytes) -> Blob:
        session = self._changeable()
        return await self._change_in_thread(session, lambda: session.blobs.put(run_id, data))

    async def get_blob(self, run_id: str, blob: Blob) -> bytes:
        session = self._opened()
        return await self._in_thread(lambda: session.blobs.get(run_id, blob))

    async def compact(self) -> None:
        """Compact now what was written so far, instead of when it is worth it."""
        session = self._changeable()
        await self._in_thread(session.compact)

    # --- opening and closing -------------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            self._session = ReadOnlySession(self._settings) if self._read_only else Session(self._settings)
        except BoxflowError:
            raise
        except OSError as error:
            where = f" ({error.filename!r})" if error.filename else ""
            raise StoreError(
                f"store {str(self.path)!r} could not be opened: {error.strerror or error}{where}; "
                "give it a directory that this user may read and write, on a disk with space"
            ) from error

    async def _close(self) -> None:
        session, self._session = self._session, None
        threads, self._threads = self._threads, None
        if threads is None:
            return
        try:
            if isinstance(session, Session):
                await _to_its_end(asyncio.get_running_loop().run_in_executor(threads, session.close))
        finally:
            threads.shutdown(wait=False)

    def _opened(self) -> Session | ReadOnlySession:
        session = self._session
        if session is None:
            raise StoreClosedError(f"store {str(self.path)!r} is not open; use it inside `async with store:`")
        session.check_open()
        return session

    def _changeable(self) -> Session:
        session = self._opened()
        if isinstance(session, Session):
            return session
        raise StoreClosedError(f"store {str(self.path)!r} is open for reading only; open it without `read_only=True`")

    # --- changing ------------------------------------------------------------------------------------------------

    async def _bring_back(self, session: Session, run_id: str) -> bool:
        """Take an archived run into memory; False when there is none."""

        async def once() -> bool:
            while True:
                with session.lock:
                    session.check_open()
                    state = session.state
                    archives, gone = state.archives, state.gone
                    if run_id in state.index.runs:
                        return True
                    if not _may_be_archived(state, run_id):
                        return False
                found = await self._in_thread(partial(_look_up, session, archives, gone, run_id))
                with session.lock:
                    if state.archives is not archives:
                        continue
                    if found is None:
                        return False
                    if run_id not in state.index.runs and (number_of(found[0]), run_id) not in state.gone:
                        state.revive(*found).token = session.past_tokens.pop(run_id, 0)

        return await self._again_when_moved(once)

    async def _change_in_thread(self, session: Session, change: Callable[[], T]) -> T:
        """Run *change* in a thread, cancelled or not; a disk that fails it has failed the store."""

        def changed() -> T:
            try:
                return change()
            except OSError as error:
                session.fail(say(error))
                raise StoreFailedError(say(error)) from error

        return await self._in_thread(changed)

    # --- reading -------------------------------------------------------------------------------------------------

    async def _recent(self, run_id: str) -> StoredRun | None:
        session = self._opened()
        with session.lock:
            run = session.state.index.runs.get(run_id)
            if run is None or (found := session.recent.find(run_id, run.kept)) is None:
                return None
            where = run.kept & PLACE_MASK
        await self._written(session, where)
        return found

    async def _read(self, run_id: str, read: Callable[[Session | ReadOnlySession, int], T]) -> T | None:
        async def once() -> T | None:
            session = self._opened()
            with session.lock:
                state = session.state
                archives, gone = state.archives, state.gone
                run = state.index.runs.get(run_id)
                kept = None if run is None else run.kept
                if kept is None and not _may_be_archived(state, run_id):
                    return None
            if kept is not None:
                await self._written(session, kept & PLACE_MASK)
                return await self._in_thread(lambda: read(session, kept))

            def read_archived() -> T | None:
                found = _look_up(session, archives, gone, run_id)
                return None if found is None else read(session, both(found[0], found[0]))

            return await self._in_thread(read_archived)

        return await self._again_when_moved(once)

    async def _written(self, session: Session | ReadOnlySession, where: int) -> None:
        """Wait until the line at *where* can be read from its file: its own caller may still be waiting too."""
        if isinstance(session, ReadOnlySession):
            return
        with session.lock:
            if session.log.is_written(where):
                return
            session.check_open()
            waiter = session.log.writer.put_awaited(b"", asyncio.get_running_loop())
        await waiter

    async def _again_when_moved(self, once: Callable[[], Awaitable[T]]) -> T:
        """Do *once*, and again when it met a file that compaction removed: by then the index knows the new place."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await once()
            except FileNotFoundError as error:
                if attempt == _ATTEMPTS:
                    raise damaged(Path(error.filename), 0, "the file is missing") from error
                session = self._session
                if isinstance(session, ReadOnlySession):
                    await self._in_thread(session.reload)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        if self._threads is None:
            raise StoreClosedError(f"store {str(self.path)!r} is not open; use it inside `async with store:`")
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _append(
    session: Session,
    run: IndexedRun[int],
    outcomes: Sequence[Outcome],
    head: Head,
    fence: Fence,
    changes: Sequence[Change],
) -> Waiter:
    log = session.log
    if fence.token != fence_token(run, log.epoch):
        raise FenceError(f"run {run.run_id!r} has another owner now; this append changed nothing")
    if head.length != run.length + len(outcomes) or (outcomes and outcomes[0].seq != run.length + 1):
        raise StoreError(f"run {run.run_id!r} has {run.length} outcomes; {len(outcomes)} do not lead to {head.length}")
    first = run.kept >> PLACE_BITS
    line = AppendLine(
        epoch=log.epoch,
        synced=log.synced_bytes(),
        run=run.run_id,
        prev=before_of(run.kept & PLACE_MASK),
        head=head,
        outcomes=outcomes,
        changes=as_lines(changes) if changes else (),
    )
    where, waiter = log.add(encode(line), asyncio.get_running_loop())
    before, run.kept = run.kept, both(first, where)
    session.recent.changed(run.run_id, before, head, run.kept)
    session.state.index.update(run, head)
    if changes:
        session.state.items.apply(changes)
    return waiter


def _delete(session: Session, run_id: str, run: IndexedRun[int] | None) -> Waiter | None:
    if run is None and not session.state.items.of_run(run_id) and not session.is_being_forgotten(run_id):
        return None
    _, waiter = session.log.add(session.deletion(run_id), asyncio.get_running_loop())
    if run is not None:
        session.state.remove(run)
    return waiter


def _may_be_archived(state: State, run_id: str) -> bool:
    """Whether an archive has a run with the same hash; that it is the same id must be read."""
    if not state.archives:
        return False
    run_hash = hash_of(run_id)
    return any((a.number, run_id) not in state.gone and a.index.rows_with(run_hash) for a in state.archives)


def _look_up(
    session: Session | ReadOnlySession, archives: Sequence[Archive], gone: set[tuple[int, str]], run_id: str
) -> tuple[int, Line] | None:
    with Files(session.disk, session.root) as files:
        return find(archives, gone, files, run_id)


async def _to_its_end(call: asyncio.Future[T]) -> T:
    """The result of a call in a thread; cancelling waits for it all the same, because the thread goes on."""
    cancelled: asyncio.CancelledError | None = None
    while not call.done():
        try:
            await asyncio.wait([call])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return call.result()
