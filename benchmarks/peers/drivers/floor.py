"""What do the workloads cost without an engine? Plain asyncio: `bare` records nothing, `log` the outcome of each step.

The log is one file; all that waits is written and synced together (`benchmarks/floors.py`). Nothing reads it again:
no recovery, no index, no checksums. So a floor is what the disk and the loop cost alone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from benchmarks.floors import GroupCommitLog
from benchmarks.peers.marks import blob, finished, resumed, waiting, work
from benchmarks.peers.protocol import CHAIN, SLEEP_S, Orders

RECORD_BYTES = 300
"""About as long as boxflow's line for a small step."""


class Floor:
    """asyncio as a peer, with a log or without."""

    def __init__(self, log: GroupCommitLog | None) -> None:
        self._log = log
        self._events: dict[str, asyncio.Event] = {}
        self._runs = set[asyncio.Task[None]]()

    async def run(self, workflow: str, count: int) -> None:
        match workflow:
            case "steps":
                await self._chain(count)
            case "payloads":
                for number in range(count):
                    await self._step(blob, number)
            case "fan_out":
                await asyncio.gather(*(self._step(work, number) for number in range(count)))
            case _:
                await asyncio.gather(*(self._chain(CHAIN) for _ in range(count)))

    async def start(self, workflow: str, name: str) -> None:
        event = self._events[name] = asyncio.Event()
        run = asyncio.create_task(self._waits(name, event) if workflow == "waits" else self._sleeps(name))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    async def notify(self, name: str) -> None:
        await self._append(name)
        self._events[name].set()

    async def _chain(self, count: int) -> None:
        for number in range(count):
            await self._step(work, number)

    async def _waits(self, name: str, event: asyncio.Event) -> None:
        await self._step(work, 1)
        waiting(name)
        await event.wait()
        resumed(name)
        await self._step(work, 2)
        finished(name)

    async def _sleeps(self, name: str) -> None:
        waiting(name)
        await asyncio.sleep(SLEEP_S)
        resumed(name)

    async def _step(self, function: Callable[[int], Awaitable[object]], number: int) -> None:
        await self._append(await asyncio.ensure_future(function(number)))

    async def _append(self, value: object) -> None:
        if self._log is not None:
            await self._log.append(json.dumps(value).encode().ljust(RECORD_BYTES) + b"\n")


@asynccontextmanager
async def open_peer(orders: Orders) -> AsyncGenerator[Floor, None]:
    if orders.variant == "bare":
        yield Floor(None)
        return
    log = GroupCommitLog(orders.directory / "floor.log")
    try:
        yield Floor(log)
    finally:
        log.close()
