"""An engine behind its app: called in process, or over a loopback socket where an answer takes its time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from behaviour.support import until

from boxflow import Context, Engine, Run, RunStatus, workflow
from boxflow.asgi import create_app


@workflow
async def review(ctx: Context, event_id: str) -> Any:
    return await ctx.wait_for_event("wait", event_id)


@workflow
async def double(ctx: Context, number: int) -> int:
    def twice() -> int:
        return 2 * number

    return await ctx.run("twice", twice)


@workflow
async def fail(ctx: Context, payload: None) -> None:
    raise LookupError("nothing here")


@workflow
async def family(ctx: Context, number: int) -> int:
    return await ctx.invoke("child", double, number)


class Server:
    """An engine and a client of the app around it."""

    def __init__(self, engine: Engine, client: httpx.AsyncClient, app: Any) -> None:
        self.engine = engine
        self.client = client
        self.app = app

    async def waiting(self, run_id: str) -> Run[Any]:
        """A run that waits for the event `run_id`."""
        run = await self.engine.start(review, run_id, run_id=run_id)
        await until(run, RunStatus.WAITING)
        return run

    async def done(self, run_id: str) -> Run[Any]:
        """A run that has completed with 42."""
        run = await self.engine.start(double, 21, run_id=run_id)
        await run.result()
        return run


def engine_of(**options: Any) -> Engine:
    return Engine([review, double, fail, family], **{"blocking_limit": None, **options})


@asynccontextmanager
async def serving(
    engine: Engine | None = None,
    *,
    client: tuple[str, int] = ("127.0.0.1", 1),
    base_url: str = "http://app",
    **options: Any,
) -> AsyncIterator[Server]:
    """In process; *client* is where requests come from."""
    engine = engine or engine_of()
    app = create_app(engine, **options)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, client=client)
        async with httpx.AsyncClient(transport=transport, base_url=base_url) as http:
            yield Server(engine, http, app)


@asynccontextmanager
async def listening(engine: Engine | None = None, app: Any = None, **options: Any) -> AsyncIterator[Server]:
    """By uvicorn, on a loopback port."""
    engine = engine or engine_of()
    app = app or create_app(engine, **options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        serve = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started:
                await asyncio.sleep(0.001)
            base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with httpx.AsyncClient(base_url=base_url, trust_env=False) as http:
                yield Server(engine, http, app)
        finally:
            server.should_exit = True
            await serve


async def events_of(response: httpx.Response) -> AsyncIterator[tuple[str, str, str]]:
    """The server-sent events of an answer: name, id, data."""
    name = event_id = data = ""
    async for line in response.aiter_lines():
        if not line:
            if data:
                yield name, event_id, data
            name = event_id = data = ""
            continue
        field, _, value = line.partition(": ")
        match field:
            case "event":
                name = value
            case "id":
                event_id = value
            case "data":
                data = value
            case _:
                pass
