"""A file store between opening and closing: its state, its log, and the compaction that runs beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from math import inf
from pathlib import Path

import attrs
import msgspec

from boxflow.errors import StoreClosedError, StoreCorruptError, StoreError, StoreFailedError
from boxflow_backends.file_store.archive import Archive, find
from boxflow_backends.file_store.archive_index import hash_of
from boxflow_backends.file_store.blobs import Blobs
from boxflow_backends.file_store.compaction import Compacted, Compaction, Plan
from boxflow_backends.file_store.disk import Disk
from boxflow_backends.file_store.lines import FOLDERS, Files, Line, as_lines, both, encode, number_of
from boxflow_backends.file_store.log import Log
from boxflow_backends.file_store.pace import Pace
from boxflow_backends.file_store.recent import Recent
from boxflow_backends.file_store.recovery import Recovered, recover, repair
from boxflow_backends.file_store.state import State, first_of, is_in_log_after, last_of
from boxflow_backends.file_store.writer import Durability, say

# Few enough that applying one portion of a compaction is not felt by the event loop.
_SWITCHED_AT_ONCE = 200
# Of full segments, so many are compacted at once.
_SEGMENTS_AT_ONCE = 2
# Opening reads all segments since the checkpoint, and each opening adds one.
_MANY_SEGMENTS = 16
# On closing, less than this is left for the next opening to read.
_LITTLE_BYTES = 1 << 20
# Archives up to this size are merged, in the background; and when the store is closed, which waits for it.
_MERGED_BYTES = 1 << 30
_MERGED_LAST_BYTES = 16 << 20
# How many fences of archived runs are remembered: their engines may still append, as when a failed run is resumed.
_PAST_FENCES = 10_000
_ATTEMPTS = 5


@attrs.frozen(kw_only=True)
class Settings:
    """How a store was set up."""

    root: Path
    disk: Disk
    durability: Durability
    interval_s: float
    segment_bytes: int
    retention_s: float | None
    now: Callable[[], float]


class Session:
    """One opening. What is not said to block does not; whoever uses `state` or `log` holds `lock`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.disk = settings.disk
        self.root = settings.root
        self.lock = threading.Lock()
        self.blobs = Blobs(self.disk, self.root)
        self.recent = Recent()
        self.past_tokens: dict[str, int] = {}
        # The same as `check_open` returning, for where every microsecond counts.
        self.is_accepting = True
        self._failure: str | None = None
        self._closing = False
        self._closed = False
        self._compacting = threading.Lock()
        #: Archives whose time is over, until no checkpoint has them any more: after a crash they are there again.
        self._forgetting: list[Archive] = []
        self._compactor: threading.Thread | None = None
        self._abandon = self._open()

    def _open(self) -> Callable[[], None]:
        """Become the owner, recover, and begin a segment. Blocks."""
        _make_directories(self.disk, self.root)
        abandon = self.disk.own(self.root)
        try:
            found = recover(self.disk, self.root)
            repair(self.disk, self.root, found)
            for run_id in found.deleted:
                self.blobs.remove(run_id, unless=found.state.index.runs.__contains__)
            self.state: State = found.state
            self.log = self._begin_log(found)
        except BaseException:
            abandon()
            raise
        self._compact_if_due()
        return abandon

    def _begin_log(self, found: Recovered) -> Log:
        settings = self._settings
        log = Log(
            self.disk,
            self.root,
            number=found.segment + 1,
            crc=found.crc,
            epoch=found.epoch + 1,
            lock=self.lock,
            segment_bytes=settings.segment_bytes,
            durability=settings.durability,
            interval_s=settings.interval_s,
            rolled=self._compact_if_due,
            failed=self.fail,
        )
        log.sealed.update(found.sealed)
        return log

    def check_open(self) -> None:
        """Refuse what comes after a failure, or after closing began.

        Reading is refused too: what memory holds may be more than what the disk took.
        """
        self._check_failure()
        if self._closed:
            raise StoreClosedError(f"store {str(self.root)!r} was closed meanwhile; this changed nothing")

    def _check_failure(self) -> None:
        if self._failure is not None:
            raise StoreFailedError(self._failure)

    def fail(self, why: str) -> None:
        """Accept nothing more. Called from any thread."""
        with self.lock:
            self.is_accepting = False
            if self._failure is None:
                self._failure = why

    def close(self) -> None:
        """Make durable what was accepted, and give up ownership. Blocks.

        :raises StoreFailedError: what was accepted could not be made durable
        """
        had_failed = self._failure is not None
        with self.lock:
            self.is_accepting = False
            self._closing = self._closed = True
        try:
            if self._compactor is not None:
                self._compactor.join()
            if self._failure is None and self._is_worth_it(_LITTLE_BYTES):
                self._compact_to(is_last=True)
        finally:
            # Whoever else compacts ends soon; until then the directory is ours.
            with self._compacting:
                with self.lock:
                    if self._failure is None:
                        self.log.close()
                self.log.writer.stop()
                self.blobs.close()
                self._abandon()
        if not had_failed:
            self._check_failure()

    # --- compaction ----------------------------------------------------------------------------------------------

    def compact(self) -> None:
        """Compact everything written so far. Blocks."""
        self._compact_to(is_last=False)

    def _compact_to(self, *, is_last: bool) -> None:
        with self.lock:
            if is_last:
                self._check_failure()
            else:
                self.check_open()
            upto = self.log.number
            self.log.roll()
        self.log.writer.wait()
        with self.lock:
            self._check_failure()
        while self.state.covered < upto and self._compact(is_last=is_last):
            pass

    def _is_worth_it(self, little_bytes: int) -> bool:
        """Whether the log has grown as much as the checkpoint: then rewriting costs each record little."""
        with self.lock:
            return self.log.since_checkpoint_bytes() >= max(little_bytes, self.state.checkpoint_bytes)

    def _compact_if_due(self) -> None:
        """Start compacting in the background where enough is sealed. Called when a segment was begun."""
        with self.lock:
            sealed = self.log.sealed
            enough = self._backlog() >= 1
            before = self._drop_before()
            over = before is not None and any(archive.newest_archived_at < before for archive in self.state.archives)
            running = self._compactor is not None and self._compactor.is_alive()
            if running or self._closing or not sealed or not (enough or over or len(sealed) >= _MANY_SEGMENTS):
                return
            self._compactor = threading.Thread(
                target=self._compact_aside, name="boxflow-file-store-compaction", daemon=True
            )
            self._compactor.start()

    def _compact_aside(self) -> None:
        try:
            while self._compact(is_last=False) and self._backlog() >= 1:
                pass
        except StoreFailedError:
            # Whoever calls next is told.
            return

    def _backlog(self) -> float:
        """How often there is as much to compact as is compacted at once."""
        return sum(self.log.sealed.values()) / max(self._settings.segment_bytes, self.state.checkpoint_bytes)

    def _compact(self, *, is_last: bool) -> bool:
        """Compact what is sealed, or the older part of that where it is much; False when nothing was done.

        :param is_last: the store is being closed, and waits for it
        """
        if is_last:
            pace = Pace(backlog=lambda: inf, stopped=lambda: False)
        else:
            pace = Pace(backlog=self._backlog, stopped=lambda: self._closing)
        with self._compacting:
            if self._closing and not is_last:
                return False
            self.blobs.watch()
            try:
                with self.lock:
                    plan = self._plan(is_last=is_last)
                if plan is None:
                    return False
                compaction = Compaction(self.disk, self.root, plan, known=self._known, forget=self._forget, pace=pace)
                done = compaction.run()
                if done is None:
                    return False
                self._switch(done)
                compaction.remove_old()
                return True
            except OSError as error:
                self.fail(say(error))
                raise StoreFailedError(say(error)) from error
            except (StoreCorruptError, msgspec.DecodeError) as error:
                why = f"compaction stopped: {error}"
                self.fail(why)
                raise StoreFailedError(why) from error

    def _plan(self, *, is_last: bool) -> Plan | None:
        synced_number, _ = self.log.writer.synced
        # What has ended is switched over under the lock: with too much at once everybody else would wait for that.
        most_bytes = (
            inf if is_last else max(_SEGMENTS_AT_ONCE * self._settings.segment_bytes, self.state.checkpoint_bytes)
        )
        upto, size = 0, 0
        for number in sorted(number for number in self.log.sealed if number < synced_number):
            size += self.log.sealed[number]
            if upto and size > most_bytes:
                break
            upto = number
        if upto <= self.state.covered:
            return None
        return Plan(
            upto=upto,
            covered=self.state.covered,
            epoch=self.log.epoch,
            archives=self.state.archives,
            pinned=frozenset(self.state.revived.values()),
            now=self._settings.now(),
            drop_before=self._drop_before(),
            merged_bytes=_MERGED_LAST_BYTES if is_last else _MERGED_BYTES,
        )

    def _drop_before(self) -> float | None:
        retention_s = self._settings.retention_s
        return None if retention_s is None else self._settings.now() - retention_s

    def _known(self, run_id: str) -> str:
        run = self.state.index.runs.get(run_id)  # Without the lock: one look into a dict is whole by itself.
        return run_id if run is None else run.run_id

    def _forget(self, archive: Archive, run_ids: Iterable[str]) -> bool:
        """Drop the runs of an archive with what belongs to them; False when one of them came back to life."""
        with self.lock:
            self._check_failure()
            if archive.number in self.state.revived.values():
                return False
            before = self.state.archives
            self.state.archives = tuple(other for other in before if other is not archive)
            self._forgetting.append(archive)
        try:
            remaining = iter(run_ids)
            while portion := list(islice(remaining, _SWITCHED_AT_ONCE)):
                self._forget_some(archive, portion)
        except BaseException:
            # It is dropped another time, with what still belongs to its runs.
            with self.lock:
                self.state.archives = before
                self._forgetting.remove(archive)
            raise
        return True

    def _forget_some(self, archive: Archive, run_ids: Sequence[str]) -> None:
        state = self.state
        with self.lock:
            dropped = [
                run_id
                for run_id in run_ids
                if run_id not in state.index.runs and (archive.number, run_id) not in state.gone
            ]
            changes = [change for run_id in dropped for change in state.items.of_run(run_id)]
            if changes:
                state.items.apply(changes)
                self.log.add_unawaited(encode(Line(op="change", epoch=self.log.epoch, changes=as_lines(changes))))
            for run_id in dropped:
                self.past_tokens.pop(run_id, None)
        for run_id in dropped:
            self.blobs.remove(run_id, unless=lambda run_id: self.is_live(run_id) or self.blobs.was_given_one(run_id))

    def is_live(self, run_id: str) -> bool:
        """Whether there is a run of that id in memory."""
        return run_id in self.state.index.runs

    def is_being_forgotten(self, run_id: str) -> bool:
        """Whether an archive that is being dropped may have the run. Called under the lock."""
        if not self._forgetting:
            return False
        run_hash = hash_of(run_id)
        return any(archive.index.rows_with(run_hash) for archive in self._forgetting)

    def deletion(self, run_id: str) -> bytes:
        """The line to write that says so: the run is gone, with its items. Called under the lock."""
        items = self.state.items.of_run(run_id)
        self.state.items.apply(items)
        self.past_tokens.pop(run_id, None)
        self.state.gone.update((archive.number, run_id) for archive in self._forgetting)
        log = self.log
        return encode(
            Line(op="delete", epoch=log.epoch, synced=log.synced_bytes(), run=run_id, changes=as_lines(items))
        )

    def _switch(self, done: Compacted) -> None:
        """Look for runs where they are now. Old and new places are both good until the old files are removed."""
        for begin in range(0, len(done.archived), _SWITCHED_AT_ONCE):
            with self.lock:
                for run_id, where in done.archived.part(begin, begin + _SWITCHED_AT_ONCE):
                    self._expect_archived(run_id, where, done.upto)
            time.sleep(0.0002)
        with self.lock:
            moved = self._switch_archives(done)
        for run_id, archive in moved:
            with Files(self.disk, self.root) as files:
                found = find((archive,), set(), files, run_id)
            if found is not None:
                done.archived.add(run_id, found[0])
        for begin in range(0, len(done.archived), _SWITCHED_AT_ONCE):
            with self.lock:
                for run_id, where in done.archived.part(begin, begin + _SWITCHED_AT_ONCE):
                    self._switch_archived(run_id, where, done)
            time.sleep(0.0002)
        for begin in range(0, len(done.carried), _SWITCHED_AT_ONCE):
            with self.lock:
                for run_id, where in done.carried.part(begin, begin + _SWITCHED_AT_ONCE):
                    self._switch_carried(run_id, where, done.upto)
            time.sleep(0.0002)

    def _expect_archived(self, run_id: str, where: int, upto: int) -> None:
        """The run is in an archive that is about to count: until it leaves memory, it is as one that came back."""
        state = self.state
        run = state.index.runs.get(run_id)
        if run is None or is_in_log_after(first_of(run), upto):
            state.gone.add((number_of(where), run_id))
            return
        before = state.revived.get(run_id)
        if before is not None:
            state.gone.add((before, run_id))
        state.revived[run_id] = number_of(where)

    def _switch_archives(self, done: Compacted) -> list[tuple[str, Archive]]:
        """The new archives count from now on.

        Returns what came back to life from an archive while that was merged, and which archive has it now.
        """
        state = self.state
        kept = {archive.number: archive for archive in done.archives}
        gone = done.gone | {entry for entry in state.gone if entry[0] in kept}
        for archive, run_id in state.gone - done.all_gone:
            # What was deleted meanwhile is in the merged archive all the same.
            if archive in done.merged:
                gone.add((done.merged[archive], run_id))
        moved = [(run_id, number) for run_id, number in state.revived.items() if number in done.merged]
        for run_id, number in moved:
            state.revived[run_id] = done.merged[number]
        state.gone = gone
        state.archives = done.archives
        self._forgetting.clear()
        state.covered = done.upto
        state.checkpoint_bytes = done.checkpoint_bytes
        for number in [number for number in self.log.sealed if number <= done.upto]:
            del self.log.sealed[number]
        return [(run_id, kept[done.merged[number]]) for run_id, number in moved]

    def _switch_archived(self, run_id: str, where: int, done: Compacted) -> None:
        run = self.state.index.runs.get(run_id)
        if run is None or is_in_log_after(first_of(run), done.upto):
            return
        last = last_of(run)
        if is_in_log_after(last, done.upto):
            run.kept = both(where, last)
        elif run_id in done.ended:
            self.state.index.remove(run)
            self.state.revived.pop(run_id, None)
            self._remember_token(run_id, run.token)
        else:
            run.kept = both(where, where)

    def _switch_carried(self, run_id: str, where: int, upto: int) -> None:
        run = self.state.index.runs.get(run_id)
        if run is None or is_in_log_after(first_of(run), upto):
            return
        last = last_of(run)
        run.kept = both(where, last if is_in_log_after(last, upto) else where)
        self.state.revived.pop(run_id, None)

    def _remember_token(self, run_id: str, token: int) -> None:
        self.past_tokens.pop(run_id, None)
        if not token:
            return
        self.past_tokens[run_id] = token
        while len(self.past_tokens) > _PAST_FENCES:
            del self.past_tokens[next(iter(self.past_tokens))]


class ReadOnlySession:
    """One opening beside the owner, or without one: what was on disk at that instant."""

    def __init__(self, settings: Settings) -> None:
        self.disk = settings.disk
        self.root = settings.root
        self.lock = threading.Lock()
        self.blobs = Blobs(self.disk, self.root)
        self.recent = Recent()
        self.state = self._load()

    def check_open(self) -> None:
        """Nothing can fail that is only read."""

    def reload(self) -> None:
        """Look at what is on disk now. Blocks."""
        state = self._load()
        with self.lock:
            self.state = state

    def _load(self) -> State:
        if not self.disk.is_directory(self.root / "log"):
            raise StoreError(f"there is no store in {str(self.root)!r}; check the path")
        for attempt in range(_ATTEMPTS):
            try:
                return recover(self.disk, self.root).state
            except (FileNotFoundError, StoreCorruptError):
                # The owner removes files when it compacts; only what stays wrong is wrong.
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")


def _make_directories(disk: Disk, root: Path) -> None:
    missing = [path for path in (root, *root.parents) if not disk.is_directory(path)]
    for path in reversed(missing):
        disk.make_directory(path)
        disk.sync_directory(path.parent)
    names = disk.list_directory(root)
    for name in (*FOLDERS.values(), "blobs"):
        if name not in names:
            disk.make_directory(root / name)
    disk.sync_directory(root)
    # Whoever made the directory may have died before that was durable.
    disk.sync_directory(root.parent)
