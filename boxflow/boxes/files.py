"""`box.files`: the files of a box."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from boxflow.boxes.calls import call
from boxflow.ports import FileInfo, Sandbox

T = TypeVar("T")


class Files:
    """The files of one box.

    Paths are relative to the box's working directory, or absolute as commands in the box see them. None leads out of
    the box: not by `..`, not by a symbolic link, not by one that is put there meanwhile.

    Every method raises `BoxPathError` for a path that leads out, `BoxFileNotFoundError` where there is nothing, and
    `BoxNotFoundError` when the box is gone.
    """

    def __init__(self, sandbox: Sandbox, *, box_id: str, name: str) -> None:
        self._sandbox = sandbox
        self._box_id = box_id
        self._name = name

    async def read(self, path: str, *, encoding: str = "utf-8") -> str:
        """The text of a file.

        :raises UnicodeDecodeError: it is not text in *encoding*; use `read_bytes`
        """
        data = await self._call("read", lambda: self._sandbox.read_file(self._box_id, path), type=bytes)
        return data.decode(encoding)

    async def read_bytes(self, path: str, *, offset: int = 0, limit: int | None = None) -> bytes:
        """The bytes of a file, at most *limit* of them from *offset*."""
        return await self._call(
            "read_bytes",
            lambda: self._sandbox.read_file(self._box_id, path, offset=offset, limit=limit),
            type=bytes,
        )

    async def write(self, path: str, data: str | bytes, *, mode: int | None = None) -> None:
        """Write a file whole, making the directories above it. A reader sees the old content or the new.

        :param mode: its permission bits; unchanged, or the usual ones for a new file, unless given
        """
        content = data.encode() if isinstance(data, str) else bytes(data)
        await self._call(
            "write", lambda: self._sandbox.write_file(self._box_id, path, content, mode=mode), type=type(None)
        )

    async def list(self, path: str = ".", *, recursive: bool = False) -> list[FileInfo]:
        """The entries of a directory, sorted by path. Symbolic links are listed, not followed."""

        async def entries() -> list[FileInfo]:
            return list(await self._sandbox.list_files(self._box_id, path, recursive=recursive))

        return await self._call("list", entries, type=_FILE_INFOS)

    async def stat(self, path: str) -> FileInfo:
        """What *path* is: its kind, size, mode and time. A symbolic link is described, not followed."""
        return await self._call("stat", lambda: self._sandbox.stat_file(self._box_id, path), type=FileInfo)

    async def mkdir(self, path: str) -> None:
        """Make a directory and those above it. One that is already there is no error."""
        await self._call("mkdir", lambda: self._sandbox.make_directory(self._box_id, path), type=type(None))

    async def rename(self, path: str, to: str) -> None:
        """Move a file or directory, making the directories above its new place and replacing a file there."""
        await self._call("rename", lambda: self._sandbox.rename_file(self._box_id, path, to), type=type(None))

    async def remove(self, path: str) -> None:
        """Remove a file, a symbolic link, or a directory with all that is in it."""
        await self._call("remove", lambda: self._sandbox.remove_file(self._box_id, path), type=type(None))

    async def upload(self, source: str | os.PathLike[str], path: str | None = None) -> None:
        """Copy a file or a directory of this machine into the box, in constant memory.

        A directory's content is added to what is at *path*; permission bits and symbolic links are kept.

        :param path: where it goes; into the working directory under its own name unless given
        :raises FileNotFoundError: *source* is not there
        """
        place = _absolute(source)
        to = place.name if path is None else path
        await self._call("upload", lambda: self._sandbox.upload(self._box_id, place, to), type=type(None))

    async def download(self, path: str, target: str | os.PathLike[str] | None = None) -> None:
        """Copy a file or a directory of the box to this machine, in constant memory.

        What comes out of a box is not trusted: nothing is written outside of *target*. Links that lead out of it,
        devices, pipes and sockets are left out; of the permission bits `0o755` at most is kept.

        :param target: where it goes; into the current directory under its own name unless given
        """
        place = _absolute((Path(path).name or "box") if target is None else target)
        await self._call("download", lambda: self._sandbox.download(self._box_id, path, place), type=type(None))

    async def _call(self, verb: str, fn: Callable[[], Awaitable[T]], *, type: object) -> T:
        return await call(f"{self._name}.files.{verb}", fn, type=type)


def _absolute(path: str | os.PathLike[str]) -> Path:
    # Not `resolve`, which would follow links.
    return Path(path).absolute()


# Named outside the class, where `list` is still the builtin.
_FILE_INFOS = list[FileInfo]
