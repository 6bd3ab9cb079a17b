"""Compaction: sealed segments and the old checkpoint become a new checkpoint, with what is finished put into archives.

What it writes is the state as of the end of the last sealed segment, computed from files alone: the store goes on
working meanwhile, and what it adds is in later segments, which are replayed on top of the checkpoint. The rename of the
new checkpoint is the one step at which everything changes over: it says which segments count no more and which archives
do. A crash before leaves files that do not count, a crash after leaves files that count no more; opening removes both.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from pathlib import Path

import attrs
import msgspec

from boxflow.model import Delete, Item, Put
from boxflow_backends.file_store.archive import Archive, Finished, Places, find, finished, write_archive
from boxflow_backends.file_store.disk import Disk, remove_if_there, write_all
from boxflow_backends.file_store.lines import (
    ENDING,
    FORMAT,
    Files,
    Kind,
    Line,
    as_changes,
    as_lines,
    checked,
    damaged,
    decode,
    encode,
    file_path,
    lines_of,
    number_of,
    place,
    seal,
)
from boxflow_backends.file_store.recovery import checked_lines, numbers
from boxflow_backends.file_store.touched import Touched

# As many archives of about one size are merged into one: an id is then looked up in few files, however many runs ended.
_MERGE_COUNT = 8
_MERGE_UP_TO_BYTES = 1 << 30
# After so many lines the thread gives way, so that the event loop never waits long for the interpreter.
_LINES_AT_ONCE = 64
# Segments are held in memory up to this; lines of later ones are read from their places.
_HELD_BYTES = 32 << 20


@attrs.frozen(kw_only=True)
class Plan:
    """What to compact.

    :param upto: the last segment that is sealed
    :param covered: what the old checkpoint covers
    :param pinned: archives that live runs still refer to
    :param now: by the clock of the store
    :param drop_before: runs that were archived earlier are dropped; None keeps all
    """

    upto: int
    covered: int
    epoch: int
    archives: tuple[Archive, ...]
    pinned: frozenset[int]
    now: float
    drop_before: float | None


@attrs.define(kw_only=True)
class Compacted:
    """What changed over: where runs are now.

    :param carried: runs in the checkpoint and their places
    :param archived: runs in new archives and their places
    :param ended: those of them that were live until now
    :param gone: what does not count in the archives that are kept; *all_gone* also in those that are not
    """

    upto: int
    carried: Places = attrs.field(factory=Places)
    archived: Places = attrs.field(factory=Places)
    archives: tuple[Archive, ...] = ()
    ended: frozenset[str] = frozenset()
    gone: set[tuple[int, str]] = attrs.field(factory=set[tuple[int, str]])
    all_gone: set[tuple[int, str]] = attrs.field(factory=set[tuple[int, str]])
    checkpoint_bytes: int = 0


class _ItemKey(msgspec.Struct):
    collection: str
    key: str


class _ChangeKey(msgspec.Struct):
    put: _ItemKey | None = None


class _Key(msgspec.Struct):
    """As much of a checkpoint's line as says whether it still holds."""

    op: str
    run: str = ""
    archive: int = 0
    changes: tuple[_ChangeKey, ...] = ()


class _CheckpointFile:
    """The new checkpoint, while it is written. It has its name only once it is whole and durable."""

    def __init__(self, disk: Disk, root: Path, number: int) -> None:
        self.path = file_path(root, Kind.CHECKPOINT, number)
        self._unfinished = self.path.with_suffix(".jsonl.tmp")
        self._number = number
        self._disk = disk
        remove_if_there(disk, self._unfinished)
        self._file = disk.create(self._unfinished)
        self._crc = 0
        self._lines: list[bytes] = []
        self._waiting_bytes = 0
        self.size_bytes = 0
        self.count = 0

    def add(self, body: bytes) -> int:
        """Write one encoded object as a line; its place."""
        line, self._crc = seal(body, self._crc)
        where = place(Kind.CHECKPOINT, self._number, self.size_bytes)
        self._lines.append(line)
        self._waiting_bytes += len(line)
        self.size_bytes += len(line)
        self.count += 1
        if self._waiting_bytes > 1 << 20:
            self._flush()
        return where

    def finish(self) -> None:
        """Make it count."""
        self.add(encode(Line(op="end", count=self.count + 1)))
        self._flush()
        self._disk.sync(self._file)
        self.close()
        self._disk.rename(self._unfinished, self.path)
        self._disk.sync_directory(self.path.parent)

    def close(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            self._disk.close(file)

    def _flush(self) -> None:
        write_all(self._disk, self._file, b"".join(self._lines))
        self._lines = []
        self._waiting_bytes = 0


class Compaction:
    """One compaction. `run` does all of it up to the change-over; then the store switches, and calls `remove_old`.

    :param known: a run id, as the same string that the store has where it has one: what is here for each run is there
        beside it for a while
    """

    def __init__(
        self,
        disk: Disk,
        root: Path,
        plan: Plan,
        *,
        known: Callable[[str], str],
        forget: Callable[[Archive, Sequence[str]], bool],
        stopped: Callable[[], bool],
    ) -> None:
        self._disk = disk
        self._root = root
        self._plan = plan
        self._forget = forget
        self._stopped = stopped
        self._known = known
        self._touched = Touched(known)
        self._dropped: set[str] = set()
        self._items: dict[tuple[str, str], Item | None] = {}
        self._done = Compacted(upto=plan.upto)
        self._lines = 0
        self._held_bytes = 0

    def run(self) -> Compacted | None:
        """Do it; None when the store was closed meanwhile: then nothing has changed."""
        try:
            with Files(self._disk, self._root) as files:
                return self._run(files)
        except _StoppedError:
            return None

    def remove_old(self) -> None:
        """Remove the files that no longer count."""
        plan, kept = self._plan, {archive.number for archive in self._done.archives}
        for number in range(plan.covered + 1, plan.upto + 1):
            remove_if_there(self._disk, file_path(self._root, Kind.LOG, number))
        if plan.covered:
            remove_if_there(self._disk, file_path(self._root, Kind.CHECKPOINT, plan.covered))
        for archive in plan.archives:
            if archive.number not in kept:
                path = file_path(self._root, Kind.ARCHIVE, archive.number)
                remove_if_there(self._disk, path)
                remove_if_there(self._disk, path.with_suffix(".index"))

    def _run(self, files: Files) -> Compacted:
        plan, done = self._plan, self._done
        after, gone = self._read_old(files)
        ended, alive = self._sort_out(files, gone)
        groups = self._group_archives(bool(ended))
        next_archive = max([0, *numbers(self._disk, self._root, Kind.ARCHIVE), *(a.number for a in plan.archives)]) + 1
        merged = [archive for group in groups for archive in group]
        emptied = Counter(number for number, _ in gone)
        archives = [
            archive
            for archive in plan.archives
            if archive not in merged and emptied[archive.number] < archive.count and not self._is_forgotten(archive)
        ]
        sources = [self._finished_of(group, gone) for group in groups]
        if ended:
            fresh = (self._finished(run_id, files) for _, run_id in sorted(ended))
            if sources:
                sources[0] = merge(sources[0], fresh, key=_age)
            else:
                sources.append(fresh)
        for source in sources:
            done.archived.extend(write_archive(self._disk, self._root, next_archive, plan.epoch, source))
            archives.append(Archive(self._disk, self._root, next_archive))
            next_archive += 1
        # Newest first: that is the order in which an id is looked up.
        done.archives = tuple(sorted(archives, key=lambda archive: -archive.number))
        kept = {archive.number for archive in done.archives}
        done.ended = frozenset(run_id for _, run_id in ended)
        done.all_gone = gone
        done.gone = {entry for entry in gone if entry[0] in kept}
        self._write_checkpoint(files, after, alive)
        return done

    def _read_old(self, files: Files) -> tuple[str, set[tuple[int, str]]]:
        """Read the segments: which runs they touch, and what becomes of items. Also the checksum at their end."""
        gone: set[tuple[int, str]] = set()
        crc = 0
        if self._plan.covered:
            path = file_path(self._root, Kind.CHECKPOINT, self._plan.covered)
            first = next(checked_lines(self._disk, path))[1]
            crc = int(first.after, 16)
        for number in range(self._plan.covered + 1, self._plan.upto + 1):
            path = file_path(self._root, Kind.LOG, number)
            self._held_bytes += self._disk.size(path)
            if self._held_bytes <= _HELD_BYTES:
                files.hold(number)
            for offset, raw, whole in lines_of(self._disk, path):
                after = checked(raw, crc) if whole else None
                if after is None:
                    raise damaged(path, offset, "the checksum is wrong")
                crc = after
                self._read_line(decode(raw), place(Kind.LOG, number, offset), files, gone)
                self._give_way()
        return f"{crc:08x}", gone

    def _read_line(self, line: Line, where: int, files: Files, gone: set[tuple[int, str]]) -> None:
        match line.op:
            case "create":
                self._touched.create(line.run, where)
            case "append":
                self._touched.add(line.run, where)
            case "delete":
                self._touched.drop(line.run)
                self._dropped.add(line.run)
                found = find(self._plan.archives, gone, files, line.run)
                if found is not None:
                    gone.add((number_of(found[0]), line.run))
            case _:
                pass
        for change in as_changes(line.changes):
            match change:
                case Put(item):
                    self._items[item.collection, item.key] = item
                case Delete(collection, key):
                    self._items[collection, key] = None

    def _sort_out(
        self, files: Files, gone: set[tuple[int, str]]
    ) -> tuple[list[tuple[tuple[float, str], str]], list[str]]:
        """Find where the touched runs begin; which of them ended, by age, and which did not."""
        for where, raw in self._old_checkpoint():
            key = _key(raw)
            if key.op == "gone":
                gone.add((key.archive, key.run))
            if key.op == "run" and self._touched.lacks_base(key.run) and key.run not in self._dropped:
                self._touched.set_base(key.run, where)
        ended: list[tuple[tuple[float, str], str]] = []
        alive: list[str] = []
        for run_id in self._touched:
            if self._touched.lacks_base(run_id):
                found = find(self._plan.archives, set(), files, run_id)
                if found is None:
                    continue
                self._touched.set_base(run_id, found[0])
                gone.add((number_of(found[0]), run_id))
            head = files.line(self._touched.newest(run_id)).head
            if head is not None and head.status.is_final:
                first = files.line(self._touched.places(run_id)[0])
                assert first.record is not None, "a run begins with its record"
                ended.append(((first.record.created_at, run_id), run_id))
            else:
                alive.append(run_id)
            self._give_way()
        return ended, alive

    def _write_checkpoint(self, files: Files, after: str, alive: Sequence[str]) -> None:
        plan, done = self._plan, self._done
        checkpoint = _CheckpointFile(self._disk, self._root, plan.upto)
        try:
            numbers_kept = tuple(archive.number for archive in done.archives)
            header = Line(
                op="checkpoint", format=FORMAT, number=plan.upto, epoch=plan.epoch, after=after, archives=numbers_kept
            )
            checkpoint.add(encode(header))
            for _, raw in self._old_checkpoint():
                key = _key(raw)
                body = raw[:-ENDING] + b"}"
                if key.op == "run":
                    if key.run not in self._touched and key.run not in self._dropped:
                        done.carried.add(self._known(key.run), checkpoint.add(body))
                elif key.op == "item":
                    put = key.changes[0].put
                    if put is not None and (put.collection, put.key) not in self._items:
                        checkpoint.add(body)
            for run_id in alive:
                body = self._joined(run_id, files)[1]
                done.carried.add(run_id, checkpoint.add(body))
                self._give_way()
            for item in self._items.values():
                if item is not None:
                    checkpoint.add(encode(item_line(item)))
            for archive, run_id in sorted(done.gone):
                checkpoint.add(encode(Line(op="gone", archive=archive, run=run_id)))
            checkpoint.finish()
            done.checkpoint_bytes = checkpoint.size_bytes
        finally:
            checkpoint.close()

    def _joined(self, run_id: str, files: Files) -> tuple[Line, bytes]:
        """All lines of a run as one: its record, its newest head, and its whole journal."""
        lines = [files.line(where) for where in self._touched.places(run_id)]
        journal = b",".join(part for line in lines if (part := bytes(line.outcomes)[1:-1]))
        joined = Line(
            op="run",
            run=run_id,
            record=lines[0].record,
            head=lines[-1].head,
            outcomes=msgspec.Raw(b"[" + journal + b"]"),
        )
        return joined, encode(joined)

    def _finished(self, run_id: str, files: Files) -> Finished:
        self._give_way()
        line, body = self._joined(run_id, files)
        return finished(line, self._plan.now, body)

    def _old_checkpoint(self) -> Iterator[tuple[int, bytes]]:
        number = self._plan.covered
        if not number:
            return
        path = file_path(self._root, Kind.CHECKPOINT, number)
        crc = 0
        for offset, raw, whole in lines_of(self._disk, path):
            after = checked(raw, crc) if whole else None
            if after is None:
                raise damaged(path, offset, "the checksum is wrong")
            crc = after
            yield place(Kind.CHECKPOINT, number, offset), raw
            self._give_way()

    # --- archives ------------------------------------------------------------------------------------------------

    def _is_over(self, archive: Archive) -> bool:
        before = self._plan.drop_before
        return before is not None and archive.newest_archived_at < before and archive.number not in self._plan.pinned

    def _group_archives(self, adds: bool) -> list[list[Archive]]:
        """Archives to merge: the smallest class of size of which there are enough."""
        classes: dict[int, list[Archive]] = {}
        for archive in self._plan.archives:
            if archive.number in self._plan.pinned or archive.size_bytes > _MERGE_UP_TO_BYTES or self._is_over(archive):
                continue
            classes.setdefault(archive.size_bytes.bit_length() // 3, []).append(archive)
        for _, group in sorted(classes.items()):
            if len(group) + adds >= _MERGE_COUNT:
                return [group]
        return []

    def _is_forgotten(self, archive: Archive) -> bool:
        """Whether the archive's time is over, and the store agreed to forget its runs."""
        if not self._is_over(archive):
            return False
        return self._forget(archive, [line.run for _, line in self._lines_of_archive(archive)])

    def _finished_of(self, group: Sequence[Archive], gone: set[tuple[int, str]]) -> Iterator[Finished]:
        """The runs of several archives, oldest first, without those that are gone."""
        return merge(*(self._finished_in(archive, gone) for archive in group), key=_age)

    def _finished_in(self, archive: Archive, gone: set[tuple[int, str]]) -> Iterator[Finished]:
        for row, (raw, line) in zip(archive.oldest_first(), self._lines_of_archive(archive), strict=True):
            if (archive.number, line.run) not in gone:
                yield finished(line, row.archived_at, raw[:-ENDING] + b"}")

    def _lines_of_archive(self, archive: Archive) -> Iterator[tuple[bytes, Line]]:
        path = file_path(self._root, Kind.ARCHIVE, archive.number)
        crc = 0
        for offset, raw, whole in lines_of(self._disk, path):
            after = checked(raw, crc) if whole else None
            if after is None:
                raise damaged(path, offset, "the checksum is wrong")
            crc = after
            self._give_way()
            if offset:
                yield raw, decode(raw)

    def _give_way(self) -> None:
        self._lines += 1
        if self._lines % _LINES_AT_ONCE == 0:
            if self._stopped():
                raise _StoppedError
            # Sleeping lets go of the interpreter; without it every thread that wants it waits out the switch interval.
            time.sleep(0.0005)


class _StoppedError(Exception):
    """The store is being closed."""


def item_line(item: Item) -> Line:
    """The line that keeps *item* in a checkpoint."""
    return Line(op="item", changes=as_lines([Put(item)]))


def _key(raw: bytes) -> _Key:
    return msgspec.json.decode(raw, type=_Key)


def _age(run: Finished) -> tuple[float, str]:
    return (run.record.created_at, run.record.run_id)
