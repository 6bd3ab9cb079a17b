"""What is on disk when a store is opened: the state it gives, what is damaged, and what a crash left to tidy up.

Reading and deciding come first; not one byte changes before everything was read and found good.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import attrs
import msgspec

from boxflow.errors import StoreFormatError
from boxflow_backends.file_store.archive import Archive
from boxflow_backends.file_store.disk import Disk, read_whole, remove_if_there, write_file
from boxflow_backends.file_store.lines import (
    ENDING,
    FOLDERS,
    FORMAT,
    Kind,
    Line,
    both,
    checked,
    claimed,
    damaged,
    decode,
    file_path,
    lines_of,
    place,
)
from boxflow_backends.file_store.state import State

logger = logging.getLogger("boxflow.store")


@attrs.define(kw_only=True)
class Recovered:
    """What was found.

    :param segment: the number of the last segment; 0 when there is none
    :param good_bytes: how much of the last segment counts
    :param torn_bytes: how much behind that was never whole
    :param crc: the checksum that the next line continues
    :param sealed: the size of each segment that the checkpoint does not cover
    :param deleted: runs that were deleted since the checkpoint; a crash may have left their blobs
    """

    state: State
    segment: int = 0
    good_bytes: int = 0
    torn_bytes: int = 0
    crc: int = 0
    epoch: int = 0
    sealed: dict[int, int] = attrs.field(factory=dict[int, int])
    deleted: list[str] = attrs.field(factory=list[str])


def recover(disk: Disk, root: Path) -> Recovered:
    """Read everything that an owner acknowledged. Changes nothing.

    :raises StoreCorruptError: acknowledged data is damaged or missing
    :raises StoreFormatError: written by a newer version
    """
    found = Recovered(state=State())
    checkpoints = numbers(disk, root, Kind.CHECKPOINT)
    segments = numbers(disk, root, Kind.LOG)
    if checkpoints:
        _read_checkpoint(disk, root, checkpoints[-1], found)
    elif numbers(disk, root, Kind.ARCHIVE) and not segments:
        raise damaged(root / "log", 0, "every segment and checkpoint is missing, but there are archives")
    covered = found.segment = found.state.covered
    segments = [number for number in segments if number > covered]
    if covered and not segments:
        raise damaged(file_path(root, Kind.LOG, covered + 1), 0, "the segment is missing")
    for position, number in enumerate(segments):
        expected = covered + 1 + position
        if number != expected:
            raise damaged(file_path(root, Kind.LOG, expected), 0, "the segment is missing")
        _read_segment(disk, root, number, found, is_last=position == len(segments) - 1)
    return found


def repair(disk: Disk, root: Path, found: Recovered) -> None:
    """Cut off what was never whole, make durable what counts, and remove what a crash left behind."""
    if found.segment > found.state.covered:
        path = file_path(root, Kind.LOG, found.segment)
        if found.torn_bytes:
            logger.warning(
                "%s ended in a write that was cut off, as after a crash: dropped torn tail of %d bytes at byte %d",
                path,
                found.torn_bytes,
                found.good_bytes,
            )
        if found.good_bytes:
            # Written anew, not only synced: after a sync that failed, Linux takes the pages for clean, so that they are
            # read back, and a second sync succeeds, but they never reach the disk (fsyncgate, 2018).
            write_file(disk, path, read_whole(disk, path)[: found.good_bytes])
        else:
            disk.unlink(path)
            disk.sync_directory(path.parent)
            found.segment -= 1
    leftovers = [path for kind in Kind for path in _leftovers(disk, root, kind, found.state)]
    if leftovers:
        # Whoever renamed the checkpoint may have died before that was durable; then the old files still count.
        disk.sync_directory(root / FOLDERS[Kind.CHECKPOINT])
    for path in leftovers:
        remove_if_there(disk, path)


def numbers(disk: Disk, root: Path, kind: Kind) -> list[int]:
    """The numbers of the files of that kind, ascending."""
    try:
        names = disk.list_directory(root / FOLDERS[kind])
    except FileNotFoundError:
        return []
    return sorted(int(name[:-6]) for name in names if name.endswith(".jsonl") and name[:-6].isdecimal())


def _leftovers(disk: Disk, root: Path, kind: Kind, state: State) -> Iterator[Path]:
    """Files that a compaction had not finished, or not yet removed. Files of others are left alone."""
    for name in disk.list_directory(root / FOLDERS[kind]):
        number = _number(name)
        if number is None:
            continue
        match kind:
            case Kind.LOG:
                counts = number > state.covered
            case Kind.CHECKPOINT:
                counts = number == state.covered
            case Kind.ARCHIVE:
                counts = any(archive.number == number for archive in state.archives)
        if name.endswith(".tmp") or not counts:
            yield root / FOLDERS[kind] / name


def _number(name: str) -> int | None:
    stem = name.partition(".")[0]
    return int(stem) if stem.isdecimal() else None


def _read_checkpoint(disk: Disk, root: Path, number: int, found: Recovered) -> None:
    path = file_path(root, Kind.CHECKPOINT, number)
    state = found.state
    state.covered = number
    ended = False
    for count, (offset, line) in enumerate(checked_lines(disk, path), start=1):
        match line.op:
            case "checkpoint":
                found.epoch = line.epoch
                found.crc = int(line.after, 16)
                state.archives = tuple(Archive(disk, root, archive) for archive in line.archives)
            case "run":
                if line.record is not None and line.head is not None:
                    where = place(Kind.CHECKPOINT, number, offset)
                    state.index.add(line.record, line.head, both(where, where))
            case "gone":
                state.gone.add((line.archive, line.run))
            case "end":
                ended = line.count == count
            case _:
                state.apply(line, 0, disk, root)
    if not ended:
        raise damaged(path, disk.size(path), "its end is missing")
    state.checkpoint_bytes = disk.size(path)


def checked_lines(disk: Disk, path: Path) -> Iterator[tuple[int, Line]]:
    """The lines of a file that is whole or does not count, each with its offset."""
    crc = 0
    for offset, raw, whole in lines_of(disk, path):
        if offset == 0:
            _check_format(path, raw)
        after = checked(raw, crc) if whole else None
        if after is None:
            raise damaged(path, offset, "the checksum is wrong")
        crc = after
        yield offset, _decoded(path, offset, raw)


def _read_segment(disk: Disk, root: Path, number: int, found: Recovered, *, is_last: bool) -> None:
    path = file_path(root, Kind.LOG, number)
    crc = found.crc
    found.segment = number
    found.good_bytes = 0
    size = disk.size(path)
    lines = lines_of(disk, path)
    for offset, raw, whole in lines:
        if offset == 0:
            _check_format(path, raw)
        after = checked(raw, crc) if whole else None
        if after is None:
            if not is_last or _acknowledged_after(offset, raw, crc, lines):
                raise damaged(path, offset, "the checksum is wrong, and what follows was acknowledged after it")
            break
        line = _decoded(path, offset, raw)
        if offset == 0:
            if line.op != "log" or line.number != number:
                raise damaged(path, 0, f"it does not begin as segment {number}")
            found.epoch = max(found.epoch, line.epoch)
        if line.epoch != found.epoch:
            raise damaged(path, offset, f"an owner of epoch {line.epoch} wrote into epoch {found.epoch}")
        if line.op == "delete":
            found.deleted.append(line.run)
        found.state.apply(line, place(Kind.LOG, number, offset), disk, root)
        crc = after
        found.good_bytes = offset + len(raw) + 1
    found.crc = crc
    found.torn_bytes = size - found.good_bytes
    if found.good_bytes:
        found.sealed[number] = found.good_bytes
    if not is_last and not found.good_bytes:
        raise damaged(path, 0, "the segment is empty")


def _acknowledged_after(bad_offset: int, bad: bytes, crc: int, rest: Iterator[tuple[int, bytes, bool]]) -> bool:
    """Whether a good line behind a bad one proves that the bad one was durable once.

    A write that was cut off may leave any part of it on disk, later lines too. But a line says up to where everything
    was durable when it was made; reaching behind the bad line, it tells damage from a write that never finished.
    """
    claim = claimed(bad)
    before: set[int] = {_computed(bad, crc)} if claim is None else {_computed(bad, crc), claim}
    for _, raw, whole in rest:
        if not whole:
            break
        if any(checked(raw, candidate) is not None for candidate in before):
            try:
                if decode(raw).synced > bad_offset:
                    return True
            except msgspec.DecodeError:
                return True
        after = claimed(raw)
        before = {after} if after is not None else before - before
    return False


def _computed(raw: bytes, crc: int) -> int:
    return crc32(raw[:-ENDING], crc)


def _check_format(path: Path, raw: bytes) -> None:
    try:
        line = msgspec.json.decode(raw, type=_Header)
    except msgspec.DecodeError:
        return
    if line.format > FORMAT:
        raise StoreFormatError(
            f"{str(path)!r} has format {line.format}, this boxflow reads up to {FORMAT}; open the store with the newer "
            "version that wrote it"
        )


class _Header(msgspec.Struct):
    format: int = 0


def _decoded(path: Path, offset: int, raw: bytes) -> Line:
    try:
        return decode(raw)
    except msgspec.DecodeError as error:
        raise damaged(path, offset, f"it is not a line of this store ({error})") from error
