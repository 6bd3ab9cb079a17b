"""How does a directory of this machine become a tar stream, whatever happens to its files meanwhile?

GNU format: names are bytes there, of any length, and GNU tar, bsdtar and busybox all read it.
"""

# No pathlib: what is open cannot be swapped under us; a path can.
# ruff: noqa: PTH208

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from boxflow.errors import SandboxError
from boxflow_backends.archives.walking import Parts, Walk, shown

Source = Path | int
"""A directory or file by its path, or a directory by a descriptor that is open for reading, and stays open."""

CHUNK_BYTES = 256 * 1024
"""How much is read at once, and how much of small things is gathered before it is handed on."""

MAX_DEPTH = 2048
"""How deep a tree may be: deeper ones cannot be named by a path, which has 4,096 bytes (PATH_MAX of limits.h)."""

_BLOCK = tarfile.BLOCKSIZE
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

# It went away, or became something else, between being listed and being opened.
_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})


def pack(source: Source, out: BinaryIO, *, names: Collection[str] | None = None) -> None:
    """Write `packed_chunks` to *out*."""
    out.writelines(packed_chunks(source, names=names))


def packed_chunks(source: Source, *, names: Collection[str] | None = None) -> Iterator[bytes]:
    """A tar stream of the content of the directory *source*, or of the file *source* under its own name.

    Permission bits and times are kept, owners are not. Symbolic links stay links, hard links become files. Pipes,
    sockets and devices are left out, and so is what vanishes meanwhile. A file that shrinks or grows while it is read
    is filled with zero bytes, or cut, to the size it had.

    :param names: only these entries of the directory
    :raises FileNotFoundError: *source* is not there
    :raises SandboxError: something in it cannot be read, or the tree is too deep
    """
    return _gathered(_stream(source, names))


def _stream(source: Source, names: Collection[str] | None) -> Iterator[bytes]:
    if isinstance(source, int):
        yield from _tree(source, names)
    else:
        # Not blocking: the caller may have named a pipe. A link is followed here, where its owner has named it.
        top = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(top)
            if stat.S_ISDIR(status.st_mode):
                yield from _tree(top, names)
            elif stat.S_ISREG(status.st_mode):
                yield from _file(os.fsencode(source.name), top, status)
            else:
                raise SandboxError(f"{str(source)!r} is neither a file nor a directory; it cannot be copied")
        finally:
            os.close(top)
    yield bytes(2 * _BLOCK)


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in chunks worth a system call, or the hop to another thread."""
    chunk = bytearray()
    for piece in pieces:
        chunk += piece
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    if chunk:
        yield bytes(chunk)


def _tree(top: int, names: Collection[str] | None) -> Iterator[bytes]:
    """Depth first by hand: a tree may be deeper than Python's stack."""
    walk = Walk(top, os.O_RDONLY)
    try:
        waiting: list[Parts] = [()]
        while waiting:
            above = waiting.pop()
            if len(above) > MAX_DEPTH:
                raise SandboxError(f"{shown(above)[:200]!r}... is more than {MAX_DEPTH} directories deep; remove it")
            inner: list[Parts] = []
            yield from _entries(walk, above, names if not above else None, inner)
            waiting += reversed(inner)
    finally:
        walk.close()


def _entries(walk: Walk, above: Parts, names: Collection[str] | None, inner: list[Parts]) -> Iterator[bytes]:
    """What is in one directory; the directories in it are added to *inner*."""
    with _naming(above):
        directory = walk.enter(above)
        found = sorted(os.fsencode(name) for name in os.listdir(directory) if names is None or name in names)
        for name in found:
            path = (*above, name)
            with _naming(path):
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    inner.append(path)
                    yield _header(b"/".join(path) + b"/", tarfile.DIRTYPE, status)
                else:
                    yield from _leaf(directory, path, status)


def _leaf(directory: int, path: Parts, status: os.stat_result) -> Iterator[bytes]:
    if stat.S_ISLNK(status.st_mode):
        yield _header(b"/".join(path), tarfile.SYMTYPE, status, link=os.readlink(path[-1], dir_fd=directory))
        return
    if not stat.S_ISREG(status.st_mode):
        return
    fd = os.open(path[-1], _FILE, dir_fd=directory)
    try:
        opened = os.fstat(fd)
        if stat.S_ISREG(opened.st_mode):
            yield from _file(b"/".join(path), fd, opened)
    finally:
        os.close(fd)


def _file(name: bytes, fd: int, status: os.stat_result) -> Iterator[bytes]:
    yield _header(name, tarfile.REGTYPE, status)
    left = status.st_size
    while left and (data := os.read(fd, min(left, CHUNK_BYTES))):
        left -= len(data)
        yield data
    padding = -status.st_size % _BLOCK
    while left or padding:
        zeros = min(left, CHUNK_BYTES)
        left -= zeros
        if not left:
            zeros, padding = zeros + padding, 0
        yield bytes(zeros)


def _header(name: bytes, kind: bytes, status: os.stat_result, *, link: bytes = b"") -> bytes:
    info = tarfile.TarInfo(os.fsdecode(name))
    info.type = kind
    info.linkname = os.fsdecode(link)
    info.size = status.st_size if kind == tarfile.REGTYPE else 0
    info.mode = stat.S_IMODE(status.st_mode) & 0o777
    # Times before 1970 are legal on disk, and not in every tar.
    info.mtime = max(0, int(status.st_mtime))
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


@contextmanager
def _naming(path: Parts) -> Generator[None, None, None]:
    """Pass over what has vanished; say of what else goes wrong where it did."""
    try:
        yield
    except OSError as exc:
        if isinstance(exc, SandboxError):
            raise
        if exc.errno not in _VANISHED:
            raise SandboxError(f"cannot read {shown(path)!r}: {exc.strerror}") from exc
