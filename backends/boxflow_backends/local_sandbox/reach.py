"""What serves an isolated box from outside, for as long as the sandbox is entered: its gate out, and its ports?"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
import attrs

from boxflow.errors import BoxNotFoundError
from boxflow.ports import Egress
from boxflow_backends.egress_gate import EgressGate
from boxflow_backends.local_sandbox.enclosures import Enclosures
from boxflow_backends.local_sandbox.layout import AUTHORITY, GATE, Layout
from boxflow_backends.local_sandbox.records import Record
from boxflow_backends.local_sandbox.relay import Relay, SocketMaker

T = TypeVar("T")


@attrs.define
class _Served:
    """What serves one box."""

    gate: EgressGate | None = None
    gate_directory: int = -1
    maker: SocketMaker | None = None
    relays: dict[int, Relay] = attrs.field(factory=dict[int, Relay])
    #: Held by whoever changes this, or takes a socket.
    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)


class Reach:
    """The gates and ports of the boxes below one root.

    :param threads: where what blocks is done
    """

    def __init__(self, layout: Layout, enclosures: Enclosures, threads: anyio.CapacityLimiter) -> None:
        self._layout = layout
        self._enclosures = enclosures
        self._threads = threads
        self._served: dict[str, _Served] = {}

    async def open_gate(self, record: Record) -> None:
        """Let the box reach the hosts that it may, through this engine from now on. No error when it does already."""
        if not isinstance(record.network, Egress):
            return
        served = self._served.setdefault(record.box_id, _Served())
        async with served.lock:
            if served.gate is not None:
                return
            box = self._layout.box(record.box_id)
            with ExitStack() as stack:
                fd = await self._in_thread(lambda: _open_directory(box / GATE, record.box_id))
                stack.callback(os.close, fd)
                gate = EgressGate(
                    record.network,
                    # By a descriptor: the path of a unix socket has 107 bytes at most, and ours may have more.
                    directory=Path(f"/proc/self/fd/{fd}"),
                    name=record.box_id,
                    private_directory=box / AUTHORITY,
                )
                await gate.open()
                stack.pop_all()
            served.gate, served.gate_directory = gate, fd

    async def url(self, record: Record, port: int) -> str:
        """Where *port* of the box is reached."""
        if record.isolation == "none" or record.network == "open":
            return f"http://127.0.0.1:{port}"
        box_id = record.box_id
        served = self._served.setdefault(box_id, _Served())
        async with served.lock:
            if served.maker is None:
                served.maker = await self._in_thread(lambda: self._maker(box_id))
            if port not in served.relays:
                relay = Relay(port, lambda: self._socket(served))
                await relay.open()
                served.relays[port] = relay
            return served.relays[port].url

    async def close(self, box_id: str) -> None:
        """Serve the box no longer."""
        served = self._served.pop(box_id, None)
        if served is None:
            return
        async with served.lock:
            for relay in served.relays.values():
                await relay.close()
            served.relays.clear()
            maker, served.maker = served.maker, None
            if maker is not None:
                await self._in_thread(maker.close)
            if served.gate is not None:
                await served.gate.close()
                os.close(served.gate_directory)
                served.gate = None

    async def close_all(self) -> None:
        """Serve no box any longer."""
        for box_id in tuple(self._served):
            await self.close(box_id)

    async def _socket(self, served: _Served) -> socket.socket:
        async with served.lock:
            maker = served.maker
            if maker is None:
                raise ConnectionAbortedError("the box is not served any more")
            return await self._in_thread(maker.make)

    def _maker(self, box_id: str) -> SocketMaker:
        with self._enclosures.entrance(box_id) as entrance:
            return SocketMaker(entrance)

    async def _in_thread(self, fn: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(fn, limiter=self._threads)


def _open_directory(path: Path, box_id: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise BoxNotFoundError(box_id) from exc
