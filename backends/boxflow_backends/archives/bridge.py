"""How do chunks of a tar stream get from an event loop to the thread that unpacks them, and back?"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, AsyncIterable, Collection
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from boxflow_backends.archives.packing import Source, packed_chunks
from boxflow_backends.archives.reading import Limits
from boxflow_backends.archives.unpacking import Links, Unpacked, unpack

# Under way at once. A producer's chunks have some 64 to 256 KiB: 4 MiB at most.
_CHUNKS_UNDER_WAY = 16


async def packed(
    source: Source, *, limiter: anyio.CapacityLimiter, names: Collection[str] | None = None
) -> AsyncGenerator[bytes, None]:
    """The chunks of `packed_chunks`, each read in a thread of *limiter* when it is asked for.

    Close it (`contextlib.aclosing`) when it is not taken to its end.
    """
    chunks = packed_chunks(source, names=names)
    # A thread for each chunk of 256 KiB, none between two: a reader that is slow, or stops, holds none.
    while (chunk := await anyio.to_thread.run_sync(next, chunks, None, limiter=limiter)) is not None:
        yield chunk


async def unpack_chunks(
    chunks: AsyncIterable[bytes],
    target: Path | int,
    *,
    limiter: anyio.CapacityLimiter,
    links: Links = "inside",
    mode_mask: int = 0o755,
    limits: Limits = Limits(),
) -> Unpacked:
    """`unpack` in a thread of *limiter*, of a stream that comes in on the event loop.

    The producer waits while the disk is behind. When unpacking fails, *chunks* is cancelled where it waits. Errors of
    *chunks* come first, since they explain why the archive is cut short. Cancelling ends both, and returns when the
    thread has.
    """
    inflow = _Inflow(asyncio.get_running_loop())

    def work() -> Unpacked:
        return unpack(inflow, target, links=links, mode_mask=mode_mask, limits=limits)

    unpacking = asyncio.ensure_future(anyio.to_thread.run_sync(work, limiter=limiter))
    feeding = asyncio.create_task(inflow.feed(chunks))
    try:
        await asyncio.wait({unpacking, feeding}, return_when=asyncio.FIRST_COMPLETED)
        if feeding.done():
            await asyncio.wait({unpacking})
    finally:
        feeding.cancel()
        await _ended(unpacking, feeding)
    if not feeding.cancelled() and (error := feeding.exception()) is not None:
        raise error
    return unpacking.result()


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    """Return when *tasks* have ended, and not before. They do soon: the end of the feeding ends the stream as well.

    A cancellation that comes meanwhile is raised afterwards.
    """
    cancelled: asyncio.CancelledError | None = None
    # The scope holds off anyio's cancellations, which come again at every turn of the loop.
    with anyio.CancelScope(shield=True):
        while not all(task.done() for task in tasks):
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError as exc:
                cancelled = exc
    for task in tasks:
        # Looked at, so that an error which another one hides is not reported as lost.
        _ = task.cancelled() or task.exception()
    if cancelled is not None:
        raise cancelled


class _Inflow:
    """Bytes that a coroutine puts in and a thread reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._room = asyncio.Semaphore(_CHUNKS_UNDER_WAY)
        self._chunks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._rest = memoryview(b"")
        self._ended = False

    async def feed(self, chunks: AsyncIterable[bytes]) -> None:
        """Put in all of *chunks*; the stream ends when this does, whatever ends it."""
        try:
            async for chunk in chunks:
                if chunk:
                    await self._room.acquire()
                    self._chunks.put(chunk)
        finally:
            self._chunks.put(None)

    def read(self, size: int, /) -> bytes:
        """At most *size* bytes, and none only at the end. Blocks."""
        if not self._rest and not self._ended:
            # No deadline: `feed` puts an end, however it ends.
            chunk = self._chunks.get()
            if chunk is None:
                self._ended = True
            else:
                self._rest = memoryview(chunk)
                self._loop.call_soon_threadsafe(self._room.release)
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)
