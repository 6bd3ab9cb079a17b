"""The same routes behind a real server on a loopback port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from behaviour.support import settle, until

from boxflow import Context, Engine, RunStatus, workflow
from boxflow.asgi import create_app


@workflow
async def agent(ctx: Context, payload: None) -> list[str]:
    hook = await ctx.create_webhook("done")
    await ctx.notify("publish", "hook-url", hook.url)
    return [(await ctx.wait_for_webhook("wait", hook)).text for _ in range(2)]


@workflow
async def wait(ctx: Context, event_id: str) -> object:
    return await ctx.wait_for_event("wait", event_id)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Engine, str]]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    engine = Engine([agent, wait], base_url=base_url, blocking_limit=None)
    config = uvicorn.Config(create_app(engine, max_body_bytes=10_000), log_level="error", lifespan="on")
    server = uvicorn.Server(config)
    serve = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.001)
        yield engine, base_url
    finally:
        server.should_exit = True
        await serve
        listener.close()


async def test_an_agent_elsewhere_calls_the_url_that_its_run_gave_it() -> None:
    async with serving() as (engine, _), httpx.AsyncClient(trust_env=False) as client:
        run = await engine.start(agent)
        url = str(await engine.run(wait, "hook-url"))
        for text in ("one", "two"):
            answer = await client.put(url, content=text)
            assert answer.status_code == 200
        assert await run.result() == ["one", "two"]


async def test_a_streamed_body_without_a_length_is_bounded() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 1000

    async with serving() as (engine, base_url), httpx.AsyncClient(trust_env=False) as client:
        try:
            status = (await client.post(f"{base_url}/events/e", content=endless())).status_code
        except httpx.TransportError:
            status = 413  # The server closed the connection while we still sent.
        assert status == 413
        assert await engine.store.list_items("mail") == []


async def test_a_client_that_hangs_up_in_the_middle_of_its_body_leaves_nothing() -> None:
    async with serving() as (engine, base_url):
        run = await engine.start(wait, "e")
        await until(run, RunStatus.WAITING)
        port = int(base_url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /events/e HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n[1, 2")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await settle()
        assert await run.status() is RunStatus.WAITING
        await engine.notify("e", "whole")
        assert await run.result() == "whole"
