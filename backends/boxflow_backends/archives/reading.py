"""What are the members of a tar stream that a stranger wrote?

Python's own reader believes a header that announces an extension of gigabytes, and reads it into memory; some releases
of it go backwards, or round in circles, on negative sizes (CVE-2025-8194). This one reads forwards only, holds one
block and a bounded extension, and gives up at bounds. It knows ustar (POSIX.1-1988), GNU's long names and large
numbers, and pax records (POSIX.1-2001) for names, sizes and times.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import attrs

from boxflow.errors import SandboxError

_BLOCK: Final = 512
_CHUNK_BYTES: Final = 256 * 1024

# Of names and pax records. Far more than a path (PATH_MAX: 4,096) or an extended attribute (64 KiB) needs.
_MAX_EXTENSION_BYTES: Final = 1024 * 1024

# Writers fill up their last record: 10 KiB usually, at most 1 MiB for those that were told so.
_MAX_TRAILER_BYTES: Final = 4 * 1024 * 1024


class Readable(Protocol):
    """What a stream is read from: any binary file object will do."""

    def read(self, size: int, /) -> bytes:
        """At most *size* bytes, and none only at the end."""
        ...


@attrs.frozen(kw_only=True)
class Limits:
    """How much is taken from an archive before it is refused.

    :param members: files, directories, links, and whatever else it announces
    :param size_bytes: of the archive, and of the copies made for its hard links
    """

    members: int = 1_000_000
    size_bytes: int = 64 * 1024**3


class Kind(enum.Enum):
    """What a member is, as far as it matters here."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"
    HARD_LINK = "hard link"
    OTHER = "other"


@attrs.frozen(kw_only=True)
class Member:
    """One entry of an archive. *name* and *target* are whatever its writer liked."""

    kind: Kind
    name: bytes
    target: bytes
    size_bytes: int
    mode: int
    modified_at: float


_KINDS: Final = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    b"5": Kind.DIRECTORY,
}

# Links, devices, directories, pipes: whatever their size says, nothing of it follows.
_WITHOUT_DATA: Final = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})


class TarReader:
    """The members of *stream*, in order: `for member in reader`, and `reader.data()` for what the latest one holds.

    Data that nobody takes is skipped.

    :raises SandboxError: while iterating: it is no archive, ends too early, or is more than *limits* allow
    """

    def __init__(self, stream: Readable, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._headers = 0
        self._taken_bytes = 0
        #: Of the latest member: data, and what fills up its last block.
        self._left_bytes = 0
        self._padding_bytes = 0
        self._name = b""

    def __iter__(self) -> Iterator[Member]:
        """Members until the mark that ends the archive; one without that mark was cut short."""
        extensions: dict[bytes, bytes] = {}
        while (header := self._next_header()) is not None:
            kind = header[156:157]
            self._begin(_number(header[124:136]))
            match kind:
                case b"x" | b"X":
                    extensions.update(_records(self._extension()))
                case b"L":
                    extensions[b"path"] = self._extension().split(b"\0", 1)[0]
                case b"K":
                    extensions[b"linkpath"] = self._extension().split(b"\0", 1)[0]
                case b"g":
                    # For the whole archive: nothing that matters here can be said for all members at once.
                    self._extension()
                case _:
                    yield self._member(header, extensions)
                    extensions = {}
        self._drain()

    def data(self) -> Iterator[bytes]:
        """What the latest member holds, in chunks."""
        while self._left_bytes:
            chunk = self._take(min(self._left_bytes, _CHUNK_BYTES))
            if not chunk:
                raise SandboxError(
                    f"the archive ends within {self._name.decode(errors='backslashreplace')!r}: "
                    f"{self._left_bytes} bytes of it are missing"
                )
            self._left_bytes -= len(chunk)
            yield chunk

    def charge(self, size_bytes: int) -> None:
        """Count bytes that are written although they are not in the archive."""
        self._taken_bytes += size_bytes
        if self._taken_bytes > self._limits.size_bytes:
            raise SandboxError(f"the archive is larger than the {self._limits.size_bytes} bytes allowed; not unpacked")

    def _member(self, header: bytes, extensions: Mapping[bytes, bytes]) -> Member:
        name = extensions.get(b"path", _name(header))
        if header[156:157] == b"S" or any(key.startswith(b"GNU.sparse.") for key in extensions):
            raise SandboxError(
                f"{name.decode(errors='backslashreplace')!r} in the archive is stored as a sparse file; "
                "write the archive without that option"
            )
        self._name = name
        kind = _KINDS.get(header[156:157], Kind.OTHER)
        if header[156:157] in _WITHOUT_DATA:
            self._begin(0)
        elif b"size" in extensions:
            self._begin(_decimal(extensions[b"size"]))
        if kind is Kind.FILE and name.endswith(b"/"):
            # How directories were written before there was a type for them.
            kind = Kind.DIRECTORY
        return Member(
            kind=kind,
            name=name,
            target=extensions.get(b"linkpath", header[157:257].split(b"\0", 1)[0]),
            size_bytes=self._left_bytes,
            mode=_number(header[100:108]),
            modified_at=_time(extensions.get(b"mtime"), header[136:148]),
        )

    def _next_header(self) -> bytes | None:
        for _ in self.data():
            # Nobody wanted it.
            pass
        self._exactly(self._padding_bytes)
        self._padding_bytes = 0
        header = self._exactly(_BLOCK)
        if not any(header):
            return None
        # The sum of all bytes, its own field counted as blanks; some old writers added signed ones.
        plain = header[:148] + b" " * 8 + header[156:]
        unsigned = sum(plain)
        signed = unsigned - 256 * sum(byte > 127 for byte in plain)
        if _number(header[148:156]) not in (unsigned, signed):
            raise SandboxError("what came is no tar archive, or was damaged on its way: a header's sum is wrong")
        self._headers += 1
        if self._headers > self._limits.members:
            raise SandboxError(f"the archive has more than the {self._limits.members} members allowed; stopped there")
        return header

    def _begin(self, size_bytes: int) -> None:
        self._left_bytes = size_bytes
        self._padding_bytes = -size_bytes % _BLOCK

    def _extension(self) -> bytes:
        if self._left_bytes > _MAX_EXTENSION_BYTES:
            raise SandboxError(
                f"a header in the archive announces {self._left_bytes} bytes of names; at most {_MAX_EXTENSION_BYTES} "
                "are read"
            )
        return b"".join(self.data())

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self._take(size - len(data))
            if not chunk:
                raise SandboxError(f"the archive ends too early, after {self._taken_bytes} bytes")
            data += chunk
        return bytes(data)

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.charge(len(data))
        return data

    def _drain(self) -> None:
        """Read what fills up the last record, so that its writer is not told of a broken pipe."""
        drained = 0
        while chunk := self._take(_CHUNK_BYTES):
            drained += len(chunk)
            if drained > _MAX_TRAILER_BYTES:
                raise SandboxError(f"more than {_MAX_TRAILER_BYTES} bytes follow the end of the archive")


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    # GNU tar, whose magic ends in blanks, keeps other things in the prefix's place.
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _number(field: bytes) -> int:
    """Octal digits; or, with the highest bit set, base 256 (GNU, for what does not fit)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.split(b"\0", 1)[0].strip()
    if not text:
        return 0
    # `int` alone would take "-1", "1_0" and "0o7" as well.
    if not all(digit in b"01234567" for digit in text):
        raise SandboxError(f"a number in the archive's headers is {field!r}; it is damaged")
    return int(text, 8)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise SandboxError(f"a size in the archive's headers is {text[:40]!r}; it is damaged")
    return int(text)


def _time(record: bytes | None, field: bytes) -> float:
    """Seconds since 1970, within what every file system takes. A wrong time is no reason to lose a file."""
    try:
        seconds = float(record) if record is not None else float(_number(field))
    except (ValueError, SandboxError):
        return 0.0
    # 2**34, the year 2514, is the end of ext4's times. NaN compares false.
    return seconds if 0 <= seconds < 2**34 else 0.0


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The pax records, each `<length> <key>=<value>` and a newline; the length counts itself."""
    at = 0
    while at < len(data) and data[at]:
        blank = data.find(b" ", at, at + 20)
        length = data[at:blank] if blank > 0 else b""
        end = at + int(length) if length.isdigit() else 0
        key, equals, value = data[blank + 1 : end - 1].partition(b"=")
        if not at < end <= len(data) or not equals or data[end - 1 : end] != b"\n":
            raise SandboxError("an extended header in the archive is damaged")
        yield key, value
        at = end
