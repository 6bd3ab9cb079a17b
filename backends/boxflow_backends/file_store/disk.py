"""Every system call the file store makes on files, in one small object that a test can replace with a disk of its own.

Nothing here decides anything. All of it may block, and is called only from threads of the store.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from boxflow_backends.file_store.ownership import Ownership

# On macOS `fsync` leaves the data in the drive's cache; fcntl(2) there names F_FULLFSYNC as what reaches the medium.
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None) if sys.platform == "darwin" else None


class Disk(Protocol):
    """What the store asks of a file system. Errors are `OSError`s, as the system calls raise them."""

    def own(self, root: Path) -> Callable[[], None]:
        """Become the only owner of a directory; what is returned ends that.

        :raises StoreLockedError: a living process owns it
        """
        ...

    def is_directory(self, path: Path) -> bool:
        """Whether there is a directory of that name."""
        ...

    def make_directory(self, path: Path) -> None:
        """Make one directory, open to its owner only; fine if it is there."""
        ...

    def list_directory(self, path: Path) -> Sequence[str]:
        """The names in a directory, in any order."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Make durable which names are in the directory."""
        ...

    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory."""
        ...

    def create(self, path: Path) -> int:
        """Make a new file for writing, readable by its owner only. An error if there is one."""
        ...

    def open(self, path: Path) -> int:
        """Open a file for reading."""
        ...

    def write(self, file: int, data: bytes | memoryview) -> int:
        """Write at the end; how many bytes were taken, which may be fewer than given."""
        ...

    def read(self, file: int, size: int, offset: int) -> bytes:
        """At most *size* bytes from *offset*; fewer only at the end."""
        ...

    def sync(self, file: int) -> None:
        """Make durable what was written, and the size."""
        ...

    def close(self, file: int) -> None:
        """Close it."""
        ...

    def size(self, path: Path) -> int:
        """The size of a file in bytes."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name in its directory, replacing what had that name."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        ...

    def map(self, path: Path) -> memoryview:
        """The bytes of a file that never changes, of which few are going to be looked at."""
        ...


class RealDisk:
    """The file system of this machine."""

    def own(self, root: Path) -> Callable[[], None]:
        return Ownership.take(root).release

    def is_directory(self, path: Path) -> bool:
        return path.is_dir()

    def make_directory(self, path: Path) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not path.is_dir():
                raise

    def list_directory(self, path: Path) -> Sequence[str]:
        return os.listdir(path)

    def sync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove_directory(self, path: Path) -> None:
        os.rmdir(path)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def write(self, file: int, data: bytes | memoryview) -> int:
        return os.write(file, data)

    def read(self, file: int, size: int, offset: int) -> bytes:
        return os.pread(file, size, offset)

    def sync(self, file: int) -> None:
        if _FULL_SYNC is not None:
            fcntl.fcntl(file, _FULL_SYNC)
        elif hasattr(os, "fdatasync"):
            os.fdatasync(file)
        else:
            os.fsync(file)

    def close(self, file: int) -> None:
        os.close(file)

    def size(self, path: Path) -> int:
        return os.stat(path).st_size

    def rename(self, old: Path, new: Path) -> None:
        os.replace(old, new)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def map(self, path: Path) -> memoryview:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        # Else a look at one page may read megabytes around it, as much as the device's `read_ahead_kb` says.
        mapped.madvise(mmap.MADV_RANDOM)
        return memoryview(mapped)


def write_all(disk: Disk, file: int, data: bytes) -> None:
    """Write all of *data*, however many calls it takes."""
    taken = disk.write(file, data)
    if taken == len(data):
        return
    rest = memoryview(data)[taken:]
    while rest:
        taken = disk.write(file, rest)
        if taken <= 0:
            raise OSError(errno.EIO, "the file takes no more bytes")
        rest = rest[taken:]


def write_file(disk: Disk, path: Path, data: bytes) -> None:
    """Make a file with *data* that is there whole or not at all, and durable on return."""
    unfinished = path.with_name(path.name + ".tmp")
    remove_if_there(disk, unfinished)
    file = disk.create(unfinished)
    try:
        write_all(disk, file, data)
        disk.sync(file)
    finally:
        disk.close(file)
    disk.rename(unfinished, path)
    disk.sync_directory(path.parent)


def remove_if_there(disk: Disk, path: Path) -> None:
    """Remove a name; no error when there is none."""
    try:
        disk.unlink(path)
    except FileNotFoundError:
        return


def read_whole(disk: Disk, path: Path) -> bytes:
    """All bytes of a file."""
    file = disk.open(path)
    try:
        parts: list[bytes] = []
        offset = 0
        while part := disk.read(file, 1 << 20, offset):
            parts.append(part)
            offset += len(part)
        return b"".join(parts)
    finally:
        disk.close(file)
