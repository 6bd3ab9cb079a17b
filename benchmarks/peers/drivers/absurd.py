"""How is Absurd driven? Eight async workers in this process, each with a connection of its own, and a client.

A worker takes 16 tasks at a time and looks for more every 10 ms (by default one task, every 250 ms). It sends the
statements of its tasks one after the other, and takes no more tasks until the whole batch is done.
"""
# The peer is installed in an environment of its own, where no type checker looks:
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import psycopg
from absurd_sdk import AsyncAbsurd, AsyncTaskContext

from benchmarks.peers import marks
from benchmarks.peers.protocol import CHAIN, SLEEP_S, Orders

QUEUE = "default"
WORKERS = 8
CLIENTS = 4
TASKS_EACH = 16
POLL_S = 0.01


async def steps(count: int, ctx: AsyncTaskContext) -> int:
    for number in range(count):
        await ctx.step("step", partial(marks.work, number))
    return count


async def payloads(count: int, ctx: AsyncTaskContext) -> int:
    return sum([len(await ctx.step("step", partial(marks.blob, number))) for number in range(count)])


async def fan_out(count: int, ctx: AsyncTaskContext) -> int:
    # Names of their own: equal ones are told apart by the order in which they are asked for, which may change.
    names = [f"step-{number}" for number in range(count)]
    return sum(await asyncio.gather(*(ctx.step(name, partial(marks.work, n)) for n, name in enumerate(names))))


async def chains(count: int, ctx: AsyncTaskContext) -> int:
    async def chain(branch: int) -> None:
        for number in range(CHAIN):
            await ctx.step(f"step-{branch}-{number}", partial(marks.work, number))

    await asyncio.gather(*(chain(branch) for branch in range(count)))
    return count


async def waits(name: str, ctx: AsyncTaskContext) -> None:
    await ctx.step("before", partial(marks.work, 1))
    marks.waiting(name)
    await ctx.await_event(name)
    marks.resumed(name)
    await ctx.step("after", partial(marks.work, 2))
    marks.finished(name)


async def sleeps(name: str, ctx: AsyncTaskContext) -> None:
    marks.waiting(name)
    await ctx.sleep_for("nap", SLEEP_S)
    marks.resumed(name)


class Absurd:
    """A client, with workers beside it, as a peer."""

    def __init__(self, clients: list[AsyncAbsurd]) -> None:
        self._clients = itertools.cycle(clients)

    async def run(self, workflow: str, count: int) -> None:
        client = next(self._clients)
        spawned = await client.spawn(workflow, count, queue=QUEUE)
        result = await client.await_task_result(spawned["task_id"])
        if result.state != "completed":
            raise RuntimeError(f"a task of {workflow!r} ended as {result.state}: {result}")

    async def start(self, workflow: str, name: str) -> None:
        await next(self._clients).spawn(workflow, name, queue=QUEUE)

    async def notify(self, name: str) -> None:
        await next(self._clients).emit_event(name, True)


async def prepare(address: str) -> None:
    """The schema and the queue, where they are missing."""
    async with await psycopg.AsyncConnection.connect(address) as connection:
        found = await (await connection.execute("SELECT to_regnamespace('absurd')")).fetchone()
    if found[0] is None:
        control = str(Path(sys.executable).with_name("absurdctl"))
        for command in (["init", "-d", address], ["create-queue", "-d", address, QUEUE]):
            subprocess.run([control, *command], check=True, stdout=subprocess.DEVNULL, timeout=60)


async def connected(address: str) -> AsyncAbsurd:
    """With its connection: it would otherwise open one for each call that comes before the first is there."""
    return AsyncAbsurd(await psycopg.AsyncConnection.connect(address, autocommit=True))


@asynccontextmanager
async def open_peer(orders: Orders) -> AsyncGenerator[Absurd, None]:
    await prepare(orders.address)
    workers = [await connected(orders.address) for _ in range(WORKERS)]
    async with asyncio.TaskGroup() as group:
        for number, worker in enumerate(workers):
            for task in (steps, payloads, fan_out, chains, waits, sleeps):
                worker.register_task(task.__name__)(task)
            group.create_task(worker.start_worker(f"worker-{number}", concurrency=TASKS_EACH, poll_interval=POLL_S))
        yield Absurd([await connected(orders.address) for _ in range(CLIENTS)])
        for worker in workers:
            worker.stop_worker()
