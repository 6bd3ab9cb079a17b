"""What is a process of a box in memory? A task, with the streams, the ending and the signals of any other process."""

from __future__ import annotations

import asyncio
import signal as signals
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar, copy_context
from typing import Final

from boxflow.errors import SandboxError
from boxflow.ports import ProcessSpec, TerminalSize
from boxflow.testing.fake_sandbox.commands import FakeCommand

KILLED: Final = 128 + signals.SIGKILL

# What ends a process that does nothing about it (signal(7)), but for those that stop it or let it go on.
_HARMLESS: Final = frozenset(
    {signals.SIGCHLD, signals.SIGCONT, signals.SIGURG, signals.SIGWINCH, signals.SIGSTOP, signals.SIGTSTP}
)

Work = Callable[[FakeCommand], Awaitable[int]]

in_box: ContextVar[bool] = ContextVar("boxflow_in_box", default=False)
"""Set in what goes on in a box: it outlives the engine that has started it."""


class FakeProcess:
    """A `boxflow.ports.Process` that a coroutine carries out.

    :param work: what it does, until it returns the exit status
    """

    def __init__(self, command: FakeCommand, spec: ProcessSpec, work: Work) -> None:
        self.command = command
        self.exec_id = spec.exec_id
        #: How large its terminal is; None without one.
        self.size: TerminalSize | None = spec.tty
        self._chunks: deque[tuple[str, bytes]] = deque()
        self._news = asyncio.Event()
        self._takes_input = spec.stdin or spec.tty is not None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: What it raised instead of ending: a defect of the script.
        self.error: Exception | None = None
        command.output = self._write_out
        if not self._takes_input:
            command.end_input()
        context = copy_context()
        context.run(in_box.set, True)
        self._task = asyncio.get_running_loop().create_task(self._run(work), context=context)
        self._task.add_done_callback(self._gone, context=context)

    async def _run(self, work: Work) -> None:
        try:
            if self._takes_input:
                # Who started it gives it its input first: what answers at once would never see it.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            await self.command.box.goes_on()
            status = await work(self.command)
            await self.command.box.goes_on()
        except Exception as error:  # noqa: BLE001 - the script's own: who waits for the process gets it
            self.error = error
            status = 1
        self._end(status)

    def _gone(self, task: asyncio.Task[None]) -> None:
        # A task that was cancelled before its first turn never ran.
        self._end(KILLED)

    def _end(self, status: int) -> None:
        if not self.ended.done():
            self.command.exit_code = status
            self.command.end_input()
            self.ended.set_result(None)
            self._news.set()

    def _write_out(self, stream: str, data: bytes) -> None:
        if not self.ended.done():
            self._chunks.append(("stdout" if self.size is not None else stream, data))
            self._news.set()

    # --- boxflow.ports.Process ----------------------------------------------------------------------------------------

    async def write(self, data: bytes) -> None:
        """Send *data* to its standard input."""
        if self.ended.done() or not self._takes_input:
            raise SandboxError(f"process {self.command.command!r} has closed its input")
        if self.size is not None and b"\x03" in data:
            await self.signal(signals.SIGINT)
        elif self.size is not None and b"\x04" in data:
            self.command.end_input()
        else:
            self.command.give(data)

    async def close_stdin(self) -> None:
        """End its standard input."""
        self._takes_input = False
        self.command.end_input()

    async def read(self) -> AsyncIterator[tuple[str, bytes]]:
        """Chunks as they were written, until it has ended."""
        while True:
            while self._chunks:
                yield self._chunks.popleft()
            if self.ended.done():
                break
            self._news.clear()
            await self._news.wait()  # No deadline: it is the process's own.
        self.check()

    async def wait(self) -> int:
        """Its exit status once it has ended."""
        if not self.ended.done():
            await asyncio.wait({self.ended})
        self.check()
        assert self.command.exit_code is not None
        return self.command.exit_code

    def check(self) -> None:
        """:raises Exception: what the script raised instead of ending the process"""
        if self.error is not None:
            raise self.error

    async def signal(self, number: int) -> None:
        """Note a signal; one that ends a process that does nothing about it ends this one."""
        if self.ended.done():
            return
        self.command.signals.append(number)
        if number and number not in _HARMLESS:
            self.stop(128 + number)

    async def resize(self, size: TerminalSize) -> None:
        """Note the new size of its terminal."""
        if self.size is not None:
            self.size = size

    async def kill(self) -> None:
        """End it."""
        self.stop(KILLED)

    def stop(self, status: int) -> None:
        """End it with that status, if it runs."""
        self._end(status)
        self._task.cancel()
