"""How is LangGraph driven? Its functional API: an `@entrypoint` whose `@task`s are steps, with a checkpointer.

`durability="sync"` is the strongest: a checkpoint is saved before the next begins. The results of tasks are not: they
are handed to the saver, and the body goes on. What waits ends with an `interrupt`, and goes on when the caller invokes
it again with a `Command(resume=...)`.

Branches that each run tasks one after the other work here, but their results are kept by the order of the calls; what a
resumed run gets is not measured.
"""
# The peer is installed in an environment of its own, where no type checker looks:
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.func import entrypoint, task
from langgraph.types import Command, interrupt

from benchmarks.peers import marks
from benchmarks.peers.protocol import CHAIN, Orders

work, blob = task(marks.work), task(marks.blob)


async def steps(count: int) -> int:
    for number in range(count):
        await work(number)
    return count


async def payloads(count: int) -> int:
    return sum([len(await blob(number)) for number in range(count)])


async def fan_out(count: int) -> int:
    return sum(await asyncio.gather(*(work(number) for number in range(count))))


async def chains(count: int) -> int:
    await asyncio.gather(*(steps(CHAIN) for _ in range(count)))
    return count


async def waits(name: str) -> None:
    await work(1)
    marks.waiting(name)
    interrupt("go")
    marks.resumed(name)
    await work(2)
    marks.finished(name)


class LangGraph:
    """Entrypoints with a checkpointer as a peer."""

    def __init__(self, saver: object) -> None:
        make = entrypoint(checkpointer=saver)
        self._graphs = {function.__name__: make(function) for function in (steps, payloads, fan_out, chains, waits)}

    async def run(self, workflow: str, count: int) -> None:
        await self._invoke(workflow, count, uuid.uuid4().hex)

    async def start(self, workflow: str, name: str) -> None:
        await self._invoke(workflow, name, name)

    async def notify(self, name: str) -> None:
        await self._invoke("waits", Command(resume=True), name)

    async def _invoke(self, workflow: str, argument: object, thread: str) -> None:
        config = {"configurable": {"thread_id": thread}, "recursion_limit": 1_000_000}
        await self._graphs[workflow].ainvoke(argument, config, durability="sync")


@asynccontextmanager
async def open_peer(orders: Orders) -> AsyncGenerator[LangGraph, None]:
    if orders.variant == "memory":
        yield LangGraph(InMemorySaver())
        return
    async with AsyncSqliteSaver.from_conn_string(str(orders.directory / "checkpoints.db")) as saver:
        await saver.setup()
        yield LangGraph(saver)
