"""The same app under uvicorn, hypercorn and granian, each a program of its own on a loopback port."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from asgi.served_app import KEY
from asgi.support import events_of

ROOT = Path(__file__).parent.parent.parent
APP = "asgi.served_app:app"

SERVERS = {
    "uvicorn": ["uvicorn", APP, "--port", "{port}", "--log-level", "error", "--timeout-graceful-shutdown", "2"],
    "hypercorn": ["hypercorn", APP, "--bind", "127.0.0.1:{port}", "--graceful-timeout", "2", "--log-level", "error"],
    "granian": ["granian", APP, "--interface", "asgi", "--port", "{port}", "--log-level", "error"],
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@asynccontextmanager
async def served(name: str) -> AsyncIterator[httpx.AsyncClient]:
    port = free_port()
    paths = os.pathsep.join(map(str, [ROOT, ROOT / "backends", ROOT / "tests"]))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *(word.format(port=port) for word in SERVERS[name]),
        env={**os.environ, "PYTHONPATH": paths},
        cwd=ROOT,
    )
    try:
        client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {KEY}"},
            trust_env=False,
            timeout=30,  # A hang guard, in place of the client's own five seconds.
        )
        async with client:
            await ready(client, process)
            yield client
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), timeout=20)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise


async def ready(client: httpx.AsyncClient, process: asyncio.subprocess.Process) -> None:
    while process.returncode is None:
        try:
            if (await client.get("/flow/ready")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.02)
    pytest.fail(f"the server ended with {process.returncode}")


@asynccontextmanager
async def stream_when_free(client: httpx.AsyncClient, path: str) -> AsyncIterator[httpx.Response]:
    # No deadline of its own: the test's ends it.
    while True:
        async with client.stream("GET", path) as answer:
            if answer.status_code == 200:
                yield answer
                return
        await asyncio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
async def test_the_routes_work_under(name: str) -> None:
    async with served(name) as client:
        # Ids with slashes, below a prefix.
        started = await client.post("/flow/runs", json={"workflow": "family", "payload": 2, "run_id": "a ü/b"})
        assert started.status_code == 201
        assert started.headers["location"] == "/flow/runs/a%20%C3%BC%2Fb"
        watched = await client.get(f"{started.headers['location']}/watch")
        assert "event: end" in watched.text
        child = (await client.get("/flow/runs/a%20%C3%BC%2Fb%2Fchild")).json()
        assert (child["id"], child["result"]) == ("a ü/b/child", 4)
        assert (await client.get("/flow/runs/a%20ü/b/child/history")).json()["outcomes"][0]["value"] == 4

        # Outcomes while they happen, and the one place for a stream given back by who hangs up.
        await client.post("/flow/runs", json={"workflow": "review", "payload": "e", "run_id": "w"})
        async with client.stream("GET", "/flow/runs/w/watch") as answer:
            assert (await client.get("/flow/runs/w/watch")).status_code == 503
            assert answer.headers["content-type"].startswith("text/event-stream")
        async with stream_when_free(client, "/flow/runs/w/watch") as answer:
            assert (await client.post("/flow/events/e", json="hello")).status_code == 200
            seen = [(event, json.loads(data)) async for event, _, data in events_of(answer)]
        assert [event for event, _ in seen] == ["outcome", "end"]
        assert seen[1][1]["result"] == "hello"

        # Bounds, and answers without a body.
        async def endless() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 1000

        try:
            assert (await client.post("/flow/events/e", content=endless())).status_code == 413
        except httpx.TransportError:
            pass  # The server closed the connection while the client still sent.
        head = await client.head("/flow/runs/w")
        assert (head.status_code, head.content) == (200, b"")
        assert (await client.get("/flow/runs", headers={"Authorization": "Bearer x"})).status_code == 401
        assert (await client.get("/flow/openapi.json")).json()["servers"] == [{"url": "/flow"}]
