"""How is Temporal driven? Workflows and activities of one worker in this process, beside its development server.

`default` and `tuned` run activities; they differ in the server's settings (`benchmarks/peers/servers.py`). `local`
runs local activities, which the documentation advises for short ones. The workflow sandbox is on, as by default.
"""
# The peer is installed in an environment of its own, where no type checker looks:
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    # From the module itself: its parents are imported anew in the sandbox, and `from` them it would be, too.
    from benchmarks.peers.marks import blob as do_blob
    from benchmarks.peers.marks import finished, resumed, waiting
    from benchmarks.peers.marks import work as do_work
    from benchmarks.peers.protocol import CHAIN, SLEEP_S, Orders

QUEUE = "benchmark"
TIMEOUT = timedelta(minutes=1)


@activity.defn
async def work(number: int) -> int:
    return await do_work(number)


@activity.defn
async def blob(number: int) -> str:
    return await do_blob(number)


async def step(function, number: int):
    if workflow.memo_value("local", default=False):
        return await workflow.execute_local_activity(function, number, start_to_close_timeout=TIMEOUT)
    return await workflow.execute_activity(function, number, start_to_close_timeout=TIMEOUT)


@workflow.defn(name="steps")
class Steps:
    @workflow.run
    async def run(self, count: int) -> int:
        for number in range(count):
            await step(work, number)
        return count


@workflow.defn(name="payloads")
class Payloads:
    @workflow.run
    async def run(self, count: int) -> int:
        return sum([len(await step(blob, number)) for number in range(count)])


@workflow.defn(name="fan_out")
class FanOut:
    @workflow.run
    async def run(self, count: int) -> int:
        return sum(await asyncio.gather(*(step(work, number) for number in range(count))))


@workflow.defn(name="chains")
class Chains:
    @workflow.run
    async def run(self, count: int) -> int:
        await asyncio.gather(*(self._chain() for _ in range(count)))
        return count

    async def _chain(self) -> None:
        for number in range(CHAIN):
            await step(work, number)


@workflow.defn(name="waits")
class Waits:
    def __init__(self) -> None:
        self._told = False

    @workflow.signal
    def go(self) -> None:
        self._told = True

    @workflow.run
    async def run(self, name: str) -> None:
        await step(work, 1)
        waiting(name)
        await workflow.wait_condition(lambda: self._told)
        resumed(name)
        await step(work, 2)
        finished(name)


@workflow.defn(name="sleeps")
class Sleeps:
    @workflow.run
    async def run(self, name: str) -> None:
        waiting(name)
        await asyncio.sleep(SLEEP_S)
        resumed(name)


class Temporal:
    """A client, with a worker beside it, as a peer."""

    def __init__(self, client: Client, is_local: bool) -> None:
        self._client, self._memo = client, {"local": is_local}

    async def run(self, workflow: str, count: int) -> None:
        await self._client.execute_workflow(workflow, count, id=uuid.uuid4().hex, task_queue=QUEUE, memo=self._memo)

    async def start(self, workflow: str, name: str) -> None:
        await self._client.start_workflow(workflow, name, id=name, task_queue=QUEUE, memo=self._memo)

    async def notify(self, name: str) -> None:
        await self._client.get_workflow_handle(name).signal("go")


@asynccontextmanager
async def open_peer(orders: Orders) -> AsyncGenerator[Temporal, None]:
    client = await Client.connect(orders.address)
    worker = Worker(
        client,
        task_queue=QUEUE,
        workflows=[Steps, Payloads, FanOut, Chains, Waits, Sleeps],
        activities=[work, blob],
        max_concurrent_activities=1000,
        max_concurrent_local_activities=1000,
    )
    async with worker:
        yield Temporal(client, orders.variant == "local")
