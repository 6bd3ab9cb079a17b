"""What is in the file system of a box that is only in memory? Files, directories and links, as in any other box.

    /work        where commands run, and what paths are relative to
    /home/box    the user's home
    /tmp         temporary files
    /jobs        of `box.jobs`; a snapshot leaves it out

All else belongs to the system: it can be walked through, and nothing be written. There is no way out: `..` of the root
is the root, and a link is followed by the same rules as the path that it stands in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from boxflow.errors import BoxFileNotFoundError, BoxPathError, SandboxError
from boxflow.ports import FileInfo

WORK: Final = "/work"
HOME: Final = "/home/box"
TEMPORARY: Final = "/tmp"  # noqa: S108 - of a box in memory
JOBS: Final = "/jobs"

_MAX_LINKS: Final = 40
"""As many as Linux follows (path_resolution(7))."""

_MAX_NAME_BYTES: Final = 255


@attrs.define(kw_only=True, eq=False)
class Node:
    """A file, a directory, a link, or something else that only has a name.

    :param kind: as `FileInfo.kind` has it
    :param entries: of a directory
    :param target: of a link
    :param is_the_systems: nothing can be put into this directory, or taken out of it
    """

    kind: str
    mode: int
    modified_at: float = 0.0
    data: bytes = b""
    target: str = ""
    entries: dict[str, Node] = attrs.field(factory=dict[str, "Node"])
    is_the_systems: bool = False

    def copy(self) -> Node:
        """This one and all that is below it, as it is now."""
        return attrs.evolve(self, entries={name: node.copy() for name, node in self.entries.items()})


@attrs.frozen
class Spot:
    """Where a path leads: a name in a directory, and what has it. The name of the root is empty."""

    parent: Node
    name: str
    node: Node | None


class FileTree:
    """The files of one box. Errors are those that `boxflow.ports.Sandbox` names.

    :param now: gives the time that files are marked with, in seconds since the epoch
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._root = Node(kind="directory", mode=0o755, is_the_systems=True)
        for place in (WORK, HOME, TEMPORARY, JOBS):
            above = self._root
            *names, last = place.strip("/").split("/")
            for name in names:
                above = above.entries.setdefault(name, Node(kind="directory", mode=0o755, is_the_systems=True))
            above.entries[last] = self._directory()

    # --- files --------------------------------------------------------------------------------------------------------

    def read(self, path: str, *, offset: int = 0, limit: int | None = None) -> bytes:
        """Bytes of a file; a link is followed."""
        node = self._there(path, follow=True)
        if node.kind != "file":
            raise SandboxError(f"cannot read {path!r}: it is {_described(node)}")
        return node.data[offset:] if limit is None else node.data[offset : offset + limit]

    def write(self, path: str, data: bytes, *, mode: int | None = None) -> None:
        """Write a file whole, making the directories above it."""
        spot = self.find(path, follow=True, make=True)
        node = spot.node
        if node is not None and node.kind != "file":
            raise SandboxError(f"cannot write {path!r}: it is {_described(node)}")
        if mode is None:
            mode = 0o644 if node is None else node.mode
        self._put(path, spot, Node(kind="file", mode=mode, data=bytes(data), modified_at=self._now()))

    def exists(self, path: str) -> bool:
        """Whether anything is there; a link is not followed."""
        try:
            return self.find(path, follow=False).node is not None
        except SandboxError:
            return False

    def stat(self, path: str) -> FileInfo:
        """What *path* is; a link is described, not followed."""
        return _info(path, self._there(path, follow=False))

    def list(self, path: str, *, recursive: bool = False) -> list[FileInfo]:
        """The entries of a directory, sorted by path; links are listed, not followed."""
        node = self._there(path, follow=True)
        if node.kind != "directory":
            raise SandboxError(f"cannot list {path!r}: it is {_described(node)}")
        found = [_info(name, each) for name, each in walk(node, recursive=recursive)]
        return sorted(found, key=lambda info: info.path)

    def make_directory(self, path: str) -> Node:
        """Make the directory and those above it; one that is there is no error."""
        spot = self.find(path, follow=True, make=True)
        if spot.node is None:
            node = self._directory()
            self._put(path, spot, node)
            return node
        if spot.node.kind != "directory":
            raise SandboxError(f"cannot make directory {path!r}: it is {_described(spot.node)}")
        return spot.node

    def link(self, target: str, path: str) -> None:
        """Make a symbolic link at *path*, which must be free, that leads to *target*."""
        self._add(path, Node(kind="symlink", mode=0o777, target=target, modified_at=self._now()))

    def make_other(self, path: str) -> None:
        """Make something that is neither file, directory nor link, as a pipe is."""
        self._add(path, Node(kind="other", mode=0o644, modified_at=self._now()))

    def rename(self, path: str, to: str) -> None:
        """Move a file, directory or link, making directories above and replacing a file there."""
        source = self.find(path, follow=False)
        if source.node is None:
            raise _missing(path)
        self._refuse_systems(path, source)
        target = self.find(to, follow=False, make=True)
        if target.node is not None and target.node.kind == "directory" and target.node is not source.node:
            raise SandboxError(f"cannot rename {path!r} to {to!r}: a directory is there")
        if any(node is target.parent for _, node in walk(source.node, recursive=True)) or target.parent is source.node:
            raise SandboxError(f"cannot rename {path!r} to {to!r}, which is in it")
        self._refuse_systems(to, target)
        del source.parent.entries[source.name]
        target.parent.entries[target.name] = source.node

    def remove(self, path: str) -> None:
        """Remove a file, a link, or a directory with all that is in it."""
        spot = self.find(path, follow=False)
        if spot.node is None:
            raise _missing(path)
        self._refuse_systems(path, spot)
        del spot.parent.entries[spot.name]

    def chmod(self, path: str, mode: int) -> None:
        """Set permission bits."""
        self._there(path, follow=True).mode = mode

    # --- copies of it -------------------------------------------------------------------------------------------------

    def copy(self) -> FileTree:
        """The same files in a tree of their own, but for those of jobs."""
        other = FileTree(self._now)
        for place in (WORK, HOME, TEMPORARY):
            found, made = self._there(place, follow=False), other._there(place, follow=False)
            made.entries = found.copy().entries
        return other

    # --- walking ------------------------------------------------------------------------------------------------------

    def find(self, path: str, *, follow: bool, make: bool = False) -> Spot:
        """Where *path* leads.

        :param follow: a link at the end is followed
        :param make: directories that are missing on the way are made
        :raises BoxFileNotFoundError: a directory on the way is missing
        """
        stack = [self._root]
        spot = Spot(self._root, "", self._root)
        rest, links = deque(_names(f"{WORK}/{path}" if not path.startswith("/") else path)), 0
        while rest:
            name = rest.popleft()
            if name == "..":
                stack[1:] = stack[1:-1]
                spot = Spot(stack[-1], "", stack[-1])
                continue
            above = stack[-1]
            node = above.entries.get(name)
            if node is not None and node.kind == "symlink" and (rest or follow):
                links += 1
                if links > _MAX_LINKS:
                    raise SandboxError(f"path {path!r} has too many links; they lead in a circle")
                if node.target.startswith("/"):
                    stack = [self._root]
                rest.extendleft(reversed(_names(node.target)))
                spot = Spot(stack[-1], "", stack[-1])
                continue
            spot = Spot(above, name, node)
            if node is None and rest:
                if not make:
                    raise _missing(path)
                node = self._directory()
                self._put(path, spot, node)
            if node is not None and node.kind == "directory":
                stack.append(node)
            elif rest:
                raise SandboxError(f"path {path!r} goes through {name!r}, which is {_described(node)}")
        return spot

    def _there(self, path: str, *, follow: bool) -> Node:
        node = self.find(path, follow=follow).node
        if node is None:
            raise _missing(path)
        return node

    def _add(self, path: str, node: Node) -> None:
        spot = self.find(path, follow=False, make=True)
        if spot.node is not None:
            raise SandboxError(f"cannot make {path!r}: {_described(spot.node)} is there")
        self._put(path, spot, node)

    def _put(self, path: str, spot: Spot, node: Node) -> None:
        self._refuse_systems(path, spot)
        spot.parent.entries[spot.name] = node

    def _refuse_systems(self, path: str, spot: Spot) -> None:
        if not spot.name or spot.parent.is_the_systems:
            raise BoxPathError(f"path {path!r} is outside of what the box may change: {WORK}, {HOME}, {TEMPORARY}")

    def _directory(self) -> Node:
        return Node(kind="directory", mode=0o755, modified_at=self._now())


def walk(top: Node, *, recursive: bool, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """What is below *top*, by its path from there; no link is followed."""
    for name, node in top.entries.items():
        yield prefix + name, node
        if recursive and node.kind == "directory":
            yield from walk(node, recursive=True, prefix=f"{prefix}{name}/")


def _names(path: str) -> list[str]:
    names = [name for name in path.split("/") if name not in ("", ".")]
    for name in names:
        if "\0" in name or len(name.encode(errors="surrogateescape")) > _MAX_NAME_BYTES:
            raise BoxPathError(f"path {path[:80]!r} holds a name that no file can have")
    return names


def _info(path: str, node: Node) -> FileInfo:
    return FileInfo(path=path, kind=node.kind, size_bytes=len(node.data), mode=node.mode, modified_at=node.modified_at)


def _described(node: Node | None) -> str:
    kinds = {"file": "a file", "directory": "a directory", "symlink": "a link", "other": "no file (a pipe, say)"}
    return "missing" if node is None else kinds[node.kind]


def _missing(path: str) -> BoxFileNotFoundError:
    return BoxFileNotFoundError(f"no file {path!r} in the box")
