"""How is boxflow driven? One engine; the variant is its store: `memory`, or `file-DURABILITY`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

from benchmarks.peers.marks import blob, finished, resumed, waiting, work
from benchmarks.peers.protocol import CHAIN, SLEEP_S, Orders
from boxflow import Context, Engine, Workflow, workflow
from boxflow.ports import Store
from boxflow_backends.file_store import FileStore
from boxflow_backends.file_store.writer import Durability
from boxflow_backends.memory_store import MemoryStore


@workflow
async def steps(ctx: Context, count: int) -> int:
    for number in range(count):
        await ctx.run("step", work, number)
    return count


@workflow
async def payloads(ctx: Context, count: int) -> int:
    return sum([len(await ctx.run("step", blob, number)) for number in range(count)])


@workflow
async def fan_out(ctx: Context, count: int) -> int:
    return sum(await asyncio.gather(*(ctx.run("step", work, number) for number in range(count))))


@workflow
async def chains(ctx: Context, count: int) -> int:
    async def chain(branch: int) -> None:
        for number in range(CHAIN):
            await ctx.run(f"step-{branch}", work, number)

    await asyncio.gather(*(chain(branch) for branch in range(count)))
    return count


@workflow
async def waits(ctx: Context, name: str) -> None:
    await ctx.run("before", work, 1)
    waiting(name)
    await ctx.wait_for_event("go", name)
    resumed(name)
    await ctx.run("after", work, 2)
    finished(name)


@workflow
async def sleeps(ctx: Context, name: str) -> None:
    waiting(name, ctx.now().timestamp())
    await ctx.sleep("nap", SLEEP_S)
    resumed(name)


class Boxflow:
    """An engine as a peer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def run(self, workflow: str, count: int) -> None:
        await self._engine.run(workflow, count)

    async def start(self, workflow: str, name: str) -> None:
        await self._engine.start(workflow, name, run_id=name)

    async def notify(self, name: str) -> None:
        await self._engine.notify(name)


def store_of(orders: Orders) -> Store:
    kind, _, durability = orders.variant.partition("-")
    if kind == "memory":
        return MemoryStore()
    return FileStore(orders.directory / "store", durability=cast(Durability, durability))


@asynccontextmanager
async def open_peer(orders: Orders) -> AsyncGenerator[Boxflow, None]:
    workflows: list[Workflow[Any, Any]] = [steps, payloads, fan_out, chains, waits, sleeps]
    async with Engine(workflows, store=store_of(orders)) as engine:
        yield Boxflow(engine)
