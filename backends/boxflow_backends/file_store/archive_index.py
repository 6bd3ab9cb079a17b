"""Where is the run of that id in an archive, and which runs does it have, by age? Answered without reading the archive.

`archive/NNNNNNNN.index` is binary and mapped into memory. After the header come checksums, one for each block of what
follows: the hashes of the run ids, sorted; the row that each belongs to; and the rows, oldest run first. A block is
checked when it is first used, so opening an archive of a million runs reads little more than opening one of ten.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from math import isqrt
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from boxflow.model import RunStatus
from boxflow_backends.file_store.lines import Kind, damaged, offset_of, place

# count, data_bytes, newest_archived_at, the checksum of the blocks' checksums, and the header's own
_HEADER = struct.Struct("<8sQQdII")
_HEADER_CRC = struct.Struct("<I")
_MAGIC = b"boxflow\x02"
# created_at, archived_at, offset, status
_ROW = struct.Struct("<ddQQ")
# A status in one byte, and back.
STATUSES = tuple(RunStatus)
STATUS_CODES = {status: code for code, status in enumerate(STATUSES)}
# 16 KiB: checking one takes microseconds, and a million runs have 11 KB of checksums.
_BLOCK_BITS = 14
_BLOCK = 1 << _BLOCK_BITS


class Row(NamedTuple):
    """What the index says of one run."""

    created_at: float
    archived_at: float
    where: int
    status: RunStatus


def hash_of(run_id: str) -> int:
    """64 bits of a hash of the id: what an index is searched by."""
    return int.from_bytes(hashlib.blake2b(run_id.encode(), digest_size=8).digest(), "little")


class ArchiveIndex:
    """The index of one archive.

    :param data: what `IndexWriter.finish` returned
    :raises StoreCorruptError: it is not what was written, said when the damaged part is first used
    """

    def __init__(self, data: memoryview, path: Path, number: int) -> None:
        self._path = path
        self._number = number
        if len(data) < _HEADER.size:
            raise damaged(path, 0, "the index is cut off")
        magic, count, data_bytes, newest, blocks_crc, header_crc = _HEADER.unpack_from(data)
        if magic != _MAGIC or crc32(data[: _HEADER.size - _HEADER_CRC.size]) != header_crc:
            raise damaged(path, 0, "the header of the index is not what was written")
        self.count: int = count
        self.data_bytes: int = data_bytes
        self.newest_archived_at: float = newest
        size = count * (8 + 4 + _ROW.size)
        blocks = (size + _BLOCK - 1) >> _BLOCK_BITS
        if len(data) != _HEADER.size + size + 4 * blocks:
            raise damaged(path, len(data), "the index is cut off")
        self._begin = _HEADER.size + 4 * blocks
        self._block_crcs = data[_HEADER.size : self._begin].cast("I")
        if crc32(self._block_crcs) != blocks_crc:
            raise damaged(path, _HEADER.size, "the checksums of the index are not what was written")
        self._body = data[self._begin :]
        self._is_checked = bytearray(blocks)
        self._hashes = self._body[: 8 * count].cast("Q")
        self._rows_by_hash = self._body[8 * count : 12 * count].cast("I")
        self._width = 2 * isqrt(count) + 1

    def row(self, position: int) -> Row:
        """The row at that position; the oldest run is at 0."""
        begin = 12 * self.count + position * _ROW.size
        self._check(begin, begin + _ROW.size)
        created_at, archived_at, offset, status = _ROW.unpack_from(self._body, begin)
        return Row(created_at, archived_at, place(Kind.ARCHIVE, self._number, offset), STATUSES[status])

    def rows_with(self, run_hash: int) -> list[Row]:
        """Runs whose id has that hash: hardly ever more than one, and the id must still be compared."""
        hashes, count = self._hashes, self.count
        # Hashes are spread evenly, so that a hash is about as far up as its share of all: two pages are touched, not
        # one for each halving of the whole.
        guess = run_hash * count >> 64
        low, high = max(0, guess - self._width), min(count, guess + self._width)
        while low > 0 and hashes[low - 1] >= run_hash:
            low = max(0, low - self._width)
        while high < count and hashes[high] < run_hash:
            high = min(count, high + self._width)
        # All that the search has looked at, and will.
        self._check(8 * max(low - 1, 0), 8 * min(high + 1, count))
        position = bisect_left(hashes, run_hash, low, high)
        found: list[Row] = []
        while position < count and hashes[position] == run_hash:
            self._check(8 * position, 8 * position + 8)
            begin = 8 * count + 4 * position
            self._check(begin, begin + 4)
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

    def _check(self, begin: int, end: int) -> None:
        for block in range(begin >> _BLOCK_BITS, (end + _BLOCK - 1) >> _BLOCK_BITS):
            if not self._is_checked[block]:
                at = block << _BLOCK_BITS
                if crc32(self._body[at : at + _BLOCK]) != self._block_crcs[block]:
                    raise damaged(self._path, self._begin + at, "the checksum of the index is wrong")
                self._is_checked[block] = True


class IndexWriter:
    """The index of an archive that is being written."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._rows = bytearray()
        self._newest = 0.0

    def add(self, run_id: str, row: Row) -> None:
        """One more run; they come oldest first."""
        self._hashes.append(hash_of(run_id))
        offset, status = offset_of(row.where), STATUS_CODES[row.status]
        self._rows += _ROW.pack(row.created_at, row.archived_at, offset, status)
        self._newest = max(self._newest, row.archived_at)

    def finish(self, data_bytes: int, breathe: Callable[[], None]) -> Iterator[bytes]:
        """The index of an archive of *data_bytes*, in pieces; calls *breathe* now and then.

        In pieces, because joining all of a large one is a single call, in which nobody else gets the interpreter.
        """
        hashes, rows_by_hash = array("Q"), array("I")
        for row in _by_hash(self._hashes):
            hashes.append(self._hashes[row])
            rows_by_hash.append(row)
            breathe()
        parts = [memoryview(part).cast("B") for part in (hashes, rows_by_hash, self._rows)]
        crcs = array("I")
        for block in _blocks(parts):
            crcs.append(crc32(block))
            breathe()
        start = _HEADER.pack(_MAGIC, len(hashes), data_bytes, self._newest, crc32(crcs), 0)[: -_HEADER_CRC.size]
        yield start + _HEADER_CRC.pack(crc32(start))
        yield crcs.tobytes()
        yield from _blocks(parts)


def _by_hash(hashes: array[int]) -> Iterator[int]:
    """The positions of *hashes* in the order of those, without one sort of all: that would not let others run."""
    bits = max(len(hashes).bit_length() - 6, 0)
    buckets: list[list[int]] = [[] for _ in range(1 << bits)]
    for position, run_hash in enumerate(hashes):
        buckets[run_hash >> (64 - bits)].append(position)
    for bucket in buckets:
        yield from sorted(bucket, key=hashes.__getitem__)


def _blocks(parts: Iterable[memoryview]) -> Iterator[bytes]:
    """All of *parts*, one after the other, in blocks."""
    begun = b""
    for part in parts:
        at = _BLOCK - len(begun)
        begun += part[:at]
        while len(begun) == _BLOCK:
            yield begun
            begun = bytes(part[at : at + _BLOCK])
            at += _BLOCK
    if begun:
        yield begun
