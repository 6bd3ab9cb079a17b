"""How does a tar stream become files of a directory, such that no trick in it leads out of there?

Every directory on the way to a member is opened relative to the one above it without following links, and every file
is made under a new name and moved to its place. So it does not matter what links an archive has brought before, or
what somebody puts in the way while we write: the tricks that outwit a check of paths before their use (CVE-2007-4559,
CVE-2025-4517) have nothing to start from.
"""

# No pathlib: what is open cannot be swapped under us; a path can.

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import attrs

from boxflow.errors import BoxPathError, SandboxError
from boxflow_backends.archives.packing import MAX_DEPTH
from boxflow_backends.archives.reading import Kind, Limits, Member, Readable, TarReader
from boxflow_backends.archives.walking import Parts, Walk, shown
from boxflow_backends.archives.writing import link_whole, write_whole

Links = Literal["inside", "all"]
"""Which symbolic links are made: those that stay within the target, or all of them."""

_CHUNK_BYTES = 256 * 1024

_CHANGED = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@attrs.frozen(kw_only=True)
class Unpacked:
    """What came out of an archive.

    :param files: regular files, copies for hard links among them
    :param left_out: members that are not there: devices, pipes, links that would lead out
    """

    files: int
    left_out: int


def unpack(
    stream: Readable,
    target: Path | int,
    *,
    links: Links = "inside",
    mode_mask: int = 0o755,
    limits: Limits = Limits(),
) -> Unpacked:
    """Write the members of the tar *stream* into the directory *target*; what is there already stays, or is replaced.

    Nothing is written outside of *target*. Each file appears whole. Of a member's permission bits those in *mode_mask*
    are kept, set-user-id and the like never; a directory that was there before keeps its own. Hard links become copies
    of a file in *target*; devices and pipes are left out.

    A symbolic link is never followed, not even one that was in *target* before: a member whose way leads through one
    is an error. With *links* `"inside"` a link is made if its target is relative and has `..` at its beginning only, no
    more of them than lead to *target*; others are left out. (Behind a name, `..` may lead out: the name may be a link.)

    :param target: a directory, made when missing (links on the way to it are its owner's, and followed); or an open
        descriptor of one, which stays open
    :raises BoxPathError: a member's name is absolute, has `..`, or its way leads through a symbolic link
    :raises SandboxError: the archive is damaged, ends too early or is larger than *limits*; or a member cannot be
        written. What was written before stays
    :raises OSError: *target* itself cannot be opened
    """
    if isinstance(target, Path):
        target.mkdir(parents=True, exist_ok=True)
        top = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return unpack(stream, top, links=links, mode_mask=mode_mask, limits=limits)
        finally:
            os.close(top)
    unpacking = _Unpacking(target, TarReader(stream, limits), links, mode_mask & 0o777)
    try:
        return unpacking.run()
    finally:
        unpacking.close()


class _Unpacking:
    def __init__(self, top: int, reader: TarReader, links: Links, mode_mask: int) -> None:
        # On Linux a directory can be walked through without the permission to list it.
        self._walk = Walk(top, getattr(os, "O_PATH", os.O_RDONLY))
        self._reader = reader
        self._links = links
        self._mode_mask = mode_mask
        #: Directories that their owner may not write to, which waits until they are full.
        self._closed: list[tuple[Parts, int]] = []
        self._files = 0
        self._left_out = 0

    def close(self) -> None:
        self._walk.close()

    def run(self) -> Unpacked:
        for member in self._reader:
            parts = _parts(member.name)
            if parts:
                with _naming(parts):
                    self._put(parts, member)
        # The innermost first: behind a closed one nothing can be reached.
        for parts, mode in sorted(self._closed, key=lambda entry: -len(entry[0])):
            with _naming(parts):
                self._change_mode(parts, mode)
        return Unpacked(files=self._files, left_out=self._left_out)

    def _put(self, parts: Parts, member: Member) -> None:
        mode = member.mode & self._mode_mask
        match member.kind:
            case Kind.FILE:
                self._put_file(parts, self._reader.data(), mode, member.modified_at)
            case Kind.DIRECTORY:
                self._put_directory(parts, mode)
            case Kind.SYMLINK if member.target and (self._links == "all" or _is_inside(parts, member.target)):
                link_whole(self._enter(parts[:-1]), parts[-1], member.target)
            case Kind.HARD_LINK:
                self._put_copy(parts, member)
            case Kind.SYMLINK | Kind.OTHER:
                self._left_out += 1

    def _put_file(self, parts: Parts, data: Iterator[bytes], mode: int, modified_at: float) -> None:
        write_whole(self._enter(parts[:-1]), parts[-1], data, mode=mode, modified_at=modified_at)
        self._files += 1

    def _put_directory(self, parts: Parts, mode: int) -> None:
        above = self._enter(parts[:-1])
        try:
            os.mkdir(parts[-1], 0o700, dir_fd=above)
        except FileExistsError:
            # Then it must be a directory, which keeps its permissions.
            self._enter(parts)
            return
        if mode & stat.S_IRWXU == stat.S_IRWXU:
            self._change_mode(parts, mode)
        else:
            self._closed.append((parts, mode))

    def _put_copy(self, parts: Parts, member: Member) -> None:
        """A copy and no link: writing to the one must not change the other, which may have been there before."""
        source = _parts(member.target)
        fd = self._open_file(source) if source else None
        if fd is None:
            self._left_out += 1
            return
        try:
            status = os.fstat(fd)
            self._put_file(parts, self._charged(fd), stat.S_IMODE(status.st_mode) & self._mode_mask, status.st_mtime)
        finally:
            os.close(fd)

    def _open_file(self, parts: Parts) -> int | None:
        """A regular file of the target; None when there is none of that name."""
        try:
            fd = os.open(parts[-1], _FILE, dir_fd=self._enter(parts[:-1], make=False))
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                return None
            raise
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return None

    def _charged(self, fd: int) -> Iterator[bytes]:
        while data := os.read(fd, _CHUNK_BYTES):
            self._reader.charge(len(data))
            yield data

    def _change_mode(self, parts: Parts, mode: int) -> None:
        fd = os.open(parts[-1], _CHANGED, dir_fd=self._enter(parts[:-1]))
        try:
            os.fchmod(fd, mode)
        finally:
            os.close(fd)

    def _enter(self, parts: Parts, *, make: bool = True) -> int:
        """The directory *parts* below the target, open until the next call."""
        try:
            return self._walk.enter(parts, make=make)
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENOTDIR):
                reached = parts[: len(self._walk.at) + 1]
                raise BoxPathError(
                    f"{shown(reached)!r} in the target is a symbolic link or a file where a directory is needed; "
                    "links are not followed: remove it, or choose another target"
                ) from exc
            raise


@contextmanager
def _naming(parts: Parts) -> Generator[None, None, None]:
    try:
        yield
    except OSError as exc:
        if isinstance(exc, SandboxError):
            raise
        raise SandboxError(f"cannot unpack {shown(parts)!r}: {exc.strerror}") from exc


def _parts(name: bytes) -> Parts:
    """The names on the way to a member; none for the target itself."""
    if name.startswith(b"/") or b"\0" in name:
        raise BoxPathError(f"{shown((name,))!r} in the archive is an absolute path, or no path; it is not unpacked")
    parts = tuple(part for part in name.split(b"/") if part not in (b"", b"."))
    if b".." in parts:
        raise BoxPathError(f"{shown((name,))!r} in the archive leads out of it; it is not unpacked")
    if len(parts) > MAX_DEPTH:
        raise BoxPathError(f"{shown(parts)[:200]!r}... in the archive is more than {MAX_DEPTH} directories deep")
    return parts


def _is_inside(parts: Parts, target: bytes) -> bool:
    """Whether a link at *parts* stays within the top, whatever the names in *target* are or become.

    The directory of the link is no link, nor are those above it, so `..` at the beginning leads where it seems to.
    Names that follow lead downwards, or are links of this very kind.
    """
    if target.startswith(b"/") or b"\0" in target:
        return False
    steps = [step for step in target.split(b"/") if step not in (b"", b".")]
    ups = next((n for n, step in enumerate(steps) if step != b".."), len(steps))
    return ups < len(parts) and b".." not in steps[ups:]
