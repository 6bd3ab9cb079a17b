"""How do files and folders of this machine get into a box, and back? As streams, in flat memory."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread

from boxflow.errors import SandboxError
from boxflow_backends.archives import packed, unpack_chunks
from boxflow_backends.docker_sandbox.file_scripts import PACK, UNPACK, absolute
from boxflow_backends.docker_sandbox.files import DockerFiles, conversation, running
from boxflow_backends.docker_sandbox.record import WORKSPACE

T = TypeVar("T")

_CHUNK_BYTES: Final = 256 * 1024

# The disk of this machine: more at once make it no faster.
_THREADS: Final = 8

# What comes out of a box may be executable, and is writable by its owner only.
_MODE_MASK: Final = 0o755


class Transfers:
    """Uploads and downloads."""

    def __init__(self, files: DockerFiles) -> None:
        self._files = files
        self._threads = anyio.CapacityLimiter(_THREADS)

    async def upload(self, box_id: str, source: Path, path: str) -> None:
        """Copy a file or a directory of this machine to *path*."""
        status = await self._in_thread(source.stat)
        if stat.S_ISREG(status.st_mode):
            async with aclosing(self._pieces(source)) as pieces:
                await self._files.write_chunks(box_id, path, pieces, stat.S_IMODE(status.st_mode) & 0o777)
            return
        if not stat.S_ISDIR(status.st_mode):
            raise SandboxError(f"{str(source)!r} is neither a file nor a directory; it cannot be uploaded")
        process = await self._files.start(box_id, UNPACK, absolute(path, WORKSPACE), stdin=True)
        async with running(process, tidies=True), aclosing(packed(source, limiter=self._threads)) as chunks:
            async for _ in conversation(process, box_id, path, chunks):
                # It has nothing to say.
                pass

    async def download(self, box_id: str, path: str, target: Path) -> None:
        """Copy a file or a directory of the box to *target*; what is in there is not trusted."""
        process = await self._files.start(box_id, PACK, absolute(path, WORKSPACE))
        async with running(process), aclosing(conversation(process, box_id, path)) as pieces:
            head, rest = await _head(pieces)
            if head is None:
                # Nothing came, and it ended well: there was a directory that `tar` had nothing to say about.
                raise SandboxError(f"{path!r} in box {box_id!r} cannot be downloaded: it went away meanwhile")
            content = _after(rest, pieces)
            if head == b"directory":
                await unpack_chunks(content, target, limiter=self._threads, mode_mask=_MODE_MASK)
                return
            mode = int(head.partition(b" ")[2] or b"644", 8) & _MODE_MASK
            await self._write(content, target, mode)

    async def _write(self, chunks: AsyncIterator[bytes], target: Path, mode: int) -> None:
        """Write one file of this machine, which appears whole or not at all."""
        beside = target.with_name(f".boxflow-{secrets.token_hex(8)}")
        fd = await self._in_thread(_open_new, beside)
        try:
            try:
                async for chunk in chunks:
                    await self._in_thread(_write_all, fd, chunk)
                await self._in_thread(os.fchmod, fd, mode)
            finally:
                os.close(fd)
            await self._in_thread(beside.replace, target)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._in_thread(_remove, beside)
            raise

    async def _pieces(self, source: Path) -> AsyncGenerator[bytes, None]:
        fd = await self._in_thread(os.open, source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while data := await self._in_thread(os.read, fd, _CHUNK_BYTES):
                yield data
        finally:
            os.close(fd)

    async def _in_thread(self, fn: Callable[..., T], *args: Any) -> T:
        return await anyio.to_thread.run_sync(fn, *args, limiter=self._threads)


async def _head(pieces: AsyncIterator[bytes]) -> tuple[bytes | None, bytes]:
    """The first line, and what came with it."""
    got = b""
    async for piece in pieces:
        got += piece
        line, newline, rest = got.partition(b"\n")
        if newline:
            return line, rest
    return None, got


async def _after(rest: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if rest:
        yield rest
    async for piece in pieces:
        yield piece


def _open_new(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
