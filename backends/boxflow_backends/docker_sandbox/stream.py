"""How do the bytes of a running exec reach us, and ours it?

An exec's connection starts as HTTP and then carries frames: eight bytes of head (stream, zeros, size) and the data. It
is read on the event loop: fifty execs that wait need no threads.
"""

from __future__ import annotations

import asyncio
import collections
import json
import socket
from typing import Final, cast

from boxflow_backends.docker_sandbox.client import Endpoint
from boxflow_backends.docker_sandbox.marks import Marks

# While so much waits to be read, the connection is not; the program then waits on its full pipe.
_BUFFER_BYTES: Final = 512 * 1024

# An answer's head is some hundred bytes, an error's text some thousand.
_HEAD_BYTES: Final = 64 * 1024

_STREAMS: Final = {1: "stdout", 2: "stderr"}


class ExecStream(asyncio.Protocol):
    """The connection of one exec: chunks that came, room for what goes, and what its marks said.

    :param nonce: of its marks
    """

    def __init__(self, *, nonce: str, tty: bool) -> None:
        self._tty = tty
        self._transport: asyncio.Transport | None = None
        self._head: bytearray | None = bytearray()
        self._frames = bytearray()
        self._left = 0
        self._kind = "stdout"
        # With a terminal there is one stream only.
        self._marks = {name: Marks(nonce) for name in (("stdout",) if tty else ("stdout", "stderr"))}
        self._chunks: collections.deque[tuple[str, bytes]] = collections.deque()
        self._buffered = 0
        self._paused = False
        self._dropping = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        #: Set as soon as nothing more comes.
        self.ended = asyncio.Event()
        #: Set as soon as it is known whether it was started: by a mark, an answer, or the end.
        self.started = asyncio.Event()
        #: The HTTP status; 0 until there is one.
        self.status = 0
        #: Of an answer that is no stream.
        self.words = ""

    # --- what the marks said -----------------------------------------------------------------------------------

    @property
    def announced(self) -> str | None:
        """What was announced at the start; None when nothing was.

        In whichever stream it comes first: one may be full of output already, and not be read on, before anything of
        the other has arrived.
        """
        return next((marks.start for marks in self._marks.values() if marks.start is not None), None)

    @property
    def exit_code(self) -> int | None:
        """The exit status, if it was announced in every stream."""
        said = [marks.end for marks in self._marks.values()]
        if any(end is None or not end.isdecimal() for end in said):
            return None
        return int(str(said[0]))

    # --- for whoever uses it -----------------------------------------------------------------------------------

    async def next_chunk(self) -> tuple[str, bytes] | None:
        """The next piece of output; None at the end."""
        while not self._chunks:
            if self.ended.is_set():
                return None
            self._news.clear()
            # No deadline: a program may be silent for as long as it likes. A connection that dies sets it.
            await self._news.wait()
        chunk = self._chunks.popleft()
        self._buffered -= len(chunk[1])
        if self._paused and self._buffered < _BUFFER_BYTES // 2 and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    def drop(self) -> None:
        """Hold nobody up although nobody reads: what comes from now on is kept while there is room, then dropped."""
        self._dropping = True
        if self._transport is not None and self._paused:
            self._paused = False
            self._transport.resume_reading()

    async def write(self, data: bytes) -> bool:
        """Send *data*, as fast as it is taken; whether there was somebody to take all of it."""
        view = memoryview(data)
        for at in range(0, len(view), 64 * 1024):
            # No deadline: a program may read as slowly as it likes. Its end sets it.
            await self._room.wait()
            if self.ended.is_set() or self._transport is None or self._transport.is_closing():
                return False
            self._transport.write(bytes(view[at : at + 64 * 1024]))
        await self._room.wait()
        return not self.ended.is_set()

    def close_input(self) -> None:
        """End the program's input."""
        if self._transport is not None and not self._transport.is_closing() and not self.ended.is_set():
            self._transport.write_eof()

    def close(self) -> None:
        """Give the connection up. The program is not told, and goes on."""
        if self._transport is not None:
            self._transport.abort()
        self._end()

    # --- for the event loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.ended.is_set():
            return
        if self._head is not None:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                if len(self._head) > _HEAD_BYTES:
                    self.close()
                return
            if self.status == 0:
                self.status = _status(bytes(self._head[:end]))
            if self.status not in (101, 200):
                if len(self._head) > _HEAD_BYTES or _whole(bytes(self._head[:end]), bytes(self._head[end + 4 :])):
                    self.words = _message(bytes(self._head[end + 4 :]))
                    self.close()
                return
            data = bytes(self._head[end + 4 :])
            self._head = None
        if self._tty:
            self._take("stdout", data)
        else:
            self._unframe(data)
        self._look()

    def _unframe(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if self._left:
                self._take(self._kind, bytes(view[: self._left]))
                taken = min(self._left, len(view))
                self._left -= taken
                view = view[taken:]
                continue
            missing = 8 - len(self._frames)
            self._frames += view[:missing]
            view = view[missing:]
            if len(self._frames) == 8:
                self._kind = _STREAMS.get(self._frames[0], "stderr")
                self._left = int.from_bytes(self._frames[4:8], "big")
                self._frames.clear()

    def _take(self, name: str, data: bytes) -> None:
        self._put(name, self._marks[name].feed(data))

    def _put(self, name: str, data: bytes) -> None:
        if not data:
            return
        if self._dropping and self._buffered > _BUFFER_BYTES:
            return
        self._chunks.append((name, data))
        self._buffered += len(data)
        self._news.set()
        if self._buffered > _BUFFER_BYTES and not self._dropping and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _look(self) -> None:
        if self.announced is not None:
            self.started.set()
        if all(marks.end is not None for marks in self._marks.values()):
            self.close()

    def eof_received(self) -> bool:
        # Nothing more comes, and nobody is there to take what is still to go: waiting for that would be for ever.
        if self._transport is not None:
            self._transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        # It is of no use any more: most of its methods fail from here on.
        self._transport = None
        for name, marks in self._marks.items():
            self._put(name, marks.rest())
        self._end()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def _end(self) -> None:
        self.ended.set()
        self.started.set()
        self._news.set()
        self._room.set()


async def open_stream(
    endpoint: Endpoint, api: str, exec_id: str, *, nonce: str, tty: bool, timeout_s: float
) -> ExecStream:
    """Start the exec *exec_id* and be connected to it. Whether it started shows in the stream.

    :raises OSError: the engine cannot be reached
    :raises TimeoutError: it cannot be reached in time
    """
    loop = asyncio.get_running_loop()

    def make() -> ExecStream:
        return ExecStream(nonce=nonce, tty=tty)

    async with asyncio.timeout(timeout_s):
        if endpoint.path is not None:
            transport, stream = await loop.create_unix_connection(make, endpoint.path)
        else:
            transport, stream = await loop.create_connection(make, endpoint.host, endpoint.port)
            # A machine that vanished says nothing: without this its connections would look alive for ever.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    body = json.dumps({"Detach": False, "Tty": tty}).encode()
    head = (
        f"POST /v{api}/exec/{exec_id}/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    transport.write(head.encode() + body)
    return stream


def _status(head: bytes) -> int:
    words = head.split(b"\r\n", 1)[0].split(b" ")
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 500


def _whole(head: bytes, body: bytes) -> bool:
    """Whether an error has arrived whole. It comes with its length, or in chunks of which the last is empty."""
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length" and value.strip().isdigit():
            return len(body) >= int(value)
    return body.endswith(b"0\r\n\r\n")


def _message(body: bytes) -> str:
    """The text of an error: `{"message": "..."}`, perhaps with the sizes of chunks around it."""
    start, end = body.find(b"{"), body.rfind(b"}")
    try:
        return str(json.loads(body[start : end + 1])["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()
