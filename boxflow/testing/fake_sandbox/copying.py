"""How do files get from this machine into a box in memory, and back? As between any box and its machine.

What comes out is written where nothing else can be written: no link of the target is followed, and none is made that
leads out of it.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path, PurePosixPath

from boxflow.errors import BoxFileNotFoundError, SandboxError
from boxflow.testing.fake_sandbox.file_tree import FileTree, Node

_MOST_RIGHTS = 0o755


def copy_in(tree: FileTree, source: Path, path: str) -> None:
    """Copy the file or directory *source* of this machine to *path*.

    :raises FileNotFoundError: *source* is not there
    """
    found = source.lstat()
    if stat.S_ISDIR(found.st_mode):
        tree.make_directory(path)
        for entry in sorted(os.scandir(source), key=lambda each: each.name):
            _copy_entry_in(tree, Path(entry.path), f"{path}/{entry.name}")
    elif stat.S_ISREG(source.stat().st_mode):
        tree.write(path, source.read_bytes(), mode=stat.S_IMODE(source.stat().st_mode))
    else:
        raise SandboxError(f"cannot send {str(source)!r}: it is neither a file nor a directory")


def _copy_entry_in(tree: FileTree, source: Path, path: str) -> None:
    mode = source.lstat().st_mode
    if stat.S_ISLNK(mode):
        if tree.exists(path):
            tree.remove(path)
        tree.link(str(source.readlink()), path)
    elif stat.S_ISDIR(mode) or stat.S_ISREG(mode):
        if tree.exists(path) and tree.stat(path).kind == "symlink":
            # What is sent takes the link's place; it does not go where that leads.
            tree.remove(path)
        copy_in(tree, source, path)
        tree.chmod(path, stat.S_IMODE(mode))


def copy_out(tree: FileTree, path: str, target: Path) -> None:
    """Copy the file or directory *path* to *target* on this machine.

    :raises BoxFileNotFoundError: nothing is at *path*
    """
    node = tree.find(path, follow=True).node
    if node is None:
        raise BoxFileNotFoundError(f"no file {path!r} in the box")
    target.parent.mkdir(parents=True, exist_ok=True)
    if node.kind == "directory":
        _directory_out(node, target, PurePosixPath())
    elif node.kind == "file":
        _file_out(node, target)
    else:
        raise SandboxError(f"cannot fetch {path!r}: it is neither a file nor a directory")


def _directory_out(node: Node, target: Path, inside: PurePosixPath) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise SandboxError(f"cannot fetch into {str(target)!r}: something else than a directory is there")
    target.mkdir(exist_ok=True)
    for name, entry in sorted(node.entries.items()):
        place = target / name
        if entry.kind == "directory":
            _directory_out(entry, place, inside / name)
            place.chmod(entry.mode & _MOST_RIGHTS)
        elif entry.kind == "file":
            _file_out(entry, place)
        elif entry.kind == "symlink" and _stays_within(entry.target, inside):
            if place.is_symlink() or place.is_file():
                place.unlink()
            place.symlink_to(entry.target)


def _file_out(node: Node, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        raise SandboxError(f"cannot fetch into {str(target)!r}: a directory is there")
    half = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        half.write_bytes(node.data)
        half.chmod(node.mode & _MOST_RIGHTS)
        half.replace(target)
    finally:
        half.unlink(missing_ok=True)


def _stays_within(target: str, inside: PurePosixPath) -> bool:
    """Whether a link in the directory *inside* leads, by its words alone, to somewhere below the top."""
    if target.startswith("/"):
        return False
    depth = len(inside.parts)
    for word in PurePosixPath(target).parts:
        depth += -1 if word == ".." else 1
        if depth < 0:
            return False
    return True
