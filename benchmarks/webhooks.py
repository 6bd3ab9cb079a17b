"""How many webhook calls a second are acknowledged, and how long does each wait for its 200?

Senders in a process of their own keep one connection each and call again when they are answered; the server is uvicorn
in the process that is measured. A 200 means durable in all of them. In `kept` each sender has a run of its own, which
is busy, so that its calls are kept; in `one` all senders call the same webhook; in `taken` the bodies take the calls as
they come; in `verified` each call is signed, checked, and its id kept.

The floors are a bare Starlette route that reads the body and appends a record as long as boxflow's own line: with one
`fdatasync` for all that waits (`group_commit`), or one for each (`fdatasync`, on the event loop, which waits for it).

CPU is the server's. Not measured: TLS, a network, new connections, large bodies, several processes.
"""

from __future__ import annotations

import asyncio
import base64
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.floors import GroupCommitLog
from benchmarks.inside import until_waiting
from benchmarks.measuring import Stopwatch, quantiles_ms, run
from benchmarks.model import Program, Sample, Size, Subject, Target, counts
from benchmarks.rounds import ROOT
from benchmarks.webhook_senders import Answered, Orders
from boxflow import Context, Engine, workflow
from boxflow.asgi import create_app
from boxflow_backends.file_store import FileStore

SENDERS = 100
RECORD = b"x" * 699 + b"\n"
"""As long as the line with which boxflow keeps one of these calls."""

KEY = b"k" * 24

Served = tuple[Any, list[str]]
"""An app, and the paths of its webhooks."""

paths: dict[str, str] = {}


@workflow
async def keep(ctx: Context, verify: bool) -> None:
    hook = await ctx.create_webhook("done", verify="standard-webhooks" if verify else None)
    paths[ctx.run_id] = hook.url
    await ctx.wait_for_event("never", "never")


@workflow
async def take(ctx: Context, verify: bool) -> None:
    hook = await ctx.create_webhook("done")
    paths[ctx.run_id] = hook.url
    while True:
        await ctx.wait_for_webhook("call", hook)


@asynccontextmanager
async def boxflow(runs: int, verify: bool, takes: bool, directory: Path) -> AsyncIterator[Served]:
    os.environ["WEBHOOK_SECRET"] = base64.b64encode(KEY).decode()
    async with Engine([keep, take], store=FileStore(directory / "store"), max_kept_events=1_000_000) as engine:
        for number in range(runs):
            run = await engine.start("take" if takes else "keep", verify, run_id=str(number))
            await until_waiting(engine, run.id, evicted=False)
        # The engine is running already: the server leaves out the lifespan, in which `create_app` would enter it.
        yield create_app(engine), [paths[str(number)] for number in range(runs)]


@asynccontextmanager
async def bare(grouped: bool, directory: Path) -> AsyncIterator[Served]:
    log = GroupCommitLog(directory / "floor.log")
    file = os.open(directory / "floor-each.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sync = getattr(os, "fdatasync", os.fsync)

    async def append(request: Request) -> JSONResponse:
        await request.body()
        if grouped:
            await log.append(RECORD)
        else:
            os.write(file, RECORD)
            sync(file)
        return JSONResponse({"run_ids": [], "kept": True})

    try:
        yield Starlette(routes=[Route("/webhooks/{token}", append, methods=["POST"])]), ["/webhooks/x"]
    finally:
        log.close()
        os.close(file)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2 * SENDERS)
    config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none", http="h11")
    server = uvicorn.Server(config)
    serve = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.001)
    yield listener.getsockname()[1]
    server.should_exit = True
    await serve


async def call(orders: Orders) -> tuple[Answered, Stopwatch, float]:
    """What the senders saw, the stopwatch, and the processor time of this process meanwhile."""
    senders = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.webhook_senders"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        limit=1 << 26,
    )
    assert senders.stdin is not None and senders.stdout is not None
    senders.stdin.write(msgspec.json.encode(orders) + b"\n")
    if await senders.stdout.readline() != b"ready\n":
        raise RuntimeError("the senders did not get ready; their errors stand above")
    with Stopwatch() as watch:
        before = resource.getrusage(resource.RUSAGE_SELF)
        senders.stdin.write(b"go\n")
        line = await senders.stdout.readline()
        after = resource.getrusage(resource.RUSAGE_SELF)
        await senders.wait()
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return msgspec.json.decode(line, type=Answered), watch, cpu_s


def measure(
    serve: Callable[[Path], AbstractAsyncContextManager[Served]], key: bytes | None, operations: int, directory: Path
) -> Sample:
    async def main() -> Sample:
        async with serve(directory) as (app, targets), serving(app) as port:
            orders = Orders(port=port, senders=SENDERS, calls=max(operations, SENDERS), paths=targets, key=key)
            answered, watch, cpu_s = await call(orders)
        count = len(answered.latencies_s)
        return watch.sample(
            count,
            per_s=count / answered.wall_s,
            cpu_us=cpu_s / count * 1e6,
            wall_s=answered.wall_s,
            **quantiles_ms(answered.latencies_s),
        )

    return run(main())


OPERATIONS = counts(tiny=SENDERS, quick=5_000, normal=20_000)
#: Of what differs from others in numbers only, the tiny size needs no sample to show that it works.
NOT_TINY = {size: count for size, count in OPERATIONS.items() if size is not Size.TINY}
SHOWN = ("per_s", "p50_ms", "p99_ms", "cpu_us")


def subject(
    name: str,
    what: str,
    serve: Callable[[Path], AbstractAsyncContextManager[Served]],
    key: bytes | None = None,
    operations: dict[Size, int] = OPERATIONS,
) -> Subject:
    return Subject(name=name, what=what, measure=partial(measure, serve, key), operations=operations, shown=SHOWN)


PROGRAM = Program(
    name="webhooks",
    question=f"How many webhook calls a second are acknowledged as durable, from {SENDERS} senders?",
    subjects=(
        subject("fdatasync", "floor: bare Starlette, one sync a call", partial(bare, False)),
        subject("group_commit", "floor: bare Starlette, group commit", partial(bare, True)),
        subject("kept", "boxflow, a run for each sender, calls kept", partial(boxflow, SENDERS, False, False)),
        subject("one", "boxflow, one run for all, calls kept", partial(boxflow, 1, False, False), operations=NOT_TINY),
        subject(
            "taken",
            "boxflow, a run for each sender, calls taken",
            partial(boxflow, SENDERS, False, True),
            operations=NOT_TINY,
        ),
        subject("verified", "boxflow, a run for each, verified", partial(boxflow, SENDERS, True, False), KEY),
    ),
    targets=(
        Target(
            promise="webhooks acknowledged >= 0.5 of a bare Starlette route with group commit",
            subject="kept",
            over="group_commit",
            measure="per_s",
            limit=0.5,
            at_least=True,
        ),
        Target(
            promise="webhooks acknowledged >= a bare Starlette route with a sync for each",
            subject="kept",
            over="fdatasync",
            measure="per_s",
            limit=1,
            at_least=True,
        ),
    ),
)
