"""What is a running exec to those who use it?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import attrs

from boxflow.errors import SandboxError
from boxflow.ports import TerminalSize
from boxflow_backends.docker_sandbox.stream import ExecStream
from boxflow_backends.uninterrupted import uninterrupted

# From the death of a process to the end of its streams: the engine waits up to two seconds for others that hold them.
_GOING_S = 10.0


@attrs.frozen(kw_only=True)
class Controls:
    """What can be done to an exec through the engine."""

    exit_code: Callable[[], Awaitable[int]]
    resize: Callable[[TerminalSize], Awaitable[None]]
    signal: Callable[[int], Awaitable[None]]
    end: Callable[[], Awaitable[None]]


class DockerProcess:
    """A process in a container. Losing this object does not end it."""

    def __init__(self, stream: ExecStream, controls: Controls, *, described: str, stdin: bool, tty: bool) -> None:
        self._stream = stream
        self._controls = controls
        self._described = described
        self._input = stdin or tty
        self._tty = tty
        self._asking = asyncio.Lock()
        self._exit_code: int | None = None

    def __repr__(self) -> str:
        return f"<DockerProcess {self._described}>"

    async def write(self, data: bytes) -> None:
        """Send *data* to its standard input. :raises SandboxError: it has closed it, or ended"""
        if not self._input:
            raise SandboxError(f"the standard input of {self._described} is closed; it was started without `stdin`")
        if not await self._stream.write(data):
            raise SandboxError(f"{self._described} ended before it had read its whole input")

    async def close_stdin(self) -> None:
        """End its standard input."""
        if self._input:
            self._input = False
            self._stream.close_input()

    async def read(self) -> AsyncIterator[tuple[str, bytes]]:
        """Chunks as `("stdout" | "stderr", bytes)`, until the process has ended."""
        while (chunk := await self._stream.next_chunk()) is not None:
            yield chunk

    async def wait(self) -> int:
        """Its exit status once it ended; `128 + n` when signal *n* killed it.

        :raises SandboxUnavailableError: the engine went away, and how the process ended is not known
        """
        # No deadline: how long it may run is the caller's to say. A connection that is lost ends this too.
        await self._stream.ended.wait()
        async with self._asking:
            if self._exit_code is None:
                announced = self._stream.exit_code
                self._exit_code = await self._controls.exit_code() if announced is None else announced
        return self._exit_code

    async def signal(self, number: int) -> None:
        """Send a signal to the process itself; no error when it has ended."""
        if self._stream.exit_code is None:
            await self._controls.signal(number)

    async def resize(self, size: TerminalSize) -> None:
        """Tell it that its terminal has a new size; nothing without a terminal."""
        if self._tty and not self._stream.ended.is_set():
            await self._controls.resize(size)

    def detach(self) -> None:
        """Let it go on without us; what it writes from now on is lost."""
        self._stream.close()

    async def kill(self) -> None:
        """End it and everything it started. Cancelling does not stop the killing.

        :raises SandboxError: something of it cannot be ended
        """
        await uninterrupted(self._kill())

    async def _kill(self) -> None:
        # While its output is not taken, the engine does not notice its end.
        self._stream.drop()
        try:
            await self._controls.end()
            try:
                async with asyncio.timeout(_GOING_S):
                    await self._stream.ended.wait()
            except TimeoutError:
                raise SandboxError(f"{self._described} was killed, and its streams still do not end") from None
        finally:
            self._stream.close()
