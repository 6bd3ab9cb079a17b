"""How is DBOS driven? Async workflows whose steps are `run_step_async`; the variant is its database: `sqlite` or `pg`.

Branches are child workflows, as its documentation has it: a workflow has to start its steps in the same order always.
With SQLite the poll for messages is set to 50 ms (a second by default); with PostgreSQL it listens.
"""
# The peer is installed in an environment of its own, where no type checker looks:
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from dbos import DBOS, SetWorkflowID

from benchmarks.peers import marks
from benchmarks.peers.protocol import CHAIN, SLEEP_S, Orders

HOUR_S = 3600
SQLITE_POLL_S = 0.05


@DBOS.workflow()
async def steps(count: int) -> int:
    for number in range(count):
        await DBOS.run_step_async(None, marks.work, number)
    return count


@DBOS.workflow()
async def payloads(count: int) -> int:
    return sum([len(await DBOS.run_step_async(None, marks.blob, number)) for number in range(count)])


@DBOS.workflow()
async def fan_out(count: int) -> int:
    return sum(await asyncio.gather(*(DBOS.run_step_async(None, marks.work, number) for number in range(count))))


@DBOS.workflow()
async def chains(count: int) -> int:
    branches = [await DBOS.start_workflow_async(steps, CHAIN) for _ in range(count)]
    await asyncio.gather(*(branch.get_result() for branch in branches))
    return count


@DBOS.workflow()
async def waits(name: str) -> None:
    await DBOS.run_step_async(None, marks.work, 1)
    marks.waiting(name)
    await DBOS.recv_async("go", timeout_seconds=HOUR_S)
    marks.resumed(name)
    await DBOS.run_step_async(None, marks.work, 2)
    marks.finished(name)


@DBOS.workflow()
async def sleeps(name: str) -> None:
    marks.waiting(name)
    await DBOS.sleep_async(SLEEP_S)
    marks.resumed(name)


WORKFLOWS = {
    "steps": steps,
    "payloads": payloads,
    "fan_out": fan_out,
    "chains": chains,
    "waits": waits,
    "sleeps": sleeps,
}


class Dbos:
    """The DBOS of this process as a peer."""

    async def run(self, workflow: str, count: int) -> None:
        await WORKFLOWS[workflow](count)

    async def start(self, workflow: str, name: str) -> None:
        with SetWorkflowID(name):
            await DBOS.start_workflow_async(WORKFLOWS[workflow], name)

    async def notify(self, name: str) -> None:
        await DBOS.send_async(name, True, "go")


@asynccontextmanager
async def open_peer(orders: Orders) -> AsyncGenerator[Dbos, None]:
    is_sqlite = orders.variant == "sqlite"
    config: dict[str, object] = {
        "name": "benchmark",
        "system_database_url": f"sqlite:///{orders.directory / 'dbos.sqlite'}" if is_sqlite else orders.address,
        "log_level": "ERROR",
        # Recovery is for the workflows of the same version, which is otherwise computed from the source.
        "application_version": "1",
        "run_admin_server": False,
    }
    if is_sqlite:
        config["notification_listener_polling_interval_sec"] = SQLITE_POLL_S
    DBOS(config=config)
    DBOS.launch()
    try:
        yield Dbos()
    finally:
        DBOS.destroy()
