"""What lies in the directory that the box sees, and how does it get there safely?"""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import attrs
import certifi

from boxflow.errors import ConfigurationError
from boxflow_backends.egress_gate.environment import CA_BUNDLE, SOCKET
from boxflow_backends.egress_gate.streams import close

# unix(7): sun_path has 108 bytes, the last of which is 0.
_MOST_PATH_BYTES = 107
# Connections that wait to be accepted; a forwarder that finds no place would wait, and all others behind it.
_BACKLOG = 1024


@attrs.frozen
class Door:
    """Where a gate listens, and which file that is, so that no other gate's is removed in its place."""

    listener: anyio.abc.SocketListener
    path: Path
    file: tuple[int, int]


def check_socket_path(directory: Path) -> Path:
    """Where the socket will be; :raises ConfigurationError: the path is too long for one."""
    path = directory / SOCKET
    length = len(os.fsencode(path))
    if length > _MOST_PATH_BYTES:
        raise ConfigurationError(
            f"the egress gate's socket {str(path)!r} has a path of {length} bytes, and a unix socket can have "
            f"{_MOST_PATH_BYTES}; use a shorter directory"
        )
    return path


def write_bundle(directory: Path, *authorities: str) -> None:
    """Write the certificates that programs in the box trust: the usual ones, and *authorities*. Blocking."""
    usual = Path(certifi.where()).read_text("ascii")
    target = directory / CA_BUNDLE
    unfinished = directory / f".{CA_BUNDLE}.new"
    # Never through a link, and never into a file that somebody has open.
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123  # a descriptor, not a path
        os.fchmod(descriptor, 0o644)  # Whatever the umask: the box's user is another one.
        file.write("\n".join([usual, *authorities]))
    unfinished.replace(target)


async def open_door(directory: Path) -> Door:
    """Listen at `gate.sock`, in place of whoever did before."""
    path = check_socket_path(directory)
    # First beside it, then over it: whoever connects meanwhile finds the old one or the new one.
    unfinished = directory / ".gate.new"
    await anyio.to_thread.run_sync(_unlink, unfinished)
    listener = await anyio.create_unix_listener(unfinished, mode=0o666, backlog=_BACKLOG)
    try:
        status = await anyio.to_thread.run_sync(_move, unfinished, path)
    except BaseException:
        await close(listener)
        raise
    return Door(listener, path, (status.st_dev, status.st_ino))


async def close_door(door: Door) -> None:
    """Listen no more, and remove the socket's file unless another gate has put its own there."""
    with anyio.CancelScope(shield=True):
        await close(door.listener)
        await anyio.to_thread.run_sync(_remove, door)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _move(unfinished: Path, path: Path) -> os.stat_result:
    unfinished.rename(path)
    return path.lstat()


def _remove(door: Door) -> None:
    try:
        status = door.path.lstat()
        if (status.st_dev, status.st_ino) == door.file:
            door.path.unlink()
    except FileNotFoundError:
        pass  # The box was deleted, and its directory with it.
