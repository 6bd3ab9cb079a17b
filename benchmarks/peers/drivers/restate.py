"""How is Restate driven? Handlers served by hypercorn in this process, called through the server's ingress.

Branches that run steps one after the other are calls of another handler, as its documentation has it: what a handler
waits for with `gather` has to be the SDK's own futures. What waits does so for a promise of a workflow.
"""
# The peer is installed in an environment of its own, where no type checker looks:
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

import hypercorn.asyncio
import hypercorn.config
import restate

from benchmarks.peers import marks
from benchmarks.peers.protocol import CHAIN, SLEEP_S, Orders

service = restate.Service("benchmark")
waits = restate.Workflow("waits")
sleeps = restate.Workflow("sleeps")


@service.handler()
async def steps(ctx: restate.Context, count: int) -> int:
    for number in range(count):
        await ctx.run_typed("step", marks.work, number=number)
    return count


@service.handler()
async def payloads(ctx: restate.Context, count: int) -> int:
    return sum([len(await ctx.run_typed("step", marks.blob, number=number)) for number in range(count)])


@service.handler()
async def fan_out(ctx: restate.Context, count: int) -> int:
    futures = await restate.gather(*(ctx.run_typed("step", marks.work, number=number) for number in range(count)))
    return sum([await future for future in futures])


@service.handler()
async def chains(ctx: restate.Context, count: int) -> int:
    await restate.gather(*(ctx.service_call(steps, CHAIN) for _ in range(count)))
    return count


@waits.main(name="run")
async def wait(ctx: restate.WorkflowContext, name: str) -> None:
    await ctx.run_typed("before", marks.work, number=1)
    marks.waiting(name)
    await ctx.promise("go").value()
    marks.resumed(name)
    await ctx.run_typed("after", marks.work, number=2)
    marks.finished(name)


@waits.handler()
async def go(ctx: restate.WorkflowSharedContext, _: bool) -> None:
    await ctx.promise("go").resolve(True)


@sleeps.main(name="run")
async def sleep(ctx: restate.WorkflowContext, name: str) -> None:
    marks.waiting(name)
    await ctx.sleep(timedelta(seconds=SLEEP_S))
    marks.resumed(name)


HANDLERS = {"steps": steps, "payloads": payloads, "fan_out": fan_out, "chains": chains, "waits": wait, "sleeps": sleep}


class Restate:
    """The server, with handlers beside it, as a peer."""

    def __init__(self, client) -> None:
        self._client = client

    async def run(self, workflow: str, count: int) -> None:
        await self._client.service_call(HANDLERS[workflow], count)

    async def start(self, workflow: str, name: str) -> None:
        await self._client.workflow_send(HANDLERS[workflow], name, name)

    async def notify(self, name: str) -> None:
        await self._client.workflow_call(go, name, True)


def register(admin: str, port: int) -> None:
    """Tell the server where the handlers are."""
    body = json.dumps({"uri": f"http://127.0.0.1:{port}"}).encode()
    request = urllib.request.Request(f"{admin}/deployments", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20):
        pass


@asynccontextmanager
async def open_peer(orders: Orders) -> AsyncGenerator[Restate, None]:
    ingress, admin = orders.address.split()
    config = hypercorn.config.Config()
    config.bind, config.loglevel = [f"127.0.0.1:{orders.port}"], "error"
    logging.getLogger("httpx").setLevel(logging.ERROR)
    ended = asyncio.Event()
    app = restate.app([service, waits, sleeps])
    serving = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=ended.wait))
    while True:
        try:
            (await asyncio.open_connection("127.0.0.1", orders.port))[1].close()
            break
        except OSError:
            await asyncio.sleep(0.005)  # Bounded: the runner kills a driver that takes too long.
    await asyncio.to_thread(register, admin, orders.port)
    async with restate.create_client(ingress) as client:
        yield Restate(client)
    ended.set()
    await serving
