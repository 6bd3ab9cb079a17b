"""How are files of a box read, written, listed, moved and removed? By its own user's programs, never by the engine.

Docker's own way (`docker cp`) acts as root: it follows links that the box has planted, and sees no mounts.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Final, TypeVar

from boxflow.errors import SandboxError
from boxflow.ports import FileInfo, Process, ProcessSpec
from boxflow_backends.docker_sandbox.file_scripts import (
    LIST,
    MAKE_DIRECTORY,
    READ,
    REMOVE,
    RENAME,
    STAT,
    WRITE,
    absolute,
    error_of,
)
from boxflow_backends.docker_sandbox.record import WORKSPACE
from boxflow_backends.uninterrupted import uninterrupted

T = TypeVar("T")

Spawn = Callable[[str, ProcessSpec], Awaitable[Process]]

# A program of ours that neither reads nor writes for so long hangs: on a pipe that was put in a file's place, say.
SILENCE_S: Final = 60.0

# What a program of ours has begun is one file, which is removed in no time where the box can do anything.
TIDYING_S: Final = 5.0

# Of what a program complains about; an error shows its end.
_COMPLAINT_BYTES: Final = 64 * 1024


class DockerFiles:
    """The files of boxes.

    :param spawn: how a program is started in a box
    """

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn

    async def read(self, box_id: str, path: str, offset: int, limit: int | None) -> bytes:
        """Bytes of a plain file."""
        if offset < 0 or (limit is not None and limit < 0):
            raise ValueError(f"offset={offset} and limit={limit} count bytes: neither can be negative")
        at = absolute(path, WORKSPACE)
        return await self._run(box_id, path, READ, at, str(offset), "-" if limit is None else str(limit))

    async def write(self, box_id: str, path: str, data: bytes, mode: int | None) -> None:
        """Write a file whole: beside its place, then moved over what was there."""

        async def once() -> AsyncIterator[bytes]:
            yield data

        await self.write_chunks(box_id, path, once(), mode)

    async def write_chunks(self, box_id: str, path: str, chunks: AsyncIterator[bytes], mode: int | None) -> None:
        """The same, of content that comes in pieces."""
        beside = f".boxflow-{secrets.token_hex(8)}"
        arguments = (absolute(path, WORKSPACE), beside, "-" if mode is None else f"{mode & 0o7777:o}")
        await self._run(box_id, path, WRITE, *arguments, chunks=chunks)

    async def list(self, box_id: str, path: str, recursive: bool) -> Sequence[FileInfo]:
        """Entries of a directory, sorted by path."""
        at, mark = absolute(path, WORKSPACE), secrets.token_hex(12)
        told = await self._run(box_id, path, LIST, at, mark, "-" if recursive else "1")
        top = f"{at.rstrip('/')}/./".encode()
        infos = [_info(name.removeprefix(top), words) for words, name in _entries(told, mark)]
        return sorted(infos, key=lambda info: info.path)

    async def stat(self, box_id: str, path: str) -> FileInfo:
        """What is at *path*; a link is described."""
        mark = secrets.token_hex(12)
        told = await self._run(box_id, path, STAT, absolute(path, WORKSPACE), mark)
        for words, _ in _entries(told, mark):
            return _info(path.encode(), words)
        raise SandboxError(f"cannot look at {path!r} in box {box_id!r}: its `stat` says {told[:200]!r}")

    async def make_directory(self, box_id: str, path: str) -> None:
        """Make a directory and those above it."""
        await self._run(box_id, path, MAKE_DIRECTORY, absolute(path, WORKSPACE))

    async def rename(self, box_id: str, path: str, to: str) -> None:
        """Move a file or directory."""
        await self._run(box_id, path, RENAME, absolute(path, WORKSPACE), absolute(to, WORKSPACE))

    async def remove(self, box_id: str, path: str) -> None:
        """Remove a file, a link, or a directory with all that is in it."""
        await self._run(box_id, path, REMOVE, absolute(path, WORKSPACE))

    # --- programs ----------------------------------------------------------------------------------------------

    async def start(self, box_id: str, script: str, *arguments: str, stdin: bool = False) -> Process:
        """Start one of our programs in the box. Cancelling leaves nothing of it behind."""
        argv = ("/bin/sh", "-c", script, "boxflow-files", *arguments)
        spec = ProcessSpec(argv=argv, cwd="/", env={"LC_ALL": "C"}, stdin=stdin)
        got: list[Process] = []

        async def spawned() -> None:
            got.append(await self._spawn(box_id, spec))

        try:
            await uninterrupted(spawned())
        except asyncio.CancelledError:
            for process in got:
                async with running(process, tidies=stdin):
                    raise
            raise
        return got[0]

    async def _run(
        self, box_id: str, path: str, script: str, *arguments: str, chunks: AsyncIterator[bytes] | None = None
    ) -> bytes:
        """What a program of ours writes, once it has ended well. Cancelling ends it."""
        process = await self.start(box_id, script, *arguments, stdin=chunks is not None)
        async with running(process, tidies=chunks is not None):
            return b"".join([data async for data in conversation(process, box_id, path, chunks)])


class running:  # noqa: N801 - read as a word: `async with running(process):`
    """Ends *process* when the block is left in any other way than by its end.

    :param tidies: on SIGTERM it removes what it has begun to write, and is given the time to
    """

    def __init__(self, process: Process, *, tidies: bool = False) -> None:
        self._process = process
        self._tidies = tidies

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if error is None:
            return
        try:
            if self._tidies:
                await uninterrupted(self._tidied())
            await self._process.kill()
        except SandboxError as exc:
            error.add_note(f"meanwhile: {exc}")

    async def _tidied(self) -> None:
        await self._process.signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(TIDYING_S):
                await self._process.wait()


async def conversation(
    process: Process, box_id: str, path: str, chunks: AsyncIterator[bytes] | None = None
) -> AsyncGenerator[bytes, None]:
    """What a program of ours writes, while *chunks* are its input, until it has ended well.

    :raises SandboxError: it did not, or it hangs
    """
    complaint = bytearray()
    feeding = None if chunks is None else asyncio.create_task(_feed(process, chunks))
    try:
        async with aclosing(_read(process, box_id, path, feeding)) as pieces:
            async for stream, data in pieces:
                if stream == "stdout":
                    yield data
                elif len(complaint) < _COMPLAINT_BYTES:
                    complaint += data
        code = await process.wait()
    finally:
        if feeding is not None:
            # Nobody reads its input any more.
            feeding.cancel()
            await asyncio.wait((feeding,))
    if feeding is not None and not feeding.cancelled() and (error := feeding.exception()) is not None:
        raise error
    if code != 0:
        raise error_of(code, complaint.decode(errors="replace"), path, box_id)


async def _feed(process: Process, chunks: AsyncIterator[bytes]) -> None:
    async for chunk in chunks:
        try:
            await process.write(chunk)
        except SandboxError:
            # It ended before its input did; how it ended says why.
            return
    await process.close_stdin()


async def _read(
    process: Process, box_id: str, path: str, feeding: asyncio.Task[None] | None
) -> AsyncGenerator[tuple[str, bytes], None]:
    """Its output, until it ends, or what feeds it fails."""
    pieces = process.read()
    while True:
        try:
            piece = await _within_patience(anext(pieces, None), feeding)
        except TimeoutError:
            if feeding is not None and feeding.done() and not feeding.cancelled() and feeding.exception() is not None:
                return
            raise SandboxError(
                f"{path!r} in box {box_id!r} gives no answer for {SILENCE_S:g} s: is it a pipe?"
            ) from None
        if piece is None:
            return
        yield piece


async def _within_patience(next_piece: Awaitable[T], feeding: asyncio.Task[None] | None) -> T:
    """*next_piece*, waited for as long as the program is fed, and for some time from then on.

    :raises TimeoutError: it took longer, or feeding has failed
    """
    loop = asyncio.get_running_loop()
    fed = feeding is None or feeding.done()
    limit = asyncio.timeout(SILENCE_S if fed else None)
    waiting = True

    def limited(task: asyncio.Task[None]) -> None:
        if waiting:
            failed = not task.cancelled() and task.exception() is not None
            limit.reschedule(loop.time() + (0.0 if failed else SILENCE_S))

    async with limit:
        if feeding is not None and not fed:
            feeding.add_done_callback(limited)
        try:
            return await next_piece
        finally:
            waiting = False
            if feeding is not None:
                feeding.remove_done_callback(limited)


# --- what they tell --------------------------------------------------------------------------------------------


def _entries(told: bytes, mark: str) -> list[tuple[list[bytes], bytes]]:
    """Of each line `MARK mode size time name`: the three numbers, and the name with whatever it holds."""
    pieces = told.split(f"{mark} ".encode())[1:]
    found: list[tuple[list[bytes], bytes]] = []
    for piece in pieces:
        mode, size, modified, name = piece.removesuffix(b"\n").split(b" ", 3)
        found.append(([mode, size, modified], name))
    return found


def _info(path: bytes, words: list[bytes]) -> FileInfo:
    mode = int(words[0], 16)
    return FileInfo(
        # Names are bytes; those that are no UTF-8 are shown escaped, so that every answer can cross the journal.
        path=path.decode(errors="backslashreplace"),
        kind=_kind(mode),
        size_bytes=int(words[1]),
        mode=stat.S_IMODE(mode),
        modified_at=float(words[2]),
    )


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(mode) else "other"
