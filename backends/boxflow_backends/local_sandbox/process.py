"""How is one process of a local box watched: its streams, its end, and its killing?

The program is started in a thread and watched by the event loop, with no thread of its own: its end shows on a pidfd.
`asyncio.create_subprocess_exec` would do on newer Pythons, but takes a thread for each process on 3.11.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from boxflow.errors import SandboxError
from boxflow_backends.local_sandbox.uninterrupted import uninterrupted

_READ_BYTES = 256 * 1024
_BUFFER_BYTES = 1024 * 1024

_REAP_S = 10.0

LINGER_S = 0.2
"""How long after its end a process's streams are read on, while something that it started holds them open.

What the process itself wrote is in the pipe by then; this leaves a moment to helpers such as `> >(tee log)`.
"""


class LocalProcess:
    """A started process, on the event loop that is running.

    `read` ends when both streams have ended, or shortly after the process has, even if something in the background
    still holds them.
    """

    def __init__(self, popen: subprocess.Popen[bytes], end_tree: Callable[[], Awaitable[None]]) -> None:
        self._popen = popen
        self._end_tree = end_tree
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[tuple[str, bytes]] = deque()
        self._buffered = 0
        self._paused = False
        self._news = asyncio.Event()
        self._exited = asyncio.Event()
        self._writable = asyncio.Event()
        #: What is still open, by its file descriptor.
        self._streams: dict[int, str] = {}
        for name, pipe in (("stdout", popen.stdout), ("stderr", popen.stderr)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._streams[pipe.fileno()] = name
        if popen.stdin is not None:
            os.set_blocking(popen.stdin.fileno(), False)
        self._listen()
        self._watch()

    @property
    def pid(self) -> int:
        """Its process id, which is that of its session and group too."""
        return self._popen.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended and was reaped."""
        return self._exited.is_set()

    async def write(self, data: bytes) -> None:
        """Send *data* to its standard input. :raises SandboxError: it has closed it"""
        pipe = self._popen.stdin
        if pipe is None or pipe.closed:
            raise SandboxError(f"the standard input of process {self.pid} is closed")
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(pipe.fileno(), rest) :]
            except BlockingIOError:
                await self._room(pipe.fileno())
                if pipe.closed:
                    raise SandboxError(f"process {self.pid} ended before it had read its whole input") from None
            except BrokenPipeError as exc:
                raise SandboxError(f"process {self.pid} has closed its standard input") from exc

    async def close_stdin(self) -> None:
        """End its standard input."""
        self._close_stdin()

    async def read(self) -> AsyncIterator[tuple[str, bytes]]:
        """Chunks as `("stdout" | "stderr", bytes)`, until both streams have ended."""
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._buffered -= len(chunk[1])
                if self._paused and self._buffered < _BUFFER_BYTES // 2:
                    self._resume()
                yield chunk
            if not self._streams:
                return
            self._news.clear()
            await self._news.wait()

    async def wait(self) -> int:
        """Its exit status once it ended; `128 + n` when signal *n* killed it."""
        await self._exited.wait()
        code = self._popen.returncode
        return 128 - code if code < 0 else code

    async def kill(self) -> None:
        """End it and everything it started. Cancelling does not stop the killing."""
        await uninterrupted(self._kill())

    async def _kill(self) -> None:
        await self._end_tree()
        try:
            async with asyncio.timeout(_REAP_S):
                await self._exited.wait()
        except TimeoutError:
            raise SandboxError(f"process {self.pid} was killed {_REAP_S:g} s ago and still does not end") from None
        finally:
            self._close_streams()

    # --- its streams -------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        for fd in self._streams:
            self._loop.add_reader(fd, self._readable, fd)

    def _readable(self, fd: int) -> None:
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._close_stream(fd)
            return
        self._chunks.append((self._streams[fd], data))
        self._buffered += len(data)
        self._news.set()
        if self._buffered >= _BUFFER_BYTES:
            # The pipe fills up and the process waits: nobody's memory grows while nobody reads.
            self._paused = True
            for stream in self._streams:
                self._loop.remove_reader(stream)

    def _resume(self) -> None:
        self._paused = False
        self._listen()
        if self.ended:
            self._loop.call_later(LINGER_S, self._stop_lingering)

    def _stop_lingering(self) -> None:
        if self._paused:
            # Somebody reads slowly, and there may be more in the pipe; `_resume` comes back here.
            return
        for fd in list(self._streams):
            self._readable(fd)
        if not self._paused:
            self._close_streams()

    def _close_streams(self) -> None:
        for fd in list(self._streams):
            self._close_stream(fd)

    def _close_stream(self, fd: int) -> None:
        if fd not in self._streams:
            return
        self._loop.remove_reader(fd)
        pipe = self._popen.stdout if self._streams.pop(fd) == "stdout" else self._popen.stderr
        if pipe is not None:
            pipe.close()
        self._news.set()

    def _close_stdin(self) -> None:
        pipe = self._popen.stdin
        if pipe is None or pipe.closed:
            return
        self._loop.remove_writer(pipe.fileno())
        pipe.close()
        self._writable.set()

    async def _room(self, fd: int) -> None:
        """Wait until the pipe takes more, or is closed."""
        self._writable.clear()
        self._loop.add_writer(fd, self._writable.set)
        try:
            await self._writable.wait()
        finally:
            # A closed pipe was taken off by who closed it, and its number may be another's by now.
            if self._popen.stdin is not None and not self._popen.stdin.closed:
                self._loop.remove_writer(fd)

    # --- its end -----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if sys.platform == "linux":
            try:
                handle = os.pidfd_open(self.pid)
            except OSError:
                # A kernel before 5.3, or a filter that knows no pidfd.
                handle = -1
            if handle >= 0:
                self._loop.add_reader(handle, self._see_end, handle)
                return
        waiting = self._loop.run_in_executor(None, self._popen.wait)
        waiting.add_done_callback(lambda _: self._has_ended())

    def _see_end(self, handle: int) -> None:
        if self._popen.poll() is None:
            return
        self._loop.remove_reader(handle)
        os.close(handle)
        self._has_ended()

    def _has_ended(self) -> None:
        self._exited.set()
        self._close_stdin()
        if self._streams:
            self._loop.call_later(LINGER_S, self._stop_lingering)
