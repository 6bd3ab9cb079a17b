"""How does this machine reach a server in a box whose network is its own?

A socket belongs for ever to the network namespace that it was made in, and a process that may not enter a namespace can
use a socket from there. So a helper, a program of ours that sees the network of the box and nothing else of it, makes
sockets on request and passes them to us (SCM_RIGHTS of unix(7)); we connect them, and join each with a connection
that came to a port of this machine.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from boxflow.errors import SandboxUnavailableError
from boxflow_backends.local_sandbox.entrance import Entrance

# As many requests at once as a server takes whom nobody tuned (SOMAXCONN before Linux 5.4 was 128).
_MOST_CONNECTIONS: Final = 256
_CHUNK_BYTES: Final = 64 * 1024
_HELPER_S: Final = 10.0

# It ends with us: then its input does.
_HELPER: Final = """
import socket
to_us = socket.socket(fileno=0)
while to_us.recv(1):
    with socket.socket() as made:
        socket.send_fds(to_us, [b"s"], [made.fileno()])
"""


class SocketMaker:
    """Makes sockets in a box's network. Blocking: called in threads, one call at a time."""

    def __init__(self, entrance: Entrance) -> None:
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(_HELPER_S)
        with theirs:
            try:
                self._helper = subprocess.Popen(  # noqa: S603  # our own program
                    (*entrance.network(), sys.executable, "-I", "-S", "-c", _HELPER),
                    cwd="/",
                    env=dict[str, str](),
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except BaseException:
                self._ours.close()
                raise
            try:
                # Before the entrance is closed it must have been gone through.
                self.make().close()
            except BaseException:
                self.close()
                raise

    def make(self) -> socket.socket:
        """A TCP socket of the box, not connected.

        :raises SandboxUnavailableError: the helper has ended
        """
        try:
            self._ours.send(b"s")
            _, fds, _, _ = socket.recv_fds(self._ours, 1, 1)
        except OSError as exc:
            raise SandboxUnavailableError(f"the helper in the box's network does not answer: {exc}") from exc
        if not fds:
            raise SandboxUnavailableError("the helper in the box's network has ended; was the box deleted?")
        return socket.socket(fileno=fds[0])

    def close(self) -> None:
        """End the helper."""
        self._ours.close()
        try:
            self._helper.wait(_HELPER_S)
        except subprocess.TimeoutExpired:
            self._helper.kill()
            self._helper.wait()


class Relay:
    """A port of this machine that leads to one in a box.

    :param make: gives a socket of the box's network
    """

    def __init__(self, port: int, make: Callable[[], Awaitable[socket.socket]]) -> None:
        self._port = port
        self._make = make
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    @property
    def url(self) -> str:
        """Where it listens."""
        if self._server is None:
            raise RuntimeError("the relay is not open")
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop listening, and end the connections."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= _MOST_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        try:
            # A box that is gone, a port where nobody listens, a connection that is cut: whoever called sees it closed.
            with suppress(OSError, SandboxUnavailableError):
                await self._join(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made = await self._make()
        try:
            made.setblocking(False)
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self._port))
            their_reader, their_writer = await asyncio.open_connection(sock=made)
        except BaseException:
            made.close()
            raise
        try:
            # No deadline: a server may be silent for as long as it likes. The end of the sandbox ends it.
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, their_writer))
                group.create_task(_pump(their_reader, writer))
        except* OSError:
            # One side has cut it; with that it is over.
            pass
        finally:
            their_writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK_BYTES):
        sink.write(data)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()
