"""The form of a line: what it holds, how its checksum continues the line before, and how a place in a file is written.

Every file of the store but the archive's index is JSON lines. A line ends with `,"crc":"xxxxxxxx"}` and a newline; the
checksum is the CRC-32 of everything before that, continued from the line before. So no line can be lost, doubled,
moved or changed in the middle of a file without the next check failing; any line can be checked with the one before.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from zlib import crc32

import msgspec

from boxflow.errors import StoreCorruptError
from boxflow.model import Change, Delete, Head, Item, Outcome, Put, RunRecord
from boxflow_backends.file_store.disk import Disk, read_whole

FORMAT = 1

# `,"crc":"xxxxxxxx"}` without the newline.
ENDING = 18
_CHUNK = 1 << 20
_NO_VALUE = msgspec.Raw(b"[]")


class ChangeLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A `Change` as it is written."""

    put: Item | None = None
    delete: tuple[str, str] | None = None


class Line(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Everything a line can say.

    :param op: `log`, `checkpoint` and `archive` begin a file, `end` ends a checkpoint; `create`, `append`, `change` and
        `delete` are changes; `run`, `item` and `gone` are state in a checkpoint or an archive
    :param synced: everything before this offset of the same file was durable when the line was made, so damage there is
        damage, and not a write that was cut off
    :param prev: segment and offset of the run's line before this one, where that lies in the log
    """

    op: str
    epoch: int = 0
    synced: int = 0
    run: str = ""
    prev: tuple[int, int] | None = None
    record: RunRecord | None = None
    head: Head | None = None
    outcomes: msgspec.Raw = _NO_VALUE
    changes: tuple[ChangeLine, ...] = ()
    # Of files.
    format: int = 0
    number: int = 0
    after: str = ""
    archives: tuple[int, ...] = ()
    archive: int = 0
    count: int = 0


class AppendLine(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="op", tag="append"):
    """The fields of a `Line` that says `append`, in the form in which appending has them."""

    epoch: int
    synced: int = 0
    run: str
    prev: tuple[int, int] | None = None
    head: Head
    outcomes: Sequence[Outcome] = ()
    changes: tuple[ChangeLine, ...] = ()


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Line).decode
decode_outcomes = msgspec.json.Decoder(list[Outcome]).decode


class Kind(enum.IntEnum):
    """Which kind of file a place lies in."""

    LOG = 0
    CHECKPOINT = 1
    ARCHIVE = 2


FOLDERS = {Kind.LOG: "log", Kind.CHECKPOINT: "checkpoint", Kind.ARCHIVE: "archive"}

# A place is one integer, because every run that waits has two of them: offset (36 bits), kind (2), file number (24).
_OFFSET_BITS = 36
_FILE_BITS = 26
PLACE_BITS = _OFFSET_BITS + _FILE_BITS
PLACE_MASK = (1 << PLACE_BITS) - 1
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1


def place(kind: Kind, number: int, offset: int) -> int:
    """Where a line begins."""
    return (number << 2 | kind) << _OFFSET_BITS | offset


def kind_of(where: int) -> Kind:
    """The kind of file of a place."""
    return Kind(where >> _OFFSET_BITS & 3)


def is_in_log(where: int) -> bool:
    """Whether a place is in a segment, rather than in a checkpoint or an archive."""
    return not where >> _OFFSET_BITS & 3


def before_of(where: int) -> tuple[int, int] | None:
    """Segment and offset of a place in the log; None for one in a checkpoint or an archive."""
    if where >> _OFFSET_BITS & 3:
        return None
    return where >> (_OFFSET_BITS + 2), where & _OFFSET_MASK


def number_of(where: int) -> int:
    """The number of the file of a place."""
    return where >> (_OFFSET_BITS + 2)


def offset_of(where: int) -> int:
    """The offset of a place in its file."""
    return where & _OFFSET_MASK


def both(first: int, last: int) -> int:
    """The places of a run's first and last line, as one integer."""
    return first << PLACE_BITS | last


def file_path(root: Path, kind: Kind, number: int) -> Path:
    """The file of that kind and number."""
    return root / FOLDERS[kind] / f"{number:08}.jsonl"


def seal(body: bytes, crc: int) -> tuple[bytes, int]:
    """The line of an encoded object, newline and all, and the checksum that the next one continues."""
    if b"\n" in body:
        # Between two tokens: a string cannot hold a bare newline. A value that came as pretty JSON brings them.
        body = body.replace(b"\n", b" ")
    start = body[:-1]
    crc = crc32(start, crc)
    return b'%b,"crc":"%08x"}\n' % (start, crc), crc


def checked(line: bytes, crc: int) -> int | None:
    """The checksum after *line* (without its newline), or None when it does not continue *crc*."""
    crc = crc32(line[:-ENDING], crc)
    return crc if line[-ENDING:] == b',"crc":"%08x"}' % crc else None


def claimed(line: bytes) -> int | None:
    """The checksum that *line* itself claims to end with."""
    if len(line) <= ENDING or line[-ENDING:-10] != b',"crc":"' or not line.endswith(b'"}'):
        return None
    try:
        return int(line[-10:-2], 16)
    except ValueError:
        return None


def lines_of(disk: Disk, path: Path, offset: int = 0) -> Iterator[tuple[int, bytes, bool]]:
    """The lines of a file from *offset*: where each begins, its bytes without the newline, and whether it had one."""
    file = disk.open(path)
    try:
        read_to = offset
        rest = b""
        while chunk := disk.read(file, _CHUNK, read_to):
            read_to += len(chunk)
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield offset, line, True
                offset += len(line) + 1
        if rest:
            yield offset, rest, False
    finally:
        disk.close(file)


def checked_lines_of(disk: Disk, path: Path, crc: int = 0) -> Iterator[tuple[int, bytes, int]]:
    """The lines of a file that is whole: where each begins, its bytes without the newline, and the checksum after it.

    :param crc: what the first one continues
    :raises StoreCorruptError: a line is not what was written
    """
    for offset, raw, whole in lines_of(disk, path):
        after = checked(raw, crc) if whole else None
        if after is None:
            raise damaged(path, offset, "the checksum is wrong")
        crc = after
        yield offset, raw, crc


class Files:
    """Reads single lines by their place. Opens each file once; for use within one call, by one thread."""

    def __init__(self, disk: Disk, root: Path) -> None:
        self._disk = disk
        self._root = root
        self._files: dict[int, int] = {}
        self._held: dict[int, bytes] = {}

    def hold(self, number: int) -> None:
        """Keep a whole segment in memory, whose lines have been checked and are going to be read."""
        path = file_path(self._root, Kind.LOG, number)
        self._held[place(Kind.LOG, number, 0) >> _OFFSET_BITS] = read_whole(self._disk, path)

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            self._disk.close(file)

    def line(self, where: int) -> Line:
        """The line that begins at *where*.

        :raises FileNotFoundError: the file is gone: its lines were moved, and whoever asks must look up the place again
        :raises StoreCorruptError: there is no such line any more
        """
        raw = self.raw(where)
        try:
            return decode(raw)
        except msgspec.DecodeError as error:
            raise damaged(self.path(where), offset_of(where), str(error)) from error

    def raw(self, where: int) -> bytes:
        """The bytes of the line that begins at *where*, checked, without the newline."""
        code = where >> _OFFSET_BITS
        held = self._held.get(code)
        if held is not None:
            offset = offset_of(where)
            return held[offset : held.index(b"\n", offset)]
        file = self._files.get(code)
        if file is None:
            file = self._files[code] = self._disk.open(self.path(where))
        # The line before ends with the checksum that this one continues.
        begin = offset_of(where) - ENDING - 1
        size = 4096
        data = self._disk.read(file, size, begin)
        while (end := data.find(b"\n", ENDING + 1)) < 0:
            more = self._disk.read(file, size, begin + len(data))
            if not more:
                raise damaged(self.path(where), offset_of(where), "the file ends in the middle of the line")
            data += more
            size *= 2
        line = data[ENDING + 1 : end]
        before = claimed(data[:ENDING].rjust(ENDING + 1))
        if before is None or checked(line, before) is None:
            raise damaged(self.path(where), offset_of(where), "the checksum is wrong")
        return line

    def path(self, where: int) -> Path:
        """The file that *where* lies in."""
        return file_path(self._root, kind_of(where), number_of(where))


def damaged(path: Path, offset: int, why: str) -> StoreCorruptError:
    """What to say of a file that is not what was written."""
    return StoreCorruptError(
        f"{str(path)!r} is damaged at byte {offset}: {why}. Nothing was changed on disk. Restore the store's "
        "directory from a backup, or copy what is readable before it with `head -c` to a new store"
    )


def as_lines(changes: Iterable[Change]) -> tuple[ChangeLine, ...]:
    """*changes* as they are written."""
    return tuple(
        ChangeLine(put=change.item) if isinstance(change, Put) else ChangeLine(delete=(change.collection, change.key))
        for change in changes
    )


def as_changes(lines: Iterable[ChangeLine]) -> list[Change]:
    """What `as_lines` was given. Values are copied: each would keep alive the whole chunk it was read from."""
    changes: list[Change] = []
    for line in lines:
        if line.put is not None:
            changes.append(Put(msgspec.structs.replace(line.put, value=line.put.value.copy())))
        elif line.delete is not None:
            changes.append(Delete(*line.delete))
    return changes
