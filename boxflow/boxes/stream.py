"""How is a command's output read while it runs?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Self

import attrs

from boxflow.boxes.command import Command, feed, process_spec
from boxflow.errors import CommandFailedError, CommandTimeoutError
from boxflow.ports import Process, Sandbox


@attrs.frozen
class OutputChunk:
    """A piece of output.

    :param stream: `"stdout"` or `"stderr"`
    """

    stream: str
    data: bytes

    @property
    def text(self) -> str:
        """Decoded as UTF-8; bytes that are none, as where a piece ends within a character, become U+FFFD."""
        return self.data.decode(errors="replace")


class ExecStream:
    """The output of one command, as it comes: `async for chunk in stream:`.

    :ivar exit_code: after the loop, the command's exit status; None before
    """

    def __init__(self, sandbox: Sandbox, box_id: str, command: Command, what: str, *, check: bool) -> None:
        self.exit_code: int | None = None
        self._sandbox = sandbox
        self._box_id = box_id
        self._command = command
        self._what = what
        self._check = check
        self._chunks = self._run()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill the command, if it still runs."""
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> OutputChunk:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Kill the command, if it still runs, with everything it started."""
        await self._chunks.aclose()

    async def _run(self) -> AsyncGenerator[OutputChunk, None]:
        command = self._command
        until = asyncio.get_running_loop().time() + command.timeout_s
        process: Process | None = None
        feeding: asyncio.Task[None] | None = None
        tail = bytearray()
        ended = False
        try:
            async with asyncio.timeout_at(until):
                process = await self._sandbox.spawn(
                    self._box_id, process_spec(command, stdin=command.stdin is not None)
                )
            if command.stdin is not None:
                feeding = asyncio.create_task(feed(process, command.stdin))
            async with aclosing(_chunks(process, until)) as chunks:
                async for chunk in chunks:
                    if chunk.stream == "stderr":
                        tail = (tail + chunk.data)[-2000:]
                    yield chunk
            async with asyncio.timeout_at(until):
                self.exit_code = await process.wait()
            ended = True
        except TimeoutError:
            raise CommandTimeoutError(self._what, command.timeout_s, stderr=tail.decode(errors="replace")) from None
        finally:
            if feeding is not None:
                feeding.cancel()
                await asyncio.wait({feeding})
            if process is not None and not ended:
                await process.kill()
        if self._check and self.exit_code != 0:
            raise CommandFailedError(
                self._what, result=None, exit_code=self.exit_code, stderr=tail.decode(errors="replace")
            )


async def _chunks(process: Process, until: float) -> AsyncGenerator[OutputChunk, None]:
    """The output, each piece awaited until the deadline: what its reader does in between is not the command's time."""
    read = aiter(process.read())
    while True:
        async with asyncio.timeout_at(until):
            try:
                stream, data = await anext(read)
            except StopAsyncIteration:
                return
        yield OutputChunk(stream, data)
