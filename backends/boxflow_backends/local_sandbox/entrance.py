"""How does a process get into the namespaces of an isolated box, and no right of ours with it?

Through programs that each do one thing and become the next (util-linux; no setns(2) in a program with threads):

1. `sh` gives the way in a descriptor, 3, on which it tells whether the program was found.
2. `nsenter` enters the user namespace that owns the others, where it may do everything, and with that the others. It
   forks, since a process namespace is entered by being born in it, and its child goes on.
3. `nsenter` enters the inner user namespace of the box, where nobody may do anything.
4. `setsid` makes a session, whose number is one of the box's own, and takes the terminal where there is one.
5. `setpriv` sees to it that no program which sets a user or capabilities gains any.
6. `sh` sets the environment, goes to the directory, sets limits, looks for the program, and becomes it.

Until step 6 all of them have an environment of ours: what stands in the box's must not lead them to load code of the
box (LD_PRELOAD) while they still have rights.

Linux only.
"""

# No pathlib: namespaces are held by descriptors, which no other process can take the place of.

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Final

from boxflow.errors import BoxStateError, SandboxError, SandboxUnavailableError
from boxflow_backends.local_sandbox.holder import Holder, programs, read_until
from boxflow_backends.local_sandbox.proc import MARK_VARIABLE

# linux/nsfs.h: the parent of a user namespace.
_NS_GET_PARENT: Final = 0xB702

_NAMESPACES: Final = {"mnt": "mount", "pid": "pid", "net": "net", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup"}

# The way in takes five milliseconds; a box that is being paused stops it on its way.
_ENTERED_S: Final = 20.0

_PREFIX: Final = "BOXFLOW_SET_"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_FIXED_IN_BASH: Final = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"})

_OUTER: Final = 'exec 3>"$0"; exec "$@"'
_INNER: Final = """
cd -- "$0" 2>&3 || exit 126
case $1 in
*/*) [ -f "$1" ] && [ -x "$1" ] ;;
*) command -v -- "$1" >/dev/null 2>&1 ;;
esac || { echo "there is no such program, or it may not be run" >&3; exit 127; }
echo entered >&3
exec 3>&-
exec "$@"
"""


class Entrance:
    """The namespaces of one box, held open: `with Entrance(box_id, holder) as entrance`. Blocking."""

    def __init__(self, box_id: str, holder: Holder) -> None:
        self._box_id = box_id
        self._holder = holder
        self._programs = programs()
        self._open = ExitStack()
        self._user = -1
        self._others: dict[str, int] = {}

    def __enter__(self) -> Entrance:
        """:raises BoxStateError: they are gone."""
        try:
            # One open descriptor holds a namespace, whatever its processes do. It is the right one if the process that
            # it was taken from is the right one afterwards.
            inner = self._namespace("user")
            self._others = {name: self._namespace(name) for name in _NAMESPACES}
            self._user = fcntl.ioctl(inner, _NS_GET_PARENT)
            self._open.callback(os.close, self._user)
        except (FileNotFoundError, ProcessLookupError) as exc:
            self._open.close()
            raise self._stopped() from exc
        except BaseException:
            self._open.close()
            raise
        if not self._holder.is_alive:
            self._open.close()
            raise self._stopped()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def start(
        self,
        argv: Sequence[str],
        directory: str,
        env: Mapping[str, str],
        marks: str,
        limits: str,
        theirs: tuple[int, int, int],
        *,
        tty: bool,
    ) -> subprocess.Popen[bytes]:
        """Start a program in the box; what is returned is its parent outside, which ends as it does.

        :param limits: shell commands
        :param theirs: what become its descriptors 0, 1 and 2
        :raises SandboxError: the program is not there
        """
        known = {name: value for name, value in env.items() if _NAME.fullmatch(name)}
        with ExitStack() as stack:
            told, tell = os.pipe()
            stack.callback(os.close, told)
            with ExitStack() as handed_over:
                handed_over.callback(os.close, tell)
                command = (
                    *("/bin/sh", "-c", _OUTER, _path(tell)),
                    *self._way_in(tty=tty),
                    *("/bin/sh", "-c", _exports(known) + limits + _INNER, directory, *argv),
                )
                popen = self._popen(command, {_PREFIX + name: value for name, value in known.items()}, marks, theirs)
                # Until it has opened the pipe by its path, this end of it has to be open.
                said = self._wait(popen, told, handed_over)
        if said == b"entered\n":
            return popen
        # It has ended, or is about to.
        with suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
        if said:
            reason = said.decode(errors="replace").strip()
            raise SandboxError(f"cannot start {argv[0]!r} in {directory!r} of box {self._box_id!r}: {reason}")
        if not self._holder.is_alive:
            raise self._stopped()
        raise SandboxUnavailableError(f"box {self._box_id!r} cannot be entered; see its processes, or delete it")

    def network(self) -> tuple[str, ...]:
        """The command that goes before one of ours, which then sees the box's network, and nothing else of the box."""
        return (
            self._programs["nsenter"],
            f"--user={_path(self._user)}",
            f"--net={_path(self._others['net'])}",
            "--preserve-credentials",
            "--",
        )

    def _way_in(self, *, tty: bool) -> tuple[str, ...]:
        nsenter = self._programs["nsenter"]
        return (
            *(nsenter, f"--user={_path(self._user)}"),
            *(f"--{option}={_path(self._others[name])}" for name, option in _NAMESPACES.items()),
            *("--preserve-credentials", "--"),
            *(nsenter, "--user=/proc/1/ns/user", "--preserve-credentials", "--"),
            *(self._programs["setsid"], *(("--ctty",) if tty else ())),
            *(self._programs["setpriv"], "--no-new-privs", "--"),
        )

    def _popen(
        self, command: Sequence[str], env: Mapping[str, str], marks: str, theirs: tuple[int, int, int]
    ) -> subprocess.Popen[bytes]:
        stdin, stdout, stderr = theirs
        try:
            return subprocess.Popen(  # noqa: S603  # starting what it is told is what a sandbox is for
                command,
                cwd="/",
                env={**env, "PATH": os.defpath, MARK_VARIABLE: marks},
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        except (OSError, ValueError) as exc:
            raise SandboxError(f"cannot start a process in box {self._box_id!r}: {exc}") from exc

    def _wait(self, popen: subprocess.Popen[bytes], told: int, tell: ExitStack) -> bytes:
        """What it says of its start; nothing when it ended before, or takes too long."""
        deadline = time.monotonic() + _ENTERED_S
        poll = select.poll()
        poll.register(told, select.POLLIN)
        while not poll.poll(2):
            if popen.poll() is not None or time.monotonic() > deadline:
                break
        tell.close()
        return read_until(told, b"\n", min(deadline, time.monotonic() + 1))

    def _namespace(self, name: str) -> int:
        fd = os.open(f"/proc/{self._holder.pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        self._open.callback(os.close, fd)
        return fd

    def _stopped(self) -> BoxStateError:
        return BoxStateError(f"box {self._box_id!r} is stopped; `await box.resume()` starts it again, with its files")


def _path(fd: int) -> str:
    """By which another process opens what we have open, without inheriting it."""
    return f"/proc/{os.getpid()}/fd/{fd}"


def _exports(env: Mapping[str, str]) -> str:
    """Give the variables their names. Their values are in no command line, which everybody may read."""
    lines: list[str] = []
    for name in env:
        # An assignment that fails ends a shell.
        attempt = f"({name}=) 2>/dev/null && " if name in _FIXED_IN_BASH else ""
        lines.append(f'{attempt}export {name}="${{{_PREFIX}{name}}}"; unset {_PREFIX}{name}\n')
    return "".join(lines)
