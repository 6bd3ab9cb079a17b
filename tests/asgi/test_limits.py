"""What a client can take from the server: bodies, headers, time and streams all have their bounds."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from asgi.support import Server, engine_of, events_of, listening, serving
from behaviour.support import eventually
from starlette.applications import Starlette
from starlette.types import Message

from boxflow import Context, Engine, workflow
from boxflow.asgi import routes
from boxflow.asgi.endpoint import Door
from boxflow.asgi.event_stream import StreamResponse, Streams
from boxflow.asgi.routing import EndpointRoute
from boxflow.errors import ConfigurationError


async def trickle(pause_s: float) -> AsyncIterator[bytes]:
    while True:
        yield b" "
        await asyncio.sleep(pause_s)


async def test_a_body_that_trickles_is_answered_with_408() -> None:
    async with serving(read_timeout="50ms") as server:
        for path in ("/events/e", "/webhooks/x", "/runs"):
            answer = await server.client.post(path, content=trickle(0.01))
            assert (answer.status_code, answer.json()["title"]) == (408, "Body too slow")
            assert answer.headers["connection"] == "close"
        assert await server.engine.store.list_items("mail") == []


@pytest.mark.parametrize("headers", [{f"x-{number}": "1" for number in range(200)}, {"x-large": "x" * 70_000}])
async def test_too_many_headers_and_too_large_ones_are_answered_with_431(headers: dict[str, str]) -> None:
    async with serving() as server:
        for path in ("/webhooks/x", "/events/e"):
            answer = await server.client.post(path, headers=headers)
            assert (answer.status_code, answer.json()["title"]) == (431, "Headers too large")


async def test_every_body_has_the_bound() -> None:
    async with serving(max_body_bytes=100) as server:
        for path in ("/webhooks/x", "/events/e", "/runs", "/runs/r/cancel", "/boxes/b/exec"):
            answer = await server.client.post(path, content=b" " * 101)
            assert (answer.status_code, answer.json()["title"]) == (413, "Body too large"), path


async def test_there_are_so_many_streams_and_no_more_and_their_places_are_given_back() -> None:
    async with listening(max_streams=2) as server:
        await server.waiting("w")
        async with server.client.stream("GET", "/runs/w/watch"), server.client.stream("GET", "/runs/w/watch"):
            answer = await server.client.get("/runs/w/watch")
            assert (answer.status_code, answer.json()["title"]) == (503, "Too many streams")
            assert int(answer.headers["retry-after"]) > 0
            assert (await server.client.get("/runs/w")).status_code == 200
        await eventually(lambda: taken(server) == 0)
        async with server.client.stream("GET", "/runs/w/watch") as again:
            assert again.status_code == 200


def taken(server: Server) -> int:
    door: Door = next(route._door for route in server.app.routes if isinstance(route, EndpointRoute))
    return door.streams.taken


async def test_a_stream_ends_in_time_and_is_continued() -> None:
    async with listening(stream_timeout="200ms", heartbeat="20ms") as server:
        run = await server.waiting("w")
        text = (await server.client.get("/runs/w/watch")).text
        assert text.count(": still here") > 2
        assert "event: end" not in text
        await server.engine.notify("w", 1)
        await run.result()
        assert "event: end" in (await server.client.get("/runs/w/watch")).text


async def test_outcomes_are_seen_as_they_happen() -> None:
    async with listening() as server:
        await server.waiting("w")
        async with server.client.stream("GET", "/runs/w/watch") as answer:
            assert answer.headers["x-accel-buffering"] == "no"
            assert answer.headers["cache-control"] == "no-store"
            events = events_of(answer)
            await server.client.post("/events/w", json="hello")
            name, event_id, data = await anext(events)
            assert (name, event_id, '"hello"' in data) == ("outcome", "1", True)
            name, event_id, data = await anext(events)
            assert (name, event_id, '"completed"' in data) == ("end", "end", True)


@workflow
async def wordy(ctx: Context, size: int) -> None:
    for _ in range(200):
        await ctx.run("word", lambda: "x" * size, type=str)


async def test_a_reader_that_takes_nothing_holds_a_bounded_part_of_the_journal() -> None:
    taken_bytes = 0
    blocked = asyncio.Event()

    async with serving(Engine([wordy], blocking_limit=None)) as server:
        await server.engine.run(wordy, 200_000, run_id="a")

        async def send(message: Message) -> None:
            nonlocal taken_bytes
            taken_bytes += len(message.get("body", b""))
            if taken_bytes > 500_000:
                blocked.set()
                await asyncio.Event().wait()

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        scope = scope_of(server, "/runs/a/watch")
        reading = asyncio.create_task(server.app(scope, receive, send))
        await blocked.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert taken_bytes < 1_000_000  # The journal has 40 MB: nothing was asked for ahead of the reader.
        reading.cancel()
        await asyncio.wait({reading})
        assert taken(server) == 0


async def test_a_reader_that_takes_nothing_for_too_long_is_let_go() -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.set()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    closed = asyncio.Event()
    streams = Streams(limit=1, heartbeat_s=10, lifetime_s=10, send_timeout_s=0.02)
    await StreamResponse(pieces(), streams, media_type="text/plain")({"type": "http", "method": "GET"}, receive, send)
    assert closed.is_set()
    assert streams.taken == 0


def scope_of(server: Server, path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"app")],
        "client": ("127.0.0.1", 1),
        "server": ("app", 80),
        "scheme": "http",
        "http_version": "1.1",
    }


async def test_a_watcher_that_hangs_up_leaves_no_task_behind() -> None:
    async with listening() as server:
        await server.waiting("w")
        before = len(asyncio.all_tasks())
        for _ in range(5):
            reader, writer = await asyncio.open_connection(server.client.base_url.host, server.client.base_url.port)
            writer.write(b"GET /runs/w/watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"watching")
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.close()
        await eventually(lambda: taken(server) == 0)
        await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_watcher_is_told_when_the_engine_stops() -> None:
    engine = engine_of()
    async with listening(engine, Starlette(routes=routes(engine))) as server:
        async with engine:
            await server.waiting("w")
            answer = await server.client.send(server.client.build_request("GET", "/runs/w/watch"), stream=True)
        ((name, _, data),) = [event async for event in events_of(answer)]
        assert (name, json.loads(data)["status"]) == ("error", 503)
        await answer.aclose()
        assert (await server.client.get("/runs/w/watch")).status_code == 503


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_streams": 0}, "max_streams=0 must be at least 1"),
        ({"max_body_bytes": 0}, "max_body_bytes=0 must be at least 1"),
        ({"read_timeout": 0}, "read_timeout=0 must be more than nothing"),
        ({"heartbeat": "often"}, "heartbeat=: duration 'often' is not understood"),
    ],
)
def test_bounds_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match="^" + message.replace("(", r"\(")):
        routes(engine_of(), **options)


def test_an_option_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="'max_steams' is no option of routes; there are api_keys"):
        routes(engine_of(), max_steams=1)  # type: ignore[call-arg]  # what an untyped caller may write
