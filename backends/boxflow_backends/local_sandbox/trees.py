"""How is a whole process tree ended or frozen, with what has left its group, its session and its parent?

Every process of a box carries a mark in its environment, which its children inherit. On Linux `/proc` shows it, and
so finds daemons that no process group and no parent leads to, also those that a killed engine left behind.

A process that wiped its environment is still found while it shares a session with a marked one or descends from one.
One that did all of it (new session, parents gone, environment wiped) is not, unless its box has a process namespace.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from boxflow.errors import SandboxError
from boxflow_backends.local_sandbox.proc import Found, namespace_of, scan, send, status_of

_DEADLINE_S = 10.0
_PAUSE_S = 0.002

# How often in a row nothing may stand still before all go on.
_CALM_LOOKS = 3


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
    tree = _Tree(mark, leader=leader)
    deadline = time.monotonic() + _DEADLINE_S
    while alive := tree.freeze(deadline):
        for process in alive.values():
            send(process.pid, process.started, signal.SIGKILL)
        time.sleep(_PAUSE_S)
        if time.monotonic() > deadline:
            raise SandboxError(
                f"processes {sorted(alive)} did not end within {_DEADLINE_S:g} s of SIGKILL; end them by hand"
            )
    # In this order: what was seen while it started is among the children once nothing starts any more. Whoever reaped a
    # child that another one waits for would make its exit status a lie.
    if not is_starting():
        _reap_adopted(tree.seen, children())


def freeze_marked(mark: str, *, namespace: int | None) -> None:
    """Stop every process that carries *mark*, with all that belong to it, until `thaw_marked`. Blocking; Linux only.

    :param namespace: a process namespace, all of whose processes belong to it
    :raises SandboxError: new ones kept coming for ten seconds
    """
    deadline = time.monotonic() + _DEADLINE_S
    _Tree(mark, namespace=namespace).freeze(deadline)
    if time.monotonic() > deadline:
        raise SandboxError(f"processes could not be stopped faster than they started others for {_DEADLINE_S:g} s")


def thaw_marked(mark: str, *, namespace: int | None) -> None:
    """Let them go on. Blocking; Linux only.

    :raises SandboxError: some stand still again and again for ten seconds
    """
    deadline = time.monotonic() + _DEADLINE_S
    calm = 0
    while calm < _CALM_LOOKS:
        members = _Tree(mark, namespace=namespace).members().values()
        still = [process for process in members if (now := status_of(process.pid)) is not None and now.stopped]
        if still and time.monotonic() > deadline:
            raise SandboxError(f"processes {[process.pid for process in still]} stand still whatever is sent to them")
        # Whoever waits for a child may stop itself when it hears that the child was stopped, as nsenter(1) does; and it
        # may hear of that only now, after it was told to go on.
        calm = 0 if still else calm + 1
        for process in still:
            send(process.pid, process.started, signal.SIGCONT)
        time.sleep(_PAUSE_S if still else 5 * _PAUSE_S)


class _Tree:
    """The living processes that carry a mark, share a session with one that does, or descend from one of those.

    *leader* counts while it is our child, and so does what was *seen* before, whatever their environments show now: a
    program that changes its user at its start hides it.
    """

    def __init__(self, mark: str, *, leader: int | None = None, namespace: int | None = None) -> None:
        self._mark = mark
        self._leader = leader
        self._namespace = namespace
        #: Process ids with start times.
        self.seen: dict[int, int] = {}

    def freeze(self, deadline: float) -> dict[int, Found]:
        """Stop all of them, until a look finds no new one: what is stopped cannot fork, so then none is missed."""
        frozen: dict[int, Found] = {}
        while True:
            members = self.members()
            new = {pid: process for pid, process in members.items() if pid not in frozen}
            if not new or time.monotonic() > deadline:
                return members
            for pid, process in new.items():
                send(pid, process.started, signal.SIGSTOP)
                self.seen[pid] = process.started
            frozen |= new

    def members(self) -> dict[int, Found]:
        """Those that there are now."""
        everything = [process for process in scan(self._mark) if not process.zombie]
        own_session = os.getsid(0)
        members = {process.pid: process for process in everything if self._belongs(process)}
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
        members.pop(os.getpid(), None)
        return members

    def _belongs(self, process: Found) -> bool:
        return (
            process.marked
            or self.seen.get(process.pid) == process.started
            or (process.pid == self._leader == process.session and process.parent == os.getpid())
            or (self._namespace is not None and namespace_of(process.pid) == self._namespace)
        )


def _reap_adopted(seen: dict[int, int], children: Collection[int]) -> None:
    """Reap those that became our own children when their parents died, as they do where we are process 1."""
    for pid, started in seen.items():
        status = status_of(pid)
        if pid in children or status is None or status.parent != os.getpid() or status.started != started:
            continue
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
