"""What does `/proc` say about the processes of this machine, and how is one of them signalled and no other?

Linux only.
"""

# No pathlib: thousands of small reads, where pathlib costs as much as the kernel.
# ruff: noqa: PTH116, PTH123, PTH208

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

MARK_VARIABLE = "BOXFLOW_MARK"

_PAUSE_S = 0.002
_EXEC_LOOKS = 50

# Each but the first is of what came within a millisecond; on a busy machine there is always something.
_LISTINGS = 20

# Of the flags in proc_pid_stat(5); the number is in linux/sched.h.
_PF_KTHREAD = 0x00200000


class Found(NamedTuple):
    """A process as `/proc` shows it. Process id and start time together are unique while the machine runs."""

    pid: int
    started: int
    parent: int
    session: int
    zombie: bool
    marked: bool


def scan(mark: str) -> Iterator[Found]:
    """Every process of this machine that is not the kernel's own."""
    wanted = mark.encode()
    looked_at: set[str] = set()
    for _ in range(_LISTINGS):
        # Again for those that came while we looked: one whose parent was gone when we came to it would be overlooked
        # together with all that it starts.
        names = [name for name in os.listdir("/proc") if name.isdigit() and name not in looked_at]
        if not names:
            return
        looked_at.update(names)
        for name in names:
            status = status_of(int(name))
            # Threads of the kernel have no environment ever.
            if status is not None and not status.kernel:
                marked = not status.zombie and wanted in _marks(status)
                yield Found(status.pid, status.started, status.parent, status.session, status.zombie, marked)


class Status(NamedTuple):
    """What is needed of proc_pid_stat(5)."""

    pid: int
    started: int
    parent: int
    session: int
    zombie: bool
    kernel: bool
    stopped: bool


def status_of(pid: int) -> Status | None:
    """How the process stands; None when it is gone."""
    text = _read(pid, "stat")
    if not text:
        return None
    # The program's name stands in parentheses and may itself hold spaces and parentheses.
    fields = text[text.rindex(b")") + 2 :].split()
    parent, session, flags, started = (int(fields[n]) for n in (1, 3, 6, 19))
    kernel = bool(flags & _PF_KTHREAD)
    return Status(pid, started, parent, session, fields[0] in b"ZX", kernel, fields[0] == b"T")


def _marks(status: Status) -> list[bytes]:
    environ = _read(status.pid, "environ")
    for _ in range(_EXEC_LOOKS):
        # In the middle of execve(2) a process shows neither environment nor arguments for a moment. Overlooking it then
        # would be overlooking it for good.
        if environ or _read(status.pid, "cmdline"):
            break
        again = status_of(status.pid)
        if again is None or again.zombie:
            break
        time.sleep(_PAUSE_S)
        environ = _read(status.pid, "environ")
    prefix = f"{MARK_VARIABLE}=".encode()
    start = 0 if environ.startswith(prefix) else environ.find(b"\0" + prefix) + 1
    if not environ.startswith(prefix, start):
        return []
    return environ[start + len(prefix) : environ.find(b"\0", start)].split()


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        # Gone; or another user's, and then it is not ours to end either.
        return b""


def children_of(pid: int) -> list[Status]:
    """The living processes whose parent it is."""
    found = [status_of(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    return [status for status in found if status is not None and status.parent == pid and not status.zombie]


def namespace_of(pid: int) -> int | None:
    """Which process namespace it is in, as a number; None when it is gone, or another user's."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None


def is_alive(pid: int, started: int) -> bool:
    """Whether it is still that process, and has not ended."""
    status = status_of(pid)
    return status is not None and status.started == started and not status.zombie


def _is_same(pid: int, started: int) -> bool:
    status = status_of(pid)
    return status is not None and status.started == started


def send(pid: int, started: int, number: int) -> None:
    """Send a signal to exactly this process, never to another one that got its id meanwhile."""
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform != "linux":
            return
        try:
            handle = os.pidfd_open(pid)
        except OSError as exc:
            if exc.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            # A kernel before 5.3, or a filter that knows no pidfd: the id may be reused, but not within these lines.
            if _is_same(pid, started):
                os.kill(pid, number)
            return
        try:
            if _is_same(pid, started):
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)
