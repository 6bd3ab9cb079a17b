"""How are processes of local boxes started, signalled and ended, by their engine or by a later one?"""

from __future__ import annotations

import asyncio
import secrets
import sys
import threading
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakSet

import anyio
import anyio.to_thread

from boxflow.errors import SandboxError
from boxflow.ports import ProcessSpec
from boxflow_backends.local_sandbox.enclosures import Enclosures
from boxflow_backends.local_sandbox.layout import Layout
from boxflow_backends.local_sandbox.limits import ProcessLimits
from boxflow_backends.local_sandbox.proc import children_of, is_alive, send
from boxflow_backends.local_sandbox.process import LocalProcess, Started
from boxflow_backends.local_sandbox.records import Isolation, Record, Records
from boxflow_backends.local_sandbox.starting import Starter
from boxflow_backends.local_sandbox.trees import end_marked
from boxflow_backends.uninterrupted import uninterrupted

T = TypeVar("T")

_everywhere: WeakSet[Execs] = WeakSet()
_everywhere_lock = threading.Lock()


def _all() -> list[Execs]:
    """Those of every sandbox in this process: whoever reaped another one's child would make its exit status a lie."""
    with _everywhere_lock:
        return list(_everywhere)


class Execs:
    """The processes of the boxes below one root.

    :param isolation: how every box has to be isolated for a process to be started in it
    :param threads: where what blocks is done
    """

    def __init__(
        self,
        layout: Layout,
        records: Records,
        *,
        isolation: Isolation,
        limits: ProcessLimits | None,
        threads: anyio.CapacityLimiter,
    ) -> None:
        self._layout = layout
        self._records = records
        self._isolation = isolation
        self._starter = Starter(layout, records, limits)
        self._threads = threads
        #: With their marks.
        self._running: dict[LocalProcess, str] = {}
        #: How many processes are being started, and are not among those that run yet.
        self._starting = 0
        self.enclosures = Enclosures(layout, records, self.end_marked)
        with _everywhere_lock:
            _everywhere.add(self)

    async def spawn(self, box_id: str, spec: ProcessSpec) -> LocalProcess:
        """Start a process in the box. Cancelling leaves none behind."""
        mark = self._layout.exec_mark(box_id, secrets.token_hex(16) if spec.exec_id is None else spec.exec_id)
        got: list[LocalProcess] = []

        async def start() -> LocalProcess:
            with self.starting():
                started, is_isolated = await self._in_thread(lambda: self._start(box_id, spec, mark))
                process = self._watched(started, mark, is_isolated=is_isolated)
            got.append(process)
            return process

        try:
            return await uninterrupted(start())
        except asyncio.CancelledError:
            for process in got:
                await process.kill()
            raise

    async def signal(self, box_id: str, exec_id: str, number: int) -> None:
        """Send a signal to the process that was started as *exec_id*; no error when it has ended."""
        mark = self._layout.exec_mark(box_id, exec_id)
        record = await self._in_thread(lambda: self._records.read(box_id))
        own = [process for process, its_mark in self._running.items() if its_mark == mark and not process.ended]
        for process in own:
            await process.signal(number)
        if not own:
            await self._in_thread(lambda: self._signal_noted(record, mark, number))

    async def end(self, box_id: str, exec_id: str) -> None:
        """End the process that was started as *exec_id* with everything it started. Cancelling does not stop it."""
        mark = self._layout.exec_mark(box_id, exec_id)

        def end() -> None:
            self._records.read(box_id)
            own = [process.pid for process, its_mark in self._running.items() if its_mark == mark and not process.ended]
            for pid in own or (None,):
                self.end_marked(mark, pid)

        await uninterrupted(self._in_thread(end))

    def settle(self) -> None:
        """Close what processes that have ended have left open. On the event loop."""
        for process in tuple(self._running):
            process.settle()

    @contextmanager
    def starting(self) -> Generator[None, None, None]:
        """Within the block a process is being started that is not known yet. On the event loop."""
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    def end_marked(self, mark: str, leader: int | None = None) -> None:
        """End all processes that carry the mark, with what belongs to them. Blocking."""
        end_marked(mark, children=_children, is_starting=_is_starting, leader=leader)

    # --- in threads --------------------------------------------------------------------------------------------

    async def _in_thread(self, fn: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(fn, limiter=self._threads)

    def _start(self, box_id: str, spec: ProcessSpec, mark: str) -> tuple[Started, bool]:
        record = self._records.read(box_id)
        if record.isolation == "bubblewrap":
            self._starter.check_state(box_id)
            with self.enclosures.entrance(box_id) as entrance:
                started = self._starter.start(record, spec, mark, entrance)
        elif self._isolation == "bubblewrap":
            raise SandboxError(
                f"box {box_id!r} was made without isolation, and isolation='bubblewrap' is asked for; "
                "delete it, or use it with a sandbox that asks for none"
            )
        else:
            started = self._starter.start(record, spec, mark, None)
        try:
            # The box may have been paused or deleted while we started. Either whoever did it saw the process, or had
            # noted before what it was about to do, and we see that here.
            self._starter.check_state(box_id)
        except SandboxError:
            popen = started.popen
            end_marked(mark, children=lambda: [popen.pid], is_starting=lambda: True, leader=popen.pid)
            popen.wait()
            started.close()
            raise
        return started, record.isolation == "bubblewrap"

    def _signal_noted(self, record: Record, mark: str, number: int) -> None:
        """To a process that another engine has started."""
        leader = self._starter.leader(record.box_id, mark)
        if leader is None or sys.platform != "linux" or not is_alive(*leader):
            return
        if record.isolation == "bubblewrap":
            _signal_entered(leader[0], number)
        else:
            send(*leader, number)

    # --- those of this engine ----------------------------------------------------------------------------------

    def _watched(self, started: Started, mark: str, *, is_isolated: bool) -> LocalProcess:
        popen = started.popen

        async def end_tree() -> None:
            await self._in_thread(lambda: self.end_marked(mark, popen.pid))

        async def send_signal(number: int) -> None:
            if is_isolated:
                await self._in_thread(lambda: _signal_entered(popen.pid, number))
                return
            try:
                popen.send_signal(number)
            except PermissionError as exc:
                raise SandboxError(f"process {popen.pid} runs as somebody else by now; it cannot be signalled") from exc

        process = LocalProcess(started, end_tree=end_tree, send_signal=send_signal)
        self._running = {known: its_mark for known, its_mark in self._running.items() if not known.ended}
        self._running[process] = mark
        return process

    @property
    def running(self) -> tuple[LocalProcess, ...]:
        """The processes that have not ended, as far as is known."""
        return tuple(process for process in tuple(self._running) if not process.ended)

    @property
    def is_starting(self) -> bool:
        """Whether a process is being started that is not among them yet."""
        return self._starting > 0


def _children() -> Collection[int]:
    return [process.pid for execs in _all() for process in execs.running]


def _is_starting() -> bool:
    return any(execs.is_starting for execs in _all())


def _signal_entered(outside: int, number: int) -> None:
    """To the process in a box whose parent outside this is: it stands for it, but takes no signals for it."""
    for child in children_of(outside):
        send(child.pid, child.started, number)
