"""Which file does a path of a box mean, such that no trick leads out of the box?

A path is walked one component at a time. Each is opened relative to the directory before it and without following
links; a link is read and its target walked by the same rules. So `..`, absolute links, and links that something in the
box swaps in while we walk, all end in an error and never outside. Looking at the real path first and opening it
afterwards would lose that race (CWE-367).
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

from boxflow.errors import BoxFileNotFoundError, BoxNotFoundError, BoxPathError, SandboxError
from boxflow_backends.local_sandbox.layout import PLACES, WORK, Layout

# As many as Linux follows (path_resolution(7)).
_MAX_LINKS = 40

# On Linux a directory can be walked through without the permission to list it.
_DIRECTORY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Spot(NamedTuple):
    """A name in an open directory. `"."` is the directory itself."""

    directory: int
    name: str


@contextmanager
def located(
    layout: Layout, box_id: str, path: str, *, follow: bool = True, make: bool = False
) -> Generator[Spot, None, None]:
    """Where *path* leads; the directory stays open within the block. The last name may or may not exist.

    :param follow: a link at the end is followed
    :param make: directories that are missing on the way are made
    :raises BoxPathError: the path leads out of the box
    :raises BoxFileNotFoundError: a directory on the way does not exist
    :raises BoxNotFoundError: no such box
    """
    walk = _Walk(layout, box_id, path)
    try:
        yield walk.to_end(follow=follow, make=make)
    finally:
        walk.close()


class _Walk:
    def __init__(self, layout: Layout, box_id: str, path: str) -> None:
        self._layout = layout
        self._box_id = box_id
        self._path = path
        self._stack: list[int] = []
        self._rest: deque[str] = deque()
        self._links = 0

    def close(self) -> None:
        while self._stack:
            os.close(self._stack.pop())

    def to_end(self, *, follow: bool, make: bool) -> Spot:
        if "\0" in self._path:
            raise BoxPathError(f"path {self._path!r} holds a zero byte; no file can have that name")
        try:
            self._go(self._path)
            while self._rest:
                name = self._rest.popleft()
                if name == "..":
                    self._up()
                    continue
                if not self._rest and not follow:
                    return Spot(self._stack[-1], name)
                target = self._link(name)
                if target is not None:
                    self._count()
                    self._go(target)
                elif not self._rest:
                    return Spot(self._stack[-1], name)
                else:
                    self._down(name, make=make)
            return Spot(self._stack[-1], ".")
        except OSError as exc:
            if isinstance(exc, SandboxError):
                raise
            raise translated(exc, self._path) from exc

    def _go(self, path: str) -> None:
        """Put *path* before what is left to walk; an absolute one starts at its place again."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if path.startswith("/"):
            place, parts = self._place(parts)
            self._start(place)
        elif not self._stack:
            self._start(WORK)
        self._rest.extendleft(reversed(parts))

    def _place(self, parts: list[str]) -> tuple[str, list[str]]:
        """Which of the box's directories an absolute path leads through, and the rest of it."""
        for place in PLACES:
            above = self._layout.place(self._box_id, place).parts[1:]
            if tuple(parts[: len(above)]) == above:
                return place, parts[len(above) :]
        raise self._outside()

    def _start(self, place: str) -> None:
        self.close()
        try:
            self._stack.append(os.open(self._layout.box(self._box_id), _DIRECTORY))
        except FileNotFoundError as exc:
            raise BoxNotFoundError(self._box_id) from exc
        # Not kept below it: ".." must not lead from one place of the box to its record.
        box = self._stack.pop()
        try:
            self._stack.append(os.open(place, _DIRECTORY, dir_fd=box))
        except OSError as exc:
            raise BoxPathError(f"{place!r} of box {self._box_id!r} is no directory any more: {exc.strerror}") from exc
        finally:
            os.close(box)

    def _up(self) -> None:
        if len(self._stack) == 1:
            raise self._outside()
        os.close(self._stack.pop())

    def _down(self, name: str, *, make: bool) -> None:
        try:
            self._stack.append(os.open(name, _DIRECTORY, dir_fd=self._stack[-1]))
        except FileNotFoundError:
            if not make:
                raise
            self._count()
            _make_directory(name, self._stack[-1])
            self._rest.appendleft(name)
        except OSError as exc:
            # It was a link for a moment, or still is: look again. A plain file: there is no way on.
            if exc.errno not in (errno.ELOOP, errno.ENOTDIR) or not self._is_link_or_directory(name):
                raise
            self._count()
            self._rest.appendleft(name)

    def _link(self, name: str) -> str | None:
        """Where the link points; None for what is no link, or is not there."""
        try:
            return os.readlink(name, dir_fd=self._stack[-1])
        except OSError as exc:
            if exc.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise

    def _is_link_or_directory(self, name: str) -> bool:
        mode = os.stat(name, dir_fd=self._stack[-1], follow_symlinks=False).st_mode
        return stat.S_ISLNK(mode) or stat.S_ISDIR(mode)

    def _count(self) -> None:
        self._links += 1
        # Making directories counts as well, so that nothing can keep us here by removing them again and again.
        if self._links > _MAX_LINKS + self._path.count("/"):
            raise SandboxError(f"path {self._path!r} leads through more than {_MAX_LINKS} symbolic links")

    def _outside(self) -> BoxPathError:
        return BoxPathError(
            f"path {self._path!r} leads out of box {self._box_id!r}; "
            "use one relative to its working directory, or an absolute one that a command in the box printed"
        )


def _make_directory(name: str, directory: int) -> None:
    try:
        os.mkdir(name, dir_fd=directory)
    except FileExistsError:
        # Somebody else made it: as good.
        return


def translated(exc: OSError, path: str) -> SandboxError:
    """An error of the operating system about *path* in our words."""
    if exc.errno == errno.ENOENT:
        return BoxFileNotFoundError(f"no file {path!r} in the box")
    return SandboxError(f"{path!r} in the box: {exc.strerror}")
