"""Finished runs at rest: files that are never scanned, each with an index to look up an id or walk by age.

`archive/NNNNNNNN.jsonl` has one line a run, oldest first; beside it is its index. Which archives count is said by the
checkpoint; a file that it does not name is a leftover.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from boxflow.model import RunStatus
from boxflow_backends.file_store.archive_index import ArchiveIndex, IndexWriter, Row, hash_of
from boxflow_backends.file_store.disk import Disk, remove_if_there, write_all
from boxflow_backends.file_store.lines import FORMAT, Files, Kind, Line, damaged, encode, file_path, place, seal


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
        self.index = ArchiveIndex(data, path, number)
        if self.index.data_bytes != self.size_bytes:
            raise damaged(path, 0, "the index and its archive do not belong together")

    @property
    def count(self) -> int:
        """How many runs it has."""
        return self.index.count

    @property
    def newest_archived_at(self) -> float:
        """When the newest of them came in, by the clock of the store."""
        return self.index.newest_archived_at


class Finished(NamedTuple):
    """A run on its way into an archive.

    :param archived_at: by the clock of the store: the times in a record are by the engine's, which may be a virtual one
    :param was_live: it has been in no archive yet
    """

    created_at: float
    run_id: str
    status: RunStatus
    archived_at: float
    body: bytes
    was_live: bool


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

    def part(self, begin: int, end: int) -> Iterator[tuple[str, int]]:
        """Some of the runs with their places."""
        return zip(self.run_ids[begin:end], self._places[begin:end], strict=True)


def index_path(root: Path, number: int) -> Path:
    """The index of the archive of that number."""
    return file_path(root, Kind.ARCHIVE, number).with_suffix(".index")


def write_archive(
    disk: Disk,
    root: Path,
    number: int,
    epoch: int,
    runs: Iterable[Finished],
    *,
    was_live: Places,
    breathe: Callable[[], None],
) -> None:
    """Write *runs*, which come oldest first, and sync all of it.

    :param was_live: takes the places of the runs that have been in no archive yet
    :param breathe: called now and then
    """
    path = file_path(root, Kind.ARCHIVE, number)
    remove_if_there(disk, path)
    remove_if_there(disk, index_path(root, number))
    index = IndexWriter()
    file = disk.create(path)
    try:
        line, crc = seal(encode(Line(op="archive", format=FORMAT, number=number, epoch=epoch)), 0)
        offset = len(line)
        waiting = [line]
        waiting_bytes = 0
        for run in runs:
            line, crc = seal(run.body, crc)
            where = place(Kind.ARCHIVE, number, offset)
            if run.was_live:
                was_live.add(run.run_id, where)
            index.add(run.run_id, Row(run.created_at, run.archived_at, where, run.status))
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
    file = disk.create(index_path(root, number))
    try:
        for piece in index.finish(offset, breathe):
            write_all(disk, file, piece)
        disk.sync(file)
    finally:
        disk.close(file)
    disk.sync_directory(path.parent)


def find(archives: Iterable[Archive], gone: set[tuple[int, str]], files: Files, run_id: str) -> tuple[int, Line] | None:
    """The archived run of that id, with its place; None when there is none, or it was deleted or brought back."""
    run_hash = hash_of(run_id)
    for archive in archives:
        if (archive.number, run_id) in gone:
            continue
        for row in archive.index.rows_with(run_hash):
            line = files.line(row.where)
            if line.run == run_id:
                return row.where, line
    return None
