"""How is a running process talked to: its input, its output, its terminal, its signals, its end?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from types import TracebackType
from typing import Any, Self

from boxflow.boxes.command import Command, process_spec
from boxflow.boxes.jobs import signal_number
from boxflow.boxes.stream import OutputChunk
from boxflow.ports import Process, Sandbox, TerminalSize


class SessionInput:
    """The standard input of a session."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def write(self, data: str | bytes) -> None:
        """Send *data*; returns when it is handed over. :raises SandboxError: the process has closed its input"""
        await self._process.write(data.encode() if isinstance(data, str) else data)

    async def close(self) -> None:
        """End the input. On a terminal, send Ctrl-D, the byte 4, instead."""
        await self._process.close_stdin()


class Session:
    """A process to talk to.

    Iterate over it for its output, as it comes, until it ends. On a terminal both streams arrive as `"stdout"`.

    :ivar stdin: its input
    """

    def __init__(self, process: Process) -> None:
        self.stdin = SessionInput(process)
        self._process = process
        self._output: AsyncIterator[tuple[str, bytes]] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it, with everything it started."""
        await self.kill()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> OutputChunk:
        if self._output is None:
            self._output = self._process.read()
        stream, data = await anext(self._output)
        return OutputChunk(stream, data)

    async def read(self) -> OutputChunk | None:
        """The next piece of output; None when there will be none any more."""
        return await anext(self, None)

    async def resize(self, columns: int, rows: int) -> None:
        """Give its terminal another size, in characters; nothing without a terminal."""
        await self._process.resize(TerminalSize(columns=columns, rows=rows))

    async def signal(self, number: int | str) -> None:
        """Send a signal to the process itself: `"INT"`, `"SIGTERM"` or a number. Nothing happens when it has ended."""
        await self._process.signal(signal_number(number))

    async def wait(self) -> int:
        """Its exit status once it has ended; `128 + n` when signal *n* ended it.

        Output that nobody has begun to read is dropped meanwhile, so that it cannot hold the process up. Who has begun
        to read it reads it to its end, beside this or before.
        """
        if self._output is None:
            async for _ in self:
                pass
        return await self._process.wait()

    async def kill(self) -> None:
        """End it and everything it started; no error when it has ended."""
        await self._process.kill()


class PendingSession:
    """A session that is about to begin: await it, or enter it."""

    def __init__(self, sandbox: Sandbox, box_id: str, command: Command, size: TerminalSize | None) -> None:
        self._sandbox = sandbox
        self._box_id = box_id
        self._command = command
        self._size = size
        self._session: Session | None = None

    def __await__(self) -> Generator[Any, None, Session]:
        return self._begin().__await__()

    async def __aenter__(self) -> Session:
        self._session = await self._begin()
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.kill()

    async def _begin(self) -> Session:
        spec = process_spec(self._command, stdin=True, tty=self._size)
        return Session(await self._sandbox.spawn(self._box_id, spec))
