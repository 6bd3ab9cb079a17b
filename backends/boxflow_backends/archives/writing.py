"""How does a file appear whole in an open directory, or not at all?"""

# No pathlib: what is open cannot be swapped under us; a path can.

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_whole(
    directory: int, name: bytes, chunks: Iterable[bytes], *, mode: int | None, modified_at: float | None = None
) -> int:
    """Write *chunks* to the file *name* of the open *directory*; its size in bytes.

    Written beside its place, then moved over what was there: a file, or a link, which is replaced and not followed.

    :param mode: permission bits; the usual ones of a new file when None
    :raises IsADirectoryError: a directory is in its place
    """
    beside = b".boxflow-" + secrets.token_hex(8).encode()
    fd = os.open(beside, _NEW, 0o666 if mode is None else 0o600, dir_fd=directory)
    try:
        try:
            written = _write(fd, chunks)
            if modified_at is not None:
                os.utime(fd, (modified_at, modified_at))
            if mode is not None:
                os.fchmod(fd, mode)
        finally:
            os.close(fd)
        os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=directory)
        raise
    return written


def link_whole(directory: int, name: bytes, target: bytes) -> None:
    """Make the symbolic link *name* in the open *directory*, in place of what was there."""
    beside = b".boxflow-" + secrets.token_hex(8).encode()
    os.symlink(target, beside, dir_fd=directory)
    try:
        os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=directory)
        raise


def _write(fd: int, chunks: Iterable[bytes]) -> int:
    written = 0
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            done = os.write(fd, view)
            written += done
            view = view[done:]
    return written
