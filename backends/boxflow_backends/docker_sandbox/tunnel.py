"""How does this machine reach what listens on a port of a box that has no network?

Each connection to a listener of ours becomes a program in the box, which connects its input and output to that port.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from boxflow.errors import SandboxError
from boxflow.ports import Process, ProcessSpec

Spawn = Callable[[str, ProcessSpec], Awaitable[Process]]

_LOG: Final = logging.getLogger("boxflow.docker")

# Each is a process in the box, which has some hundred at most.
_CONNECTIONS: Final = 32

_READ_BYTES: Final = 64 * 1024

# The last of what was sent is on its way; then the connection is closed, whoever still holds it.
_CLOSING_S: Final = 5.0

_NO_PROGRAM: Final = 97
_NO_ANSWER: Final = 98

# Both directions, each closed when its source is.
_PYTHON: Final = f"""
import os, socket, sys, threading
try:
    peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10)
except OSError as error:
    print(error, file=sys.stderr)
    os._exit({_NO_ANSWER})
peer.settimeout(None)
def send():
    try:
        while data := os.read(0, 65536):
            peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
    except OSError:
        pass
threading.Thread(target=send, daemon=True).start()
try:
    while data := peer.recv(65536):
        while data:
            data = data[os.write(1, data):]
except OSError:
    pass
os._exit(0)
"""

_PERL: Final = f"""
use Socket;
socket(my $peer, PF_INET, SOCK_STREAM, 0) && connect($peer, sockaddr_in($ARGV[0], INADDR_LOOPBACK))
    or do {{ print STDERR "$!\\n"; exit {_NO_ANSWER} }};
my $pid = fork();
my ($from, $to) = $pid ? ($peer, \\*STDOUT) : (\\*STDIN, $peer);
while (sysread($from, my $data, 65536)) {{
    while (length $data) {{ substr($data, 0, syswrite($to, $data) || last) = ""; }}
}}
if (!$pid) {{ shutdown($peer, 1); exit 0 }}
kill "KILL", $pid; exit 0
"""

_BASH: Final = f"""
exec 3<>"/dev/tcp/127.0.0.1/$0" || exit {_NO_ANSWER}
cat <&0 >&3 & cat <&3; kill $! 2>/dev/null; exit 0
"""

_SCRIPT: Final = rf"""
if command -v python3 >/dev/null 2>&1; then exec python3 -I -S -c "$2" "$1"; fi
if command -v perl >/dev/null 2>&1; then exec perl -e "$3" "$1"; fi
if command -v bash >/dev/null 2>&1 && command -v cat >/dev/null 2>&1; then exec bash -c "$4" "$1"; fi
if command -v nc >/dev/null 2>&1; then nc 127.0.0.1 "$1" || exit {_NO_ANSWER}; exit 0; fi
exit {_NO_PROGRAM}
"""


class Tunnels:
    """The listeners of the boxes of one sandbox.

    :param spawn: how a program is started in a box
    """

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._listeners: dict[tuple[str, int], _Listener] = {}
        self._opening = asyncio.Lock()

    async def url(self, box_id: str, port: int) -> str:
        """Where *port* of the box can be reached; the same for as long as the box and the sandbox are there."""
        if not 0 < port < 65536:
            raise ValueError(f"port={port} is none: give 1 to 65535")
        async with self._opening:
            listener = self._listeners.get((box_id, port))
            if listener is None:
                listener = _Listener(self._spawn, box_id, port)
                await listener.open()
                self._listeners[box_id, port] = listener
        return f"http://127.0.0.1:{listener.port}"

    async def close(self, box_id: str) -> None:
        """Close what leads to one box."""
        for key in [key for key in self._listeners if key[0] == box_id]:
            await self._listeners.pop(key).close()

    async def close_all(self) -> None:
        """Close everything."""
        while self._listeners:
            _, listener = self._listeners.popitem()
            await listener.close()


class _Listener:
    def __init__(self, spawn: Spawn, box_id: str, port: int) -> None:
        self._spawn = spawn
        self._box_id = box_id
        self._port = port
        self._room = asyncio.Semaphore(_CONNECTIONS)
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        serving = set(self._serving)
        for task in serving:
            task.cancel()
        if serving:
            # Each ends its program in the box, which has a deadline of its own.
            await asyncio.wait(serving)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._room:
                await self._bridge(reader, writer)
        except (OSError, SandboxError) as exc:
            _LOG.warning("port %d of box %r cannot be reached: %s", self._port, self._box_id, exc)
            _refuse(writer, str(exc))
        finally:
            await _close(writer)

    async def _bridge(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        argv = ("/bin/sh", "-c", _SCRIPT, "boxflow-port", str(self._port), _PYTHON, _PERL, _BASH)
        process = await self._spawn(self._box_id, ProcessSpec(argv=argv, cwd="/", stdin=True))
        complaint = b""
        answered = False
        sending = asyncio.create_task(_send(reader, process))
        try:
            async for stream, data in process.read():
                if stream == "stderr":
                    complaint = (complaint + data)[-2000:]
                    continue
                answered = True
                writer.write(data)
                await writer.drain()
            code = await process.wait()
        finally:
            sending.cancel()
            await asyncio.wait((sending,))
            await process.kill()
        if not answered and code != 0:
            raise SandboxError(_why_not(code, self._port, complaint.decode(errors="replace").strip()))


async def _send(reader: asyncio.StreamReader, process: Process) -> None:
    try:
        while data := await reader.read(_READ_BYTES):
            await process.write(data)
    except (OSError, SandboxError):
        # One of both sides has closed: what comes back from the other decides the end.
        return
    await process.close_stdin()


def _why_not(code: int, port: int, complaint: str) -> str:
    if code == _NO_PROGRAM:
        return "its image has none of python3, perl, bash and nc, of which one is needed to connect to a port"
    if code == _NO_ANSWER:
        return f"nothing answers on 127.0.0.1:{port} in the box: {complaint or 'connection refused'}"
    return f"connecting failed with status {code}: {complaint}"


def _refuse(writer: asyncio.StreamWriter, why: str) -> None:
    """Tell a client that most likely speaks HTTP. Nothing has been written to it before."""
    if writer.is_closing():
        return
    body = f"boxflow: {why}\n".encode()
    head = f"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        async with asyncio.timeout(_CLOSING_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()
