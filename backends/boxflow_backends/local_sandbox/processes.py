"""How is a whole process tree ended, with what has left its group, its session and its parent?

Every process of a box carries a mark in its environment, which its children inherit. On Linux `/proc` shows it, and
so finds daemons that no process group and no parent leads to, also those that a killed engine left behind.

A process that wiped its environment is still found while it shares a session with a marked one or descends from one.
One that did all of it (new session, parents gone, environment wiped) is not: a local box is no isolation.
"""

# No pathlib: thousands of small reads, where pathlib costs as much as the kernel.
# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

from boxflow.errors import SandboxError

MARK_VARIABLE = "BOXFLOW_MARK"

_DEADLINE_S = 10.0
_PAUSE_S = 0.002
_EXEC_LOOKS = 50

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


def end_marked(
    mark: str, *, children: Callable[[], Collection[int]], is_starting: Callable[[], bool], leader: int | None = None
) -> None:
    """Kill every process that carries *mark*, with all that belong to it; return when none is left.

    Blocking: call it in a thread. Where there is no `/proc`, only the group of *leader* is killed, or those of all
    *children*.

    :param children: processes that this program started itself and will reap itself, as it knows them at the call
    :param is_starting: whether it is starting one right now, which is not among them yet
    :param leader: the child that carries the mark, if it is one
    :raises SandboxError: some would not end within ten seconds
    """
    if sys.platform != "linux":
        for group in children() if leader is None else (leader,):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        return
    deadline = time.monotonic() + _DEADLINE_S
    seen: dict[int, int] = {}
    while alive := _freeze(mark, leader, seen, deadline):
        for process in alive.values():
            _send(process, signal.SIGKILL)
        time.sleep(_PAUSE_S)
        if time.monotonic() > deadline:
            raise SandboxError(
                f"processes {sorted(alive)} did not end within {_DEADLINE_S:g} s of SIGKILL; end them by hand"
            )
    # In this order: what was seen while it started is among the children once nothing starts any more. Whoever reaped a
    # child that another one waits for would make its exit status a lie.
    if not is_starting():
        _reap_adopted(seen, children())


def _freeze(mark: str, leader: int | None, seen: dict[int, int], deadline: float) -> dict[int, Found]:
    """Stop all of them, until a look finds no new one: what is stopped cannot fork, so then none is missed."""
    frozen: dict[int, Found] = {}
    while True:
        members = _members(mark, leader, seen)
        new = {pid: process for pid, process in members.items() if pid not in frozen}
        if not new or time.monotonic() > deadline:
            return members
        for pid, process in new.items():
            _send(process, signal.SIGSTOP)
            seen[pid] = process.started
        frozen |= new


def _members(mark: str, leader: int | None, seen: dict[int, int]) -> dict[int, Found]:
    """The living processes that carry the mark, share a session with one that does, or descend from one of those.

    *leader* counts while it is our child, and so does what was *seen* before, whatever their environments show now: a
    program that changes its user at its start hides it.
    """
    everything = [process for process in _scan(mark.encode()) if not process.zombie]
    own = os.getpid()
    own_session = os.getsid(0)
    members = {
        process.pid: process
        for process in everything
        if process.marked
        or seen.get(process.pid) == process.started
        or (process.pid == leader and process.parent == own and process.session == leader)
    }
    grown = True
    while grown:
        # Each command starts in a session of its own, which is entered by birth only: who is in it belongs to us.
        sessions = {process.session for process in members.values()} - {own_session, 0}
        more = {
            process.pid: process
            for process in everything
            if process.pid not in members and (process.session in sessions or process.parent in members)
        }
        members |= more
        grown = bool(more)
    members.pop(own, None)
    return members


def _scan(mark: bytes) -> Iterator[Found]:
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        status = _status(int(name))
        # Threads of the kernel have no environment ever.
        if status is not None and not status.kernel:
            marked = not status.zombie and mark in _marks(status)
            yield Found(status.pid, status.started, status.parent, status.session, status.zombie, marked)


class _Status(NamedTuple):
    """What is needed of proc_pid_stat(5)."""

    pid: int
    started: int
    parent: int
    session: int
    zombie: bool
    kernel: bool


def _status(pid: int) -> _Status | None:
    """How the process stands; None when it is gone."""
    text = _read(pid, "stat")
    if not text:
        return None
    # The program's name stands in parentheses and may itself hold spaces and parentheses.
    fields = text[text.rindex(b")") + 2 :].split()
    parent, session, flags, started = (int(fields[n]) for n in (1, 3, 6, 19))
    return _Status(pid, started, parent, session, fields[0] in b"ZX", bool(flags & _PF_KTHREAD))


def _marks(status: _Status) -> list[bytes]:
    environ = _read(status.pid, "environ")
    for _ in range(_EXEC_LOOKS):
        # In the middle of execve(2) a process shows neither environment nor arguments for a moment. Overlooking it then
        # would be overlooking it for good.
        if environ or _read(status.pid, "cmdline"):
            break
        again = _status(status.pid)
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


def _is_same(process: Found) -> bool:
    status = _status(process.pid)
    return status is not None and status.started == process.started


def _send(process: Found, number: signal.Signals) -> None:
    """Send a signal to exactly this process, never to another one that got its id meanwhile."""
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform != "linux":
            return
        try:
            handle = os.pidfd_open(process.pid)
        except OSError as exc:
            if exc.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            # A kernel before 5.3, or a filter that knows no pidfd: the id may be reused, but not within these lines.
            if _is_same(process):
                os.kill(process.pid, number)
            return
        try:
            if _is_same(process):
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def _reap_adopted(seen: dict[int, int], children: Collection[int]) -> None:
    """Reap those that became our own children when their parents died, as they do where we are process 1."""
    for pid, started in seen.items():
        status = _status(pid)
        if pid in children or status is None or status.parent != os.getpid() or status.started != started:
            continue
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
