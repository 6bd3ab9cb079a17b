"""How are bytes put back that were read too early, and how does a connection end when nobody may wait for it?"""

from __future__ import annotations

import ssl

import anyio
import anyio.abc
import attrs

# What a connection can end with in ordinary life: the other side went away, also in the middle of TLS.
GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, ConnectionError, ssl.SSLError)

_CLOSE_S = 2.0


@attrs.define(eq=False)
class Rewound(anyio.abc.ByteStream):
    """*stream* with some bytes before what it still has to give."""

    stream: anyio.abc.ByteStream
    first: bytes

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """The next bytes; :raises anyio.EndOfStream: there are none."""
        if self.first:
            chunk, self.first = self.first[:max_bytes], self.first[max_bytes:]
            return chunk
        return await self.stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        """Send bytes; returns when they are in the kernel's hands."""
        await self.stream.send(item)

    async def send_eof(self) -> None:
        """Say that nothing more comes."""
        await self.stream.send_eof()

    async def aclose(self) -> None:
        """Close it."""
        await self.stream.aclose()


async def receive_some(stream: anyio.abc.AnyByteReceiveStream) -> bytes:
    """The next bytes, or none when the other side has ended or gone."""
    try:
        return await stream.receive()
    except GONE:
        return b""


async def close(stream: anyio.abc.AsyncResource) -> None:
    """Close *stream* whatever happens to the caller: shielded, and soon."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_S):
        try:
            await stream.aclose()
        except GONE:
            pass  # It is closed, which was wanted.
