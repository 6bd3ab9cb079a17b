"""What keeps the namespaces of an isolated box alive, from one command to the next and from one engine to the next?

A *holder*: the first process of the box's process namespace, started through bubblewrap. It is nobody's child, so that
it outlives the engine. When it is killed, the kernel kills everything else in the namespace before it is gone
(pid_namespaces(7)): what runs in an isolated box cannot escape its end, whatever it has done to its environment, its
session and its parents.

Linux only.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import attrs

from boxflow.errors import SandboxError, SandboxUnavailableError
from boxflow_backends.local_sandbox.proc import MARK_VARIABLE, is_alive, namespace_of, send, status_of
from boxflow_backends.local_sandbox.profile import Profile

# bubblewrap takes ten milliseconds.
_READY_S: Final = 20.0
_END_S: Final = 10.0
_PAUSE_S: Final = 0.002

_PROGRAMS: Final = ("bwrap", "nsenter", "setpriv", "setsid")


@attrs.frozen(kw_only=True)
class Holder:
    """The first process of a box.

    :param pid: its process id, as this machine counts
    :param started: its start time; with `boot` it tells it from any other process of that id
    :param boot: the life of this machine in which it was started
    """

    pid: int
    started: int
    boot: str

    @property
    def is_alive(self) -> bool:
        """Whether the box's namespaces exist."""
        return self.boot == _boot() and is_alive(self.pid, self.started)

    @property
    def namespace(self) -> int | None:
        """The number of its process namespace; None when it is gone."""
        number = namespace_of(self.pid)
        return number if self.is_alive else None

    def keep(self, path: Path) -> None:
        """Write it down, for other engines to find."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(attrs.asdict(self)), encoding="utf-8")
        new.replace(path)

    @classmethod
    def kept(cls, path: Path) -> Holder | None:
        """The one that was written down; None when there is none."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(pid=int(data["pid"]), started=int(data["started"]), boot=str(data["boot"]))
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None


def programs() -> dict[str, str]:
    """Where the programs are that isolated boxes are made with.

    :raises SandboxUnavailableError: one is not installed
    """
    found = {name: shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin") for name in _PROGRAMS}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        packages = "bubblewrap" if missing == ["bwrap"] else "bubblewrap and util-linux"
        raise SandboxUnavailableError(
            f"isolation='bubblewrap' needs {', '.join(missing)}, which is not installed; "
            f"install the packages {packages}"
        )
    return {name: path for name, path in found.items() if path is not None}


def start_holder(profile: Profile, marks: str) -> Holder:
    """Make the box's namespaces. Returns when they are ready to be entered.

    :param marks: by which its process is found, should nobody come to write it down
    :raises SandboxUnavailableError: bubblewrap is not installed, or may not make them
    """
    program = programs()["bwrap"]
    deadline = time.monotonic() + _READY_S
    with ExitStack() as open_here, ExitStack() as handed_over:
        files = {path: _file(path, text, handed_over) for path, text in profile.written().items()}
        info, info_end = _pipe(open_here, handed_over)
        output, output_end = _pipe(open_here, handed_over)
        errors, errors_end = _pipe(open_here, handed_over)
        arguments = profile.arguments(program, info=info_end, written=files)
        # In the background of a shell that ends at once: so it is not our child, and nobody has to reap it.
        launcher = subprocess.Popen(  # noqa: S603  # bubblewrap, with what the profile says
            ("/bin/sh", "-c", '"$@" &', "sh", *arguments),
            env={"PATH": os.defpath, MARK_VARIABLE: marks},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output_end,
            stderr=errors_end,
            pass_fds=(info_end, *files.values()),
            start_new_session=True,
        )
        handed_over.close()
        launcher.wait(_READY_S)
        ready = read_until(output, b"\n", deadline)
        if ready != b"ready\n":
            said = read_until(errors, b"\n", time.monotonic() + 1).decode(errors="replace").strip()
            raise SandboxUnavailableError(f"bubblewrap cannot make an isolated box: {said or 'it says nothing'}")
        pid = int(json.loads(read_until(info, b"}", deadline))["child-pid"])
    status = status_of(pid)
    if status is None:
        raise SandboxError(f"the first process {pid} of box {profile.box_id!r} has ended already; create the box again")
    return Holder(pid=pid, started=status.started, boot=_boot())


def kill_holder(holder: Holder) -> None:
    """Kill the box's first process, and with it everything in its namespace."""
    send(holder.pid, holder.started, signal.SIGKILL)


def await_end(holder: Holder) -> None:
    """Return when it is gone, and with it everything in its namespace.

    What was started from outside is gone when its parent outside knows it, which does not while it is stopped.

    :raises SandboxError: it does not end
    """
    deadline = time.monotonic() + _END_S
    while holder.is_alive:
        if time.monotonic() > deadline:
            raise SandboxError(f"process {holder.pid}, the first of its box, does not end; end it by hand")
        time.sleep(_PAUSE_S)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe()
    ours.callback(os.close, reader)
    theirs.callback(os.close, writer)
    return reader, writer


def _file(name: str, text: str, stack: ExitStack) -> int:
    """A file without a name that holds *text*."""
    fd = os.memfd_create(name)
    stack.callback(os.close, fd)
    os.write(fd, text.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def read_until(fd: int, end: bytes, deadline: float) -> bytes:
    """What comes until *end* did, the other end is closed, or time is up."""
    data = b""
    # Not `select`, which knows no descriptors beyond the first 1,024.
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while end not in data:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            break
        piece = os.read(fd, 4096)
        if not piece:
            break
        data += piece
    return data
