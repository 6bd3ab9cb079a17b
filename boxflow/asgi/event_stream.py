"""How is an answer sent that takes long? Piece by piece at its reader's pace, within a bound of time, one of few.

Nothing is collected for a slow reader: the next piece is asked for when the last one has been taken. A reader that
takes nothing for `SEND_TIMEOUT_S`, or leaves, ends the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from boxflow.asgi.problems import RefusedError

T = TypeVar("T")

SEND_TIMEOUT_S = 60.0
"""How long one piece may take to be sent: as long as nginx waits for a client between two reads (`send_timeout`)."""

RETRY_AFTER_S = 5

EVENT_STREAM = "text/event-stream"

HEARTBEAT = b": still here\n\n"
"""A comment, which readers pass over."""

END_ID = "end"
"""The id of the last event of a stream: who comes back with it has seen the end, and is told not to come again."""


class Streams:
    """How many answers that take long there may be at once, and how long each goes on.

    :param limit: streams, and commands in boxes, together
    :param heartbeat_s: after so long without an event a comment is sent, so that no proxy takes the stream for dead
    :param lifetime_s: then a stream ends, and its reader asks again from where it was
    :param send_timeout_s: how long its reader may take for one piece
    """

    def __init__(
        self, *, limit: int, heartbeat_s: float, lifetime_s: float, send_timeout_s: float = SEND_TIMEOUT_S
    ) -> None:
        self._limit = limit
        self._taken = 0
        self.heartbeat_s = heartbeat_s
        self.lifetime_s = lifetime_s
        self.send_timeout_s = send_timeout_s

    @property
    def taken(self) -> int:
        """How many there are now."""
        return self._taken

    def take(self) -> None:
        """Take a place; whoever takes it gives it back. :raises RefusedError: all are taken"""
        if self._taken >= self._limit:
            raise RefusedError(
                503,
                "Too many streams",
                f"{self._limit} answers that take long are being sent, and no more are; try again",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        self._taken += 1

    def give_back(self) -> None:
        """Leave the place that was taken."""
        self._taken -= 1


def event(name: str, data: object, *, event_id: str | None = None) -> bytes:
    """One server-sent event; *data* becomes JSON, which has no line break outside of texts."""
    identified = b"" if event_id is None else b"id: " + event_id.encode() + b"\n"
    return b"event: " + name.encode() + b"\n" + identified + b"data: " + msgspec.json.encode(data) + b"\n\n"


class StreamResponse(Response):
    """An answer made of *pieces*, of which the next is asked for when the last one was sent.

    :param heartbeat: what is sent while there is no next piece; nothing when empty
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes],
        streams: Streams,
        *,
        media_type: str,
        heartbeat: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.body = b""
        # For nginx, which else collects what it is sent before it passes it on.
        self.init_headers({"X-Accel-Buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._pieces = pieces
        self._streams = streams
        self._heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        if scope["method"] == "HEAD":
            await self._pieces.aclose()
            await send(start)
            await send({"type": "http.response.body", "body": b""})
            return
        self._streams.take()
        try:
            await until_gone(receive, self._send(start, send))
        except TimeoutError:
            pass  # Its reader took nothing for too long. The server closes the connection: the answer has no end.
        finally:
            self._streams.give_back()
            await self._pieces.aclose()

    async def _send(self, start: Mapping[str, Any], send: Send) -> None:
        await send(dict(start))
        ends_at = asyncio.get_running_loop().time() + self._streams.lifetime_s
        async for piece in self._paced(ends_at):
            async with asyncio.timeout(self._streams.send_timeout_s):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _paced(self, ends_at: float) -> AsyncGenerator[bytes]:
        """The pieces, with heartbeats in between, until *ends_at*."""
        now = asyncio.get_running_loop().time
        coming: asyncio.Task[bytes | None] | None = None
        try:
            while (left_s := ends_at - now()) > 0:
                coming = coming or asyncio.create_task(_next(self._pieces))
                await asyncio.wait({coming}, timeout=min(left_s, self._streams.heartbeat_s))
                if not coming.done():
                    if self._heartbeat and now() < ends_at:
                        yield self._heartbeat
                    continue
                piece, coming = coming.result(), None
                if piece is None:
                    return
                yield piece
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.wait({coming})


async def _next(pieces: AsyncGenerator[bytes]) -> bytes | None:
    return await anext(pieces, None)


async def until_gone(receive: Receive, work: Awaitable[T]) -> T | None:
    """What *work* gives; it is cancelled, and None given, when the client leaves.

    :raises TimeoutError: from *work*
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_gone(receive))
    try:
        # No deadline: the work has its own.
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        # No deadline: what was begun in a box is ended first, and that has one.
        await asyncio.wait({working, leaving})
        if not leaving.cancelled():
            leaving.exception()  # A connection that broke has left, however it says so.


async def _gone(receive: Receive) -> None:
    """Return when the client has left; more of a body than was read is passed over."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def answered_or_gone(request: Request, streams: Streams, work: Callable[[], Awaitable[T]]) -> T | None:
    """What *work* gives, as one of the answers that take long; None when the client has left meanwhile.

    :raises RefusedError: there are too many
    """
    streams.take()
    try:
        return await until_gone(request.receive, work())
    finally:
        streams.give_back()
