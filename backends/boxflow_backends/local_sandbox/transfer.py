"""How are files and folders copied between this machine and a local box? Blocking: called in threads."""

# No pathlib: what is open cannot be swapped under us; a path can.

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from boxflow.errors import SandboxError
from boxflow_backends.archives import packed_chunks, unpack, write_whole
from boxflow_backends.local_sandbox.files import LocalFiles, kind_of, translating
from boxflow_backends.local_sandbox.layout import Layout
from boxflow_backends.local_sandbox.paths import located

_CHUNK_BYTES = 256 * 1024

# Not blocking: opening a named pipe would wait for its other end.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Stopped(Exception):  # noqa: N818  # not an error: it was asked for
    """Whoever asked does not wait any more."""


class Stop:
    """A copy that can be told to end early; what it has copied of a file is removed then."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def ask(self) -> None:
        """Make it end at its next piece."""
        self._asked.set()

    def watched(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same chunks; :raises Stopped: it was asked to end."""
        for chunk in chunks:
            if self._asked.is_set():
                raise Stopped
            yield chunk

    def readable(self, chunks: Iterable[bytes]) -> Chunks:
        """The same chunks, to be read like a file."""
        return Chunks(self.watched(chunks))


class Transfer:
    """Copies into and out of the boxes below one root."""

    def __init__(self, layout: Layout, files: LocalFiles) -> None:
        self._layout = layout
        self._files = files

    def upload(self, box_id: str, source: Path, path: str, stop: Stop) -> None:
        """Copy a file or directory of this machine into a box."""
        fd = os.open(source, _READ)
        try:
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                self._upload_directory(box_id, fd, path, stop)
            elif stat.S_ISREG(status.st_mode):
                with located(self._layout, box_id, path, make=True) as spot, translating(path):
                    name = os.fsencode(spot.name)
                    if spot.name == ".":
                        raise SandboxError(f"{path!r} in the box is a directory; name the file that is to be there")
                    mode = stat.S_IMODE(status.st_mode) & 0o777
                    write_whole(spot.directory, name, stop.watched(pieces(fd)), mode=mode)
            else:
                raise SandboxError(f"{str(source)!r} is a {kind_of(status.st_mode)}; only files and folders are copied")
        finally:
            os.close(fd)

    def download(self, box_id: str, path: str, target: Path, stop: Stop) -> None:
        """Copy a file or directory of a box to this machine."""
        fd = self._files.open(box_id, path)
        try:
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                unpack(stop.readable(_of_box(packed_chunks(fd), path)), target)
            elif stat.S_ISREG(status.st_mode):
                _download_file(fd, target, stat.S_IMODE(status.st_mode), stop)
            else:
                raise SandboxError(
                    f"{path!r} in the box is a pipe, socket or device; only files and folders are copied"
                )
        finally:
            os.close(fd)

    def _upload_directory(self, box_id: str, source: int, path: str, stop: Stop) -> None:
        self._files.make_directory(box_id, path)
        target = self._files.open(box_id, path, directory=True)
        try:
            unpack(stop.readable(packed_chunks(source)), target, links="all", mode_mask=0o777)
        finally:
            os.close(target)


def _download_file(fd: int, target: Path, mode: int, stop: Stop) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        write_whole(directory, os.fsencode(target.name), stop.watched(pieces(fd)), mode=mode & 0o755)
    finally:
        os.close(directory)


def _of_box(chunks: Iterator[bytes], path: str) -> Iterator[bytes]:
    with translating(path):
        yield from chunks


def pieces(fd: int) -> Iterator[bytes]:
    """What an open file has left to read."""
    while data := os.read(fd, _CHUNK_BYTES):
        yield data


class Chunks:
    """Chunks, to be read like a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """At most *size* bytes, and none only at the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = memoryview(chunk)
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)
