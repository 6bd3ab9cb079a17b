"""How do requests arrive on one connection, and how do answers leave, whole or broken? HTTP/1.1, by h11."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import h11

from boxflow.testing.model_server.request import HttpRequest

# Conversations of agents grow to some megabytes.
MAX_BODY_BYTES = 64 * 1024 * 1024

_READ_BYTES = 64 * 1024


class ClientGoneError(Exception):
    """The other side closed the connection, or speaks no HTTP."""


class TooLargeError(Exception):
    """The body of a request is larger than `MAX_BODY_BYTES`."""


class Connection:
    """The server's end of a connection.

    Reads and writes have no deadline: the other side decides how long it keeps a connection, and leaving the server
    ends them all.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER)
        self._wants_body = True
        # So that `drain` returns when all has been handed to the kernel, and what comes before a cut arrives.
        writer.transport.set_write_buffer_limits(high=0)

    async def next_request(self) -> HttpRequest | None:
        """The next request; None when there is no further one.

        :raises ClientGoneError, TooLargeError: see there
        """
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        if self._http.our_state is not h11.IDLE:
            return None
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            return None
        self._wants_body = event.method != b"HEAD"
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        body = bytearray()
        while not isinstance(part := await self._next_event(), h11.EndOfMessage):
            if not isinstance(part, h11.Data):
                raise ClientGoneError
            body += part.data
            if len(body) > MAX_BODY_BYTES:
                raise TooLargeError
        return HttpRequest(
            method=event.method.decode(),
            path=event.target.decode(errors="replace"),
            headers={name.decode(): value.decode("latin-1") for name, value in event.headers},
            body=bytes(body),
        )

    async def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer in one piece."""
        await self.start(status, {**headers, "content-length": str(len(body))})
        if self._wants_body:
            await self.send(body)
        await self.end()

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin an answer. Without a `content-length` it comes in chunks."""
        await self._send(h11.Response(status_code=status, headers=list(headers.items())))

    async def send(self, data: bytes) -> None:
        """Send a piece of the answer."""
        await self._send(h11.Data(data=data))

    async def end(self) -> None:
        """End the answer as it should be."""
        await self._send(h11.EndOfMessage())

    async def wait(self, seconds: float) -> None:
        """Wait that long.

        :raises ClientGoneError: the other side did not
        """
        try:
            async with asyncio.timeout(seconds):
                while data := await self._read():
                    self._http.receive_data(data)
        except TimeoutError:
            return
        raise ClientGoneError

    async def close(self) -> None:
        """Close it, in whatever state it is."""
        self._writer.close()
        try:
            # What was sent is with the kernel already, so this takes no time; a dead peer must not make it long.
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()

    async def _next_event(self) -> object:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as exc:
                raise ClientGoneError from exc
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(await self._read())

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(_READ_BYTES)
        except OSError as exc:
            raise ClientGoneError from exc

    async def _send(self, event: h11.Event) -> None:
        try:
            if data := self._http.send(event):
                self._writer.write(data)
                await self._writer.drain()
        except OSError as exc:
            raise ClientGoneError from exc
