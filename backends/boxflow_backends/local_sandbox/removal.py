"""How is a directory tree removed, whatever was done to it?

Trees of any depth, directories without permissions, and writers that go on writing meanwhile: agents make all of them.
A directory that is not empty is moved up to the top before it is emptied, so nothing here is recursive, no path gets
long, and two descriptors are open at most.
"""

# No pathlib: what is open cannot be swapped under us; a path can.
# ruff: noqa: PTH101, PTH106, PTH208

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from pathlib import Path

from boxflow.errors import SandboxError

_DEADLINE_S = 60.0

_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove the directory *path* with all that is in it; no error when it is not there. Links are not followed.

    :raises SandboxError: something in it cannot be removed, or new things keep appearing for a minute
    """
    try:
        top = _open(str(path), None)
    except FileNotFoundError:
        return
    try:
        _Removal(top, str(path)).run()
    except OSError as exc:
        if isinstance(exc, SandboxError):
            raise
        raise SandboxError(f"cannot remove {exc.filename!r} in {str(path)!r}: {exc.strerror}") from exc
    finally:
        os.close(top)
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return


class _Removal:
    def __init__(self, top: int, path: str) -> None:
        self._top = top
        self._path = path
        self._moved = 0
        self._until = time.monotonic() + _DEADLINE_S

    def run(self) -> None:
        while names := os.listdir(self._top):
            for name in names:
                self._remove(name)

    def _remove(self, name: str) -> None:
        """Remove one entry of the top: a directory by emptying it, which may move its directories to the top."""
        if not _unlink_unless_directory(name, self._top):
            return
        try:
            directory = _open(name, self._top)
        except FileNotFoundError:
            return  # Another remover of the same tree was quicker; here and below.
        try:
            for inner in os.listdir(directory):
                if _unlink_unless_directory(inner, directory):
                    self._remove_or_move(inner, directory)
        finally:
            os.close(directory)
        try:
            os.rmdir(name, dir_fd=self._top)
        except FileNotFoundError:
            return
        except OSError as exc:
            # Somebody wrote into it meanwhile: the next round finds it again.
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST) or time.monotonic() > self._until:
                raise

    def _remove_or_move(self, name: str, directory: int) -> None:
        try:
            os.rmdir(name, dir_fd=directory)
            return
        except FileNotFoundError:
            return
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        try:
            # Moving a directory changes its "..", for which it must be writable.
            os.close(_open(name, directory))
        except FileNotFoundError:
            return
        while True:
            self._moved += 1
            try:
                os.rename(name, f"~{self._moved}", src_dir_fd=directory, dst_dir_fd=self._top)
            except FileNotFoundError:
                return
            except OSError as exc:
                # That name is taken, by something of the box or of an earlier attempt.
                if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            else:
                return


def _unlink_unless_directory(name: str, directory: int) -> bool:
    """Remove what is no directory; whether it is one that is left."""
    # One call for a file, where looking first took two: with those, whoever goes on writing was as quick as we are.
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    except IsADirectoryError:
        return True
    except PermissionError:
        # POSIX says EPERM of a directory, where Linux says EISDIR.
        if _is_directory(name, directory):
            return True
        raise
    return False


def _is_directory(name: str, directory: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _open(name: str, directory: int | None) -> int:
    """Open a directory to list and change it, giving ourselves the permission where it was taken away."""
    try:
        fd = os.open(name, _LISTED, dir_fd=directory)
    except PermissionError:
        _permit(name, directory)
        return os.open(name, _LISTED, dir_fd=directory)
    if os.fstat(fd).st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.fchmod(fd, stat.S_IRWXU)
    return fd


def _permit(name: str, directory: int | None) -> None:
    if sys.platform != "linux":
        os.chmod(name, stat.S_IRWXU, dir_fd=directory, follow_symlinks=False)
        return
    # Linux has no chmod that spares links (before fchmodat2), but a descriptor that needs no permission.
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.chmod(f"/proc/self/fd/{fd}", stat.S_IRWXU)
    finally:
        os.close(fd)
