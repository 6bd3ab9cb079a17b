"""How are files of a local box read, written, listed, moved and removed? Blocking: called in threads."""

# No pathlib: what is open cannot be swapped under us; a path can.
# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress

from boxflow.errors import SandboxError
from boxflow.ports import FileInfo
from boxflow_backends.local_sandbox.layout import Layout
from boxflow_backends.local_sandbox.paths import Spot, located, translated
from boxflow_backends.local_sandbox.removal import remove_tree

# A link that is put at the end of a path after it was walked makes the opening fail; then it is walked again.
_ATTEMPTS = 10

# Not blocking: opening a named pipe would wait for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class LocalFiles:
    """The file trees of the boxes below one root."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def read(self, box_id: str, path: str, offset: int, limit: int | None) -> bytes:
        """Bytes of a regular file."""
        fd = self._open(box_id, path, _FILE)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SandboxError(f"{path!r} in the box is a {kind_of(os.fstat(fd).st_mode)}, not a file")
            with open(fd, "rb", closefd=False) as file:
                file.seek(offset)
                return file.read(-1 if limit is None else limit)
        finally:
            os.close(fd)

    def write(self, box_id: str, path: str, data: bytes, mode: int | None) -> None:
        """Write a file whole: beside its place, then moved over what was there."""
        with located(self._layout, box_id, path, make=True) as spot, translating(path):
            there = _status(spot)
            if spot.name == "." or (there is not None and stat.S_ISDIR(there.st_mode)):
                raise SandboxError(f"{path!r} in the box is a directory; it cannot be written as a file")
            if mode is None and there is not None and stat.S_ISREG(there.st_mode):
                mode = stat.S_IMODE(there.st_mode)
            beside = f".boxflow-{secrets.token_hex(8)}"
            fd = os.open(beside, _NEW, 0o666, dir_fd=spot.directory)
            try:
                with open(fd, "wb") as file:
                    file.write(data)
                    if mode is not None:
                        os.fchmod(fd, mode)
                os.rename(beside, spot.name, src_dir_fd=spot.directory, dst_dir_fd=spot.directory)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(beside, dir_fd=spot.directory)
                raise

    def list(self, box_id: str, path: str, recursive: bool) -> list[FileInfo]:
        """Entries of a directory, sorted by path."""
        top = self._open(box_id, path, _LISTED)
        try:
            with translating(path):
                return sorted(_entries(top, recursive), key=lambda info: info.path)
        finally:
            os.close(top)

    def stat(self, box_id: str, path: str) -> FileInfo:
        """What is at *path*; a link is described."""
        with located(self._layout, box_id, path, follow=False) as spot, translating(path):
            return _info(path, os.stat(spot.name, dir_fd=spot.directory, follow_symlinks=False))

    def make_directory(self, box_id: str, path: str) -> None:
        """Make a directory and those above it."""
        with located(self._layout, box_id, path, make=True) as spot, translating(path):
            try:
                os.mkdir(spot.name, dir_fd=spot.directory)
            except FileExistsError:
                there = _status(spot)
                if there is None or not stat.S_ISDIR(there.st_mode):
                    raise

    def rename(self, box_id: str, path: str, to: str) -> None:
        """Move a file or directory."""
        with (
            located(self._layout, box_id, path, follow=False) as source,
            located(self._layout, box_id, to, follow=False, make=True) as target,
            translating(f"{path} -> {to}"),
        ):
            for spot, named in ((source, path), (target, to)):
                if spot.name == ".":
                    raise SandboxError(f"{named!r} is one of the box's own directories; it stays where it is")
            # Looked for by itself, so that the error names what is missing.
            os.stat(source.name, dir_fd=source.directory, follow_symlinks=False)
            os.rename(source.name, target.name, src_dir_fd=source.directory, dst_dir_fd=target.directory)

    def remove(self, box_id: str, path: str) -> None:
        """Remove a file, a link, or a directory with all that is in it."""
        with located(self._layout, box_id, path, follow=False) as spot, translating(path):
            if spot.name == ".":
                raise SandboxError(f"{path!r} is one of the box's own directories; delete the box instead")
            there = os.stat(spot.name, dir_fd=spot.directory, follow_symlinks=False)
            if not stat.S_ISDIR(there.st_mode):
                os.unlink(spot.name, dir_fd=spot.directory)
                return
            # Out of the box in one move: whoever looks sees all of it or none of it.
            going = self._layout.going(box_id)
            os.rename(spot.name, going, src_dir_fd=spot.directory)
            remove_tree(going)

    def open(self, box_id: str, path: str, *, directory: bool = False) -> int:
        """A descriptor of what is at *path*, whatever it is, or of a directory; the caller closes it."""
        return self._open(box_id, path, _LISTED if directory else _FILE)

    def _open(self, box_id: str, path: str, flags: int) -> int:
        for _ in range(_ATTEMPTS):
            with located(self._layout, box_id, path) as spot:
                try:
                    return os.open(spot.name, flags, dir_fd=spot.directory)
                except OSError as exc:
                    if exc.errno != errno.ELOOP:
                        raise translated(exc, path) from exc
        raise SandboxError(f"{path!r} in the box keeps turning into a symbolic link")


def _status(spot: Spot) -> os.stat_result | None:
    try:
        return os.stat(spot.name, dir_fd=spot.directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _entries(top: int, recursive: bool) -> Iterator[FileInfo]:
    """Depth first by hand: a tree may be deeper than Python's stack, or than there are file descriptors."""
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        above = waiting.pop()
        with _below(top, above) as directory:
            if directory is None:
                continue
            for name in os.listdir(directory):
                try:
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                except FileNotFoundError:
                    # Gone since it was listed.
                    continue
                yield _info("/".join((*above, name)), status)
                if recursive and stat.S_ISDIR(status.st_mode):
                    waiting.append((*above, name))


@contextmanager
def _below(top: int, names: tuple[str, ...]) -> Generator[int | None, None, None]:
    """The directory below *top*, open; None when it is none any more."""
    fd = os.dup(top)
    try:
        for name in names:
            above = fd
            fd = os.open(name, _LISTED, dir_fd=above)
            os.close(above)
        reached: int | None = fd
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            os.close(fd)
            raise
        reached = None
    try:
        yield reached
    finally:
        os.close(fd)


def _info(path: str, status: os.stat_result) -> FileInfo:
    return FileInfo(
        # File names are bytes; those that are no UTF-8 are shown escaped, so that every answer can cross the journal.
        path=os.fsencode(path).decode(errors="backslashreplace"),
        kind=kind_of(status.st_mode),
        size_bytes=status.st_size,
        mode=stat.S_IMODE(status.st_mode),
        modified_at=status.st_mtime,
    )


def kind_of(mode: int) -> str:
    """`"file"`, `"directory"`, `"symlink"`, or `"other"` for pipes, sockets and devices."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(mode) else "other"


@contextmanager
def translating(path: str) -> Generator[None, None, None]:
    """Errors of the operating system in our words."""
    try:
        yield
    except OSError as exc:
        if isinstance(exc, SandboxError):
            raise
        raise translated(exc, path) from exc
