"""Compaction: sealed segments and the old checkpoint become a new checkpoint, with what is finished put into archives.

What it writes is the state as of the end of the last sealed segment, computed from files alone: the store goes on
working meanwhile, and what it adds is in later segments, which are replayed on top of the checkpoint. The rename of the
new checkpoint is the one step at which everything changes over: it says which segments count no more and which archives
do. A crash before leaves files that do not count, a crash after leaves files that count no more; opening removes both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from pathlib import Path

import attrs
import msgspec

from boxflow.model import Delete, Item, Put, RunStatus
from boxflow_backends.file_store.archive import Archive, Finished, Places, find, write_archive
from boxflow_backends.file_store.archive_merging import age, mergeable, run_ids_of, runs_of
from boxflow_backends.file_store.checkpoint_file import CheckpointFile
from boxflow_backends.file_store.disk import Disk, remove_if_there
from boxflow_backends.file_store.lines import (
    ENDING,
    FORMAT,
    ChangeLine,
    Files,
    Kind,
    Line,
    as_changes,
    as_lines,
    checked_lines_of,
    encode,
    file_path,
    number_of,
    place,
)
from boxflow_backends.file_store.pace import Pace, StoppedError
from boxflow_backends.file_store.recovery import checked_lines
from boxflow_backends.file_store.touched import Touched

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
    :param merged_bytes: archives that are larger are not merged
    """

    upto: int
    covered: int
    epoch: int
    archives: tuple[Archive, ...]
    pinned: frozenset[int]
    now: float
    drop_before: float | None
    merged_bytes: int


@attrs.define(kw_only=True)
class Compacted:
    """What changed over: where runs are now.

    :param carried: runs in the checkpoint and their places
    :param archived: runs that were live until now, and their places in an archive
    :param ended: their ids
    :param merged: numbers of archives, and of the one that has their runs now
    :param gone: what does not count in the archives that are kept; *all_gone* also in those that are not
    """

    upto: int
    carried: Places = attrs.field(factory=Places)
    archived: Places = attrs.field(factory=Places)
    archives: tuple[Archive, ...] = ()
    merged: dict[int, int] = attrs.field(factory=dict[int, int])
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


class _Status(msgspec.Struct):
    status: RunStatus = RunStatus.PENDING


class _Created(msgspec.Struct):
    created_at: float


class _SeenLine(msgspec.Struct):
    """What is looked at in every line of the segments."""

    op: str
    epoch: int = 0
    run: str = ""
    record: _Created | None = None
    head: _Status | None = None
    changes: tuple[ChangeLine, ...] = ()


class _RunLine(msgspec.Struct):
    """A line about a run, taken apart only as far as it is put together again."""

    op: str
    run: str
    record: msgspec.Raw = msgspec.Raw()
    head: msgspec.Raw = msgspec.Raw()
    outcomes: msgspec.Raw = msgspec.Raw(b"[]")


_decode_key = msgspec.json.Decoder(_Key).decode
_decode_seen = msgspec.json.Decoder(_SeenLine).decode
_decode_run = msgspec.json.Decoder(_RunLine).decode


class Compaction:
    """One compaction. `run` does all of it up to the change-over; then the store switches, and calls `remove_old`.

    :param known: a run id, as the same string that the store has where it has one: what is here for each run is there
        beside it for a while
    :param forget: drops the runs of an archive with what belongs to them; False when it has to stay
    """

    def __init__(
        self,
        disk: Disk,
        root: Path,
        plan: Plan,
        *,
        known: Callable[[str], str],
        forget: Callable[[Archive, Iterator[str]], bool],
        pace: Pace,
    ) -> None:
        self._disk = disk
        self._root = root
        self._plan = plan
        self._forget = forget
        self._breathe = pace.breathe
        self._known = known
        self._touched = Touched(known)
        self._dropped: set[str] = set()
        self._items: dict[tuple[str, str], Item | None] = {}
        self._done = Compacted(upto=plan.upto)
        #: That of the last segment, which an earlier opening may have written.
        self._epoch = plan.epoch
        self._held_bytes = 0

    def run(self) -> Compacted | None:
        """Do it; None when the store was closed meanwhile: then nothing has changed."""
        try:
            with Files(self._disk, self._root) as files:
                return self._run(files)
        except StoppedError:
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
        free = [
            archive for archive in plan.archives if archive.number not in plan.pinned and not self._is_over(archive)
        ]
        merged = mergeable(free, up_to_bytes=plan.merged_bytes, adds=bool(ended))
        emptied = Counter(number for number, _ in gone)
        archives = [
            archive
            for archive in plan.archives
            if archive not in merged and emptied[archive.number] < archive.count and not self._is_forgotten(archive)
        ]
        if merged or ended:
            # Never a number that another archive has had: who has looked up a place there may still come to read it.
            number = max(plan.upto, *(archive.number + 1 for archive in plan.archives), 0)
            fresh = (self._finished(run_id, files) for _, run_id in sorted(ended))
            runs = merge(runs_of(self._disk, self._root, merged, gone, self._breathe), fresh, key=age)
            write_archive(
                self._disk, self._root, number, plan.epoch, runs, was_live=done.archived, breathe=self._breathe
            )
            archives.append(Archive(self._disk, self._root, number))
            done.merged = {archive.number: number for archive in merged}
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
            for offset, raw, after in checked_lines_of(self._disk, path, crc):
                crc = after
                self._read_line(_decode_seen(raw), place(Kind.LOG, number, offset), files, gone)
                self._breathe()
        return f"{crc:08x}", gone

    def _read_line(self, line: _SeenLine, where: int, files: Files, gone: set[tuple[int, str]]) -> None:
        match line.op:
            case "log":
                self._epoch = line.epoch
            case "create":
                assert line.record is not None and line.head is not None, "a create line has a record and a head"
                self._touched.create(line.run, where, line.head.status, line.record.created_at)
            case "append":
                assert line.head is not None, "an append line has a head"
                self._touched.add(line.run, where, line.head.status)
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
            key = _decode_key(raw)
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
            if self._touched.status(run_id).is_final:
                ended.append(((self._created_at(run_id, files), run_id), run_id))
            else:
                alive.append(run_id)
            self._breathe()
        return ended, alive

    def _write_checkpoint(self, files: Files, after: str, alive: Sequence[str]) -> None:
        plan, done = self._plan, self._done
        checkpoint = CheckpointFile(self._disk, self._root, plan.upto)
        try:
            numbers_kept = tuple(archive.number for archive in done.archives)
            header = Line(
                op="checkpoint", format=FORMAT, number=plan.upto, epoch=self._epoch, after=after, archives=numbers_kept
            )
            checkpoint.add(encode(header))
            for _, raw in self._old_checkpoint():
                key = _decode_key(raw)
                body = raw[:-ENDING] + b"}"
                if key.op == "run":
                    if key.run not in self._touched and key.run not in self._dropped:
                        done.carried.add(self._known(key.run), checkpoint.add(body))
                elif key.op == "item":
                    put = key.changes[0].put
                    if put is not None and (put.collection, put.key) not in self._items:
                        checkpoint.add(body)
            for run_id in alive:
                done.carried.add(run_id, checkpoint.add(self._joined(run_id, files)))
                self._breathe()
            for item in self._items.values():
                if item is not None:
                    checkpoint.add(encode(item_line(item)))
            for archive, run_id in sorted(done.gone):
                checkpoint.add(encode(Line(op="gone", archive=archive, run=run_id)))
            checkpoint.finish()
            done.checkpoint_bytes = checkpoint.size_bytes
        finally:
            checkpoint.close()

    def _joined(self, run_id: str, files: Files) -> bytes:
        """All lines of a run as one: its record, its newest head, and its whole journal."""
        lines = [_decode_run(files.raw(where)) for where in self._touched.places(run_id)]
        journal = b",".join(part for line in lines if (part := bytes(line.outcomes)[1:-1]))
        outcomes = msgspec.Raw(b"[" + journal + b"]")
        return encode(_RunLine("run", run_id, lines[0].record, lines[-1].head, outcomes))

    def _finished(self, run_id: str, files: Files) -> Finished:
        self._breathe()
        created_at, status = self._created_at(run_id, files), self._touched.status(run_id)
        return Finished(created_at, run_id, status, self._plan.now, self._joined(run_id, files), was_live=True)

    def _created_at(self, run_id: str, files: Files) -> float:
        found = self._touched.created_at(run_id)
        if found is None:
            record = files.line(self._touched.places(run_id)[0]).record
            assert record is not None, "a run begins with its record"
            found = record.created_at
        return found

    def _old_checkpoint(self) -> Iterator[tuple[int, bytes]]:
        number = self._plan.covered
        if not number:
            return
        path = file_path(self._root, Kind.CHECKPOINT, number)
        for offset, raw, _ in checked_lines_of(self._disk, path):
            yield place(Kind.CHECKPOINT, number, offset), raw
            self._breathe()

    def _is_over(self, archive: Archive) -> bool:
        before = self._plan.drop_before
        return before is not None and archive.newest_archived_at < before and archive.number not in self._plan.pinned

    def _is_forgotten(self, archive: Archive) -> bool:
        """Whether the archive's time is over, and the store agreed to forget its runs."""
        return self._is_over(archive) and self._forget(
            archive, run_ids_of(self._disk, self._root, archive, self._breathe)
        )


def item_line(item: Item) -> Line:
    """The line that keeps *item* in a checkpoint."""
    return Line(op="item", changes=as_lines([Put(item)]))
