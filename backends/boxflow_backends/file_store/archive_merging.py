"""Which archives become one, so that an id is looked up in few files however many runs have ended?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from pathlib import Path

import msgspec

from boxflow_backends.file_store.archive import Archive, Finished
from boxflow_backends.file_store.disk import Disk
from boxflow_backends.file_store.lines import ENDING, Kind, checked_lines_of, file_path

# As many of about one size are merged into one.
_MERGE_COUNT = 8


def mergeable(archives: Sequence[Archive], *, up_to_bytes: int, adds: bool) -> list[Archive]:
    """Those of the smallest class of size of which there are enough, or none.

    :param adds: another small one is about to be written
    """
    classes: dict[int, list[Archive]] = {}
    for archive in archives:
        if archive.size_bytes <= up_to_bytes:
            classes.setdefault(archive.size_bytes.bit_length() // 3, []).append(archive)
    for _, found in sorted(classes.items()):
        if len(found) + adds >= _MERGE_COUNT:
            return found
    return []


def runs_of(
    disk: Disk, root: Path, archives: Sequence[Archive], gone: set[tuple[int, str]], breathe: Callable[[], None]
) -> Iterator[Finished]:
    """The runs of several archives, oldest first, without those that are gone."""
    return merge(*(_runs_of(disk, root, archive, gone, breathe) for archive in archives), key=age)


def run_ids_of(disk: Disk, root: Path, archive: Archive, breathe: Callable[[], None]) -> Iterator[str]:
    """The ids of all runs of an archive."""
    return (run_id for run_id, _ in _lines_of(disk, root, archive, breathe))


def age(run: Finished) -> tuple[float, str]:
    """What runs are ordered by."""
    return run[:2]


def _runs_of(
    disk: Disk, root: Path, archive: Archive, gone: set[tuple[int, str]], breathe: Callable[[], None]
) -> Iterator[Finished]:
    lines = _lines_of(disk, root, archive, breathe)
    for row, (run_id, raw) in zip(archive.index.oldest_first(), lines, strict=True):
        if (archive.number, run_id) not in gone:
            # As it is, only with another checksum: most runs are merged several times.
            body = raw[:-ENDING] + b"}"
            yield Finished(row.created_at, run_id, row.status, row.archived_at, body, was_live=False)


def _lines_of(disk: Disk, root: Path, archive: Archive, breathe: Callable[[], None]) -> Iterator[tuple[str, bytes]]:
    path = file_path(root, Kind.ARCHIVE, archive.number)
    for offset, raw, _ in checked_lines_of(disk, path):
        breathe()
        if offset:
            yield _decode_run(raw).run, raw


class _Run(msgspec.Struct):
    run: str


_decode_run = msgspec.json.Decoder(_Run).decode
