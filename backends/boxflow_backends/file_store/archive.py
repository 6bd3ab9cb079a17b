"""Finished runs at rest: files that are never scanned, each with an index to look up an id or walk by age.

`archive/NNNNNNNN.jsonl` has one line a run, oldest first. Beside it `NNNNNNNN.index`, binary and mapped into memory:
the hashes of the run ids, sorted, the row that each belongs to, and the rows in the order of the lines. Which archives
count is said by the checkpoint; a file that it does not name is a leftover.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from boxflow.model import RunRecord, RunStatus
from boxflow_backends.file_store.disk import Disk, remove_if_there, write_all
from boxflow_backends.file_store.lines import FORMAT, Files, Kind, Line, damaged, encode, file_path, place, seal

_HEADER = struct.Struct("<8sQQdIxxxx")
_MAGIC = b"boxflow\x01"
# created_at, archived_at, offset, status
_ROW = struct.Struct("<ddQQ")
_STATUSES = tuple(RunStatus)
_STATUS_CODES = {status: code for code, status in enumerate(_STATUSES)}


class Row(NamedTuple):
    """What the index says of one run."""

    created_at: float
    archived_at: float
    where: int
    status: RunStatus


def hash_of(run_id: str) -> int:
    """64 bits of a hash of the id: what an index is searched by."""
    return int.from_bytes(hashlib.blake2b(run_id.encode(), digest_size=8).digest(), "little")


class Archive:
    """One archive file, by its index.

    :raises StoreCorruptError: the index is missing, or not what was written
    """

    def __init__(self, disk: Disk, root: Path, number: int) -> None:
        self.number = number
        path = index_path(root, number)
        try:
            data = disk.map(path)
            self.size_bytes = disk.size(file_path(root, Kind.ARCHIVE, number))
        except (FileNotFoundError, ValueError) as error:
            raise damaged(path, 0, "the archive or its index is missing") from error
        if len(data) < _HEADER.size:
            raise damaged(path, 0, "the index is cut off")
        magic, count, data_bytes, newest, crc = _HEADER.unpack_from(data)
        whole = _HEADER.size + count * (8 + 4 + _ROW.size)
        if magic != _MAGIC or len(data) != whole or data_bytes != self.size_bytes:
            raise damaged(path, 0, "the index and its archive do not belong together")
        self.count: int = count
        self.newest_archived_at: float = newest
        if crc32(data[_HEADER.size :]) != crc:
            raise damaged(path, 0, "the checksum of the index is wrong")
        self._data = data
        hashes_end = _HEADER.size + 8 * count
        self._hashes = data[_HEADER.size : hashes_end].cast("Q")
        self._rows_by_hash = data[hashes_end : hashes_end + 4 * count].cast("I")
        self._rows_at = hashes_end + 4 * count

    def row(self, position: int) -> Row:
        """The row at that position; the oldest run is at 0."""
        created_at, archived_at, offset, status = _ROW.unpack_from(self._data, self._rows_at + position * _ROW.size)
        return Row(created_at, archived_at, place(Kind.ARCHIVE, self.number, offset), _STATUSES[status])

    def rows_with(self, run_hash: int) -> list[Row]:
        """Runs whose id has that hash: hardly ever more than one, and the id must still be compared."""
        found: list[Row] = []
        position = bisect_left(self._hashes, run_hash)
        while position < self.count and self._hashes[position] == run_hash:
            found.append(self.row(self._rows_by_hash[position]))
            position += 1
        return found

    def newest_first(self, until: float | None = None) -> Iterator[Row]:
        """All rows created at most at *until*, newest first."""
        begin = self.count
        if until is not None:
            low, high = 0, self.count
            while low < high:
                middle = (low + high) // 2
                low, high = (middle + 1, high) if self.row(middle).created_at <= until else (low, middle)
            begin = low
        return (self.row(position) for position in range(begin - 1, -1, -1))

    def oldest_first(self) -> Iterator[Row]:
        """All rows, oldest first."""
        return (self.row(position) for position in range(self.count))


class Finished(NamedTuple):
    """A run on its way into an archive.

    *archived_at* is by the clock of the store: the times in a record are by the engine's, which may be a virtual one.
    """

    record: RunRecord
    status: RunStatus
    archived_at: float
    body: bytes


class Places:
    """Run ids and their places, in two flat sequences: a tuple for each would be work for the garbage collector."""

    def __init__(self) -> None:
        self.run_ids: list[str] = []
        self._places = array("Q")

    def __len__(self) -> int:
        return len(self.run_ids)

    def add(self, run_id: str, where: int) -> None:
        """Add a run."""
        self.run_ids.append(run_id)
        self._places.append(where)

    def extend(self, other: Places) -> None:
        """Add all of *other*."""
        self.run_ids += other.run_ids
        self._places += other._places

    def part(self, begin: int, end: int) -> Iterator[tuple[str, int]]:
        """Some of the runs with their places."""
        return zip(self.run_ids[begin:end], self._places[begin:end], strict=True)


def finished(line: Line, archived_at: float, body: bytes) -> Finished:
    """A decoded `run` line, and the object it was decoded from."""
    assert line.record is not None and line.head is not None, "a run line has a record and a head"
    return Finished(line.record, line.head.status, archived_at, body)


def index_path(root: Path, number: int) -> Path:
    """The index of the archive of that number."""
    return file_path(root, Kind.ARCHIVE, number).with_suffix(".index")


def write_archive(disk: Disk, root: Path, number: int, epoch: int, runs: Iterable[Finished]) -> Places:
    """Write *runs*, which come oldest first, and sync all of it. Returns their ids and places."""
    path = file_path(root, Kind.ARCHIVE, number)
    remove_if_there(disk, path)
    remove_if_there(disk, index_path(root, number))
    offset = 0
    places = Places()
    hashes = array("Q")
    rows: list[bytes] = []
    newest = 0.0
    file = disk.create(path)
    try:
        pending, crc = seal(encode(Line(op="archive", format=FORMAT, number=number, epoch=epoch)), 0)
        offset = len(pending)
        waiting = [pending]
        waiting_bytes = 0
        for run in runs:
            line, crc = seal(run.body, crc)
            places.add(run.record.run_id, place(Kind.ARCHIVE, number, offset))
            hashes.append(hash_of(run.record.run_id))
            rows.append(_ROW.pack(run.record.created_at, run.archived_at, offset, _STATUS_CODES[run.status]))
            newest = max(newest, run.archived_at)
            offset += len(line)
            waiting.append(line)
            waiting_bytes += len(line)
            if waiting_bytes > 1 << 20:
                write_all(disk, file, b"".join(waiting))
                waiting, waiting_bytes = [], 0
        write_all(disk, file, b"".join(waiting))
        disk.sync(file)
    finally:
        disk.close(file)
    by_hash = sorted(range(len(hashes)), key=hashes.__getitem__)
    body = b"".join(
        [array("Q", (hashes[row] for row in by_hash)).tobytes(), array("I", by_hash).tobytes(), b"".join(rows)]
    )
    file = disk.create(index_path(root, number))
    try:
        write_all(disk, file, _HEADER.pack(_MAGIC, len(hashes), offset, newest, crc32(body)) + body)
        disk.sync(file)
    finally:
        disk.close(file)
    disk.sync_directory(path.parent)
    return places


def find(archives: Iterable[Archive], gone: set[tuple[int, str]], files: Files, run_id: str) -> tuple[int, Line] | None:
    """The archived run of that id, with its place; None when there is none, or it was deleted or brought back."""
    run_hash = hash_of(run_id)
    for archive in archives:
        if (archive.number, run_id) in gone:
            continue
        for row in archive.rows_with(run_hash):
            line = files.line(row.where)
            if line.run == run_id:
                return row.where, line
    return None
