"""How is one process of a local box watched: its streams, its end, and its killing?

The program is started in a thread and watched by the event loop, with no thread of its own: its end shows on a pidfd.
`asyncio.create_subprocess_exec` would do on newer Pythons, but takes a thread for each process on 3.11.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

import attrs

from boxflow.errors import SandboxError
from boxflow.ports import TerminalSize
from boxflow_backends.local_sandbox.terminal import end_of_input, set_size
from boxflow_backends.uninterrupted import uninterrupted

_READ_BYTES = 256 * 1024
_BUFFER_BYTES = 1024 * 1024

# What a pipe holds at most, unless root has widened it (pipe(7)): nothing that the process itself wrote is beyond.
_LAST_BYTES = 1024 * 1024

_REAP_S = 10.0

LINGER_S = 0.2
"""How long after its end a process's streams are read on, while something that it started holds them open.

What the process itself wrote is in the pipe by then; this leaves a moment to helpers such as `> >(tee log)`.
"""


@attrs.frozen(kw_only=True)
class Started:
    """A process that was started, and our ends of its streams.

    :param outputs: by the name under which they are read; one for a terminal
    :param stdin: what is written there it reads; the terminal, where it has one
    """

    popen: subprocess.Popen[bytes]
    outputs: dict[str, io.FileIO]
    stdin: io.FileIO | None
    is_terminal: bool

    def close(self) -> None:
        """Close the streams."""
        for stream in (*self.outputs.values(), self.stdin):
            if stream is not None:
                stream.close()


class LocalProcess:
    """A started process, on the event loop that is running.

    `read` ends when both streams have ended, or shortly after the process has, even if something in the background
    still holds them.

    :param end_tree: ends it and all that it started
    :param send_signal: sends a signal to the process itself
    """

    def __init__(
        self,
        started: Started,
        *,
        end_tree: Callable[[], Awaitable[None]],
        send_signal: Callable[[int], Awaitable[None]],
    ) -> None:
        self._popen = started.popen
        self._stdin = started.stdin
        self._is_terminal = started.is_terminal
        self._end_tree = end_tree
        self._send_signal = send_signal
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[tuple[str, bytes]] = deque()
        self._buffered = 0
        self._paused = False
        self._news = asyncio.Event()
        self._exited = asyncio.Event()
        self._writable = asyncio.Event()
        #: By which its end is seen.
        self._handle = -1
        #: What is still open, by its file descriptor.
        self._streams = {stream.fileno(): (name, stream) for name, stream in started.outputs.items()}
        for stream in (*started.outputs.values(), started.stdin):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
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
        stdin = self._stdin
        if stdin is None or stdin.closed:
            raise SandboxError(f"the standard input of process {self.pid} is closed")
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(stdin.fileno(), rest) :]
            except BlockingIOError:
                await self._room(stdin)
                if stdin.closed:
                    raise SandboxError(f"process {self.pid} ended before it had read its whole input") from None
            except OSError as exc:
                # A terminal that nobody has open any more says EIO.
                if exc.errno not in (errno.EPIPE, errno.EIO):
                    raise
                raise SandboxError(f"process {self.pid} has closed its standard input") from exc

    async def close_stdin(self) -> None:
        """End its standard input. A terminal stays open: there it is what Ctrl-D is at the keyboard."""
        if self._stdin is None or self._stdin.closed:
            return
        if self._is_terminal:
            await self.write(end_of_input(self._stdin.fileno()))
        else:
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

    async def signal(self, number: int) -> None:
        """Send a signal to the process itself; no error when it has ended."""
        if not self.ended:
            await self._send_signal(number)

    async def resize(self, size: TerminalSize) -> None:
        """Tell it that its terminal has a new size; nothing without a terminal."""
        if self._is_terminal:
            for _, stream in self._streams.values():
                set_size(stream.fileno(), size)

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

    def settle(self) -> None:
        """Close what is still open, if it has ended: the sandbox is being left, and nobody will come for it."""
        if self._popen.poll() is not None:
            self._see_end()
            self._stop_lingering()

    # --- its streams -------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        for fd in self._streams:
            self._loop.add_reader(fd, self._readable, fd)

    def _readable(self, fd: int) -> None:
        if self._take(fd) and self._buffered >= _BUFFER_BYTES:
            # The pipe fills up and the process waits: nobody's memory grows while nobody reads.
            self._paused = True
            for stream in self._streams:
                self._loop.remove_reader(stream)

    def _take(self, fd: int) -> int:
        """Read what is there, once; how many bytes. At its end the stream is closed."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return 0
        except OSError as exc:
            # The end of a terminal, when the last process that had it open has closed it.
            if exc.errno != errno.EIO:
                raise
            data = b""
        if not data:
            self._close_stream(fd)
            return 0
        self._chunks.append((self._streams[fd][0], data))
        self._buffered += len(data)
        self._news.set()
        return len(data)

    def _resume(self) -> None:
        self._paused = False
        self._listen()

    def _stop_lingering(self) -> None:
        """Take what is in the pipes and close them, though nobody may be reading: it is not more than they hold."""
        for fd in list(self._streams):
            left = _LAST_BYTES
            while left > 0 and (taken := self._take(fd)):
                left -= taken
        self._close_streams()

    def _close_streams(self) -> None:
        for fd in list(self._streams):
            self._close_stream(fd)

    def _close_stream(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        self._streams.pop(fd)[1].close()
        self._news.set()

    def _close_stdin(self) -> None:
        if self._stdin is None or self._stdin.closed:
            return
        self._loop.remove_writer(self._stdin.fileno())
        self._stdin.close()
        self._writable.set()

    async def _room(self, stdin: io.FileIO) -> None:
        """Wait until it takes more, or is closed."""
        self._writable.clear()
        self._loop.add_writer(stdin.fileno(), self._writable.set)
        try:
            # No deadline: a process may take its time to read. Its end ends the wait.
            await self._writable.wait()
        finally:
            # One that is closed was taken off by who closed it, and its number may be another's by now.
            if not stdin.closed:
                self._loop.remove_writer(stdin.fileno())

    # --- its end -----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if sys.platform == "linux":
            try:
                handle = os.pidfd_open(self.pid)
            except OSError:
                # A kernel before 5.3, or a filter that knows no pidfd.
                handle = -1
            if handle >= 0:
                self._handle = handle
                self._loop.add_reader(handle, self._see_end)
                return
        waiting = self._loop.run_in_executor(None, self._popen.wait)
        waiting.add_done_callback(lambda _: self._has_ended())

    def _see_end(self) -> None:
        if self._popen.poll() is None:
            return
        if self._handle >= 0:
            self._loop.remove_reader(self._handle)
            os.close(self._handle)
            self._handle = -1
        self._has_ended()

    def _has_ended(self) -> None:
        if self.ended:
            return
        self._exited.set()
        self._close_stdin()
        if self._streams:
            self._loop.call_later(LINGER_S, self._stop_lingering)
