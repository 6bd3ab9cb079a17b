"""Whatever comes over raw sockets is answered or cut off: no 5xx, no traceback, and nothing of it stays."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import h11
import pytest
import uvicorn
from behaviour.support import eventually, until

from boxflow import Context, Engine, RunStatus, Webhook, workflow
from boxflow.asgi import create_app

SEED = 5
MUTATIONS = 250
"""Beside the written attacks, each twice: some two seconds."""

AT_ONCE = 50
READ_S = 0.5
GUARD_S = 20.0

hooks: dict[str, Webhook] = {}


@workflow
async def agent(ctx: Context, verify: str) -> str:
    hook = hooks[ctx.run_id] = await ctx.create_webhook("done", verify="github" if verify else None)
    return (await ctx.wait_for_webhook("call", hook)).text


@asynccontextmanager
async def serving(http: str) -> AsyncIterator[tuple[Engine, uvicorn.Server, int]]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    engine = Engine([agent], base_url=f"http://127.0.0.1:{port}", blocking_limit=None, secret="s")
    app = create_app(engine, max_body_bytes=10_000, read_timeout=READ_S)
    config = uvicorn.Config(
        app, http=http, ws="none", log_config=None, access_log=False, lifespan="on", timeout_keep_alive=1
    )
    server = uvicorn.Server(config)
    serve = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.001)
        yield engine, server, port
    finally:
        server.should_exit = True
        await serve
        listener.close()


# --- what is sent ---------------------------------------------------------------------------------------------------


def request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Host: x", *headers]) + b"\r\n\r\n" + body


def post(body: bytes, *headers: bytes, path: bytes = b"/events/fuzz?run_id=nobody") -> bytes:
    return request(b"POST " + path + b" HTTP/1.1", *headers, body=body)


def sized(body: bytes, *, path: bytes = b"/events/fuzz?run_id=nobody") -> bytes:
    return post(body, b"Content-Length: %d" % len(body), path=path)


def chunked(body: bytes, *headers: bytes) -> bytes:
    return post(body, b"Transfer-Encoding: chunked", *headers)


def broken_chunking() -> Iterator[bytes]:
    for size in (b"zz", b"-1", b"f" * 17, b"f" * 5000, b"", b"5;x=\0", b"0x5", b" 5", b"5\n"):
        yield chunked(size + b"\r\nhello\r\n0\r\n\r\n")
    yield chunked(b"5\r\nhello")
    yield chunked(b"5\r\nhello\r\n")
    yield chunked(b"5\r\nhelloXX0\r\n\r\n")
    yield chunked(b"5\r\nhello\r\n0\r\nTrailer: x\r\n")
    yield chunked(b"5\r\nhello\r\n0\r\n" + b"a: b\r\n" * 20_000 + b"\r\n")
    yield chunked(b"1\r\n1\r\n" * 12_000 + b"0\r\n\r\n")
    yield chunked(b"2\r\n{}\r\n0\r\n\r\n", b"Content-Length: 2")
    yield post(b"2\r\n{}\r\n0\r\n\r\n", b"Transfer-Encoding: chunked, identity")
    yield post(b"2\r\n{}\r\n0\r\n\r\n", b"Transfer-Encoding: xchunked")


def strange_headers() -> Iterator[bytes]:
    for header in (b"no colon", b": empty", b"a\0b: c", b"a: b\0c", b"a : b", b" folded", b"a: \xff\xfe", b"Host: y"):
        yield post(b"", header, b"Content-Length: 0")
    yield post(b"", *[b"x-%d: y" % number for number in range(3000)])
    yield post(b"", b"x: " + b"y" * 300_000)
    yield b"POST /events/fuzz HTTP/1.1\r\n" + b"endless: header\r\n" * 20_000
    yield b"POST /events/fuzz HTTP/1.1\nHost: x\n\n"
    yield b"POST /events/fuzz HTTP/1.1\r\n\r\n"
    for length in (b"99999999999999999999", b"-1", b"abc", b"1, 2", b"+5", b"5 ", b"0x5", b"", b"1e3", "５".encode()):
        yield post(b"hello", b"Content-Length: " + length)
    yield post(b"hello", b"Content-Length: 5", b"Content-Length: 6")
    yield post(b"hello", b"Content-Length: 5000")
    yield post(b"hello", b"Expect: 100-continue", b"Content-Length: 5000000")
    yield post(b"", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Key: x")
    yield post(b"", b"Authorization: Bearer \xff\0", b"X-API-Key: ", b"Content-Length: 0")


def strange_targets(token: bytes) -> Iterator[bytes]:
    body, _, tag = token.rpartition(b".")
    tokens = [b"", b".", b"v.", b"v..", b"%00", b"%ff%fe", b"%ED%A0%80", b"%", b"%zz", b"%2e%2e/%2e%2e", b"a%0d%0aX: 1"]
    tokens += [token[:-1], token + b"=", token + b"%00", body + b"." + tag[::-1], b"v." + token, b"A" * 50_000]
    tokens += [b"WyJyIl0.AAAA", b"\xff\xfe", "é".encode(), token[:-3].replace(b".", b"%2E"), b"../events/x"]
    for one in tokens:
        yield sized(b"{}", path=b"/webhooks/" + one)
        yield sized(b"{}", path=b"/events/" + one + b"?run_id=" + one)
        yield request(b"GET /runs/" + one + b"/history?after=" + one + b" HTTP/1.1")
        yield sized(b'{"command": "true"}', path=b"/boxes/" + one + b"/exec")
    for query in (
        b"?run_id=%ff",
        b"?run_id=%00",
        b"?&&=&a",
        b"?" + b"a=b&" * 10_000,
        b"?run_id=a&run_id=b",
        b"?%",
        b"?\xff",
    ):
        yield sized(b"{}", path=b"/events/e" + query)
        yield sized(b"{}", path=b"/webhooks/" + token[:-2] + query)
    for line in (
        b"GET http://other/webhooks/x HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT other:443 HTTP/1.1",
        b"post /events/e HTTP/1.1",
        b"BREW /webhooks/x HTTP/1.1",
        b"POST  /events/e HTTP/1.1",
        b"POST /events/e",
        b"POST /events/e HTTP/9.9",
        b"GET /" + b"a/" * 20_000 + b" HTTP/1.1",
        b"GET // HTTP/1.0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"\0" * 1000,
    ):
        yield request(line)


def strange_bodies() -> Iterator[bytes]:
    for body in (
        b"{",
        b"[" * 9000,
        b"1" * 9000,
        b"1e999",
        b"NaN",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'"\\ud800"',
        b'"\0"',
        b"x" * 10_001,
        b"x" * 200_000,
    ):
        yield sized(body)
        yield sized(body, path=b"/runs")


def attacks(token: bytes) -> list[bytes]:
    good = sized(b'{"n": 1}')
    pipelined = [
        good * 30,
        good * 10 + b"garbage\r\n\r\n",
        good[:-1] + good,
        good + good[:40],
        (sized(b"{") + good) * 5,
    ]
    return [*broken_chunking(), *strange_headers(), *strange_targets(token), *strange_bodies(), *pipelined]


def mutated(chance: random.Random, data: bytes) -> bytes:
    """*data* with some bytes changed, taken out or doubled; nothing too long, for there are many."""
    some = bytearray(data[:4000])
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(some) + 1)
        match chance.randrange(4):
            case 0:
                some[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del some[at : at + chance.randint(1, 20)]
            case 2:
                some[at:at] = some[at : at + chance.randint(1, 40)]
            case _:
                some[at:at] = chance.choice([b"\r\n", b"\0", b"%", b": ", b"\r\n\r\n", b" HTTP/1.1\r\n", b"\xff"])
    return bytes(some)


# --- and how ----------------------------------------------------------------------------------------------------------


async def attack(port: int, data: bytes, chance: random.Random) -> bytes:
    """Send *data* in pieces, then hang up, close one half, or wait for what comes; return what came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    ending = chance.choice(["read", "half", "close", "reset"])
    try:
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(4)))
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            writer.write(data[start:end])
            await writer.drain()
            if chance.random() < 0.5:
                await asyncio.sleep(0.002)
        if ending == "reset":
            writer.transport.abort()
            return b""
        if ending == "half":
            writer.write_eof()
        if ending == "close":
            return b""
        # What is incomplete is waited for by a server without end: the attacker gives up.
        async with asyncio.timeout(0.3):
            return await reader.read(1_000_000)
    except OSError:  # TimeoutError is one
        return b""
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()]


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_a_fuzz_of_raw_sockets_gets_no_5xx_and_leaves_nothing(
    http: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if http == "httptools":
        pytest.importorskip("httptools")
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", "s3cret")
    caplog.set_level(logging.WARNING)
    chance = random.Random(SEED)
    async with serving(http) as (engine, server, port):
        for run_id, verify in (("open", ""), ("verified", "github")):
            await until(await engine.start(agent, verify, run_id=run_id), RunStatus.WAITING)
        before = asyncio.all_tasks()
        written = [one for run_id in hooks for one in attacks(hooks[run_id].token.encode())]
        sent = written + [mutated(chance, chance.choice(written)) for _ in range(MUTATIONS)]
        chance.shuffle(sent)
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(data: bytes) -> list[int]:
            async with slots:
                return statuses(await attack(port, data, random.Random(chance.random())))

        found = [status for some in await asyncio.gather(*map(one, sent)) for status in some]
        assert [status for status in found if status >= 500] == []
        assert {400, 404, 413} <= set(found)

        async with asyncio.timeout(GUARD_S):
            await eventually(lambda: not server.server_state.connections and asyncio.all_tasks() <= before)
        assert [record.getMessage() for record in caplog.records if is_complaint(record)] == []
        assert "s3cret" not in caplog.text

        token = hooks["open"].token.encode()
        answer = await attack_once(
            port, request(b"PUT /webhooks/" + token + b" HTTP/1.1", b"Content-Length: 4", body=b"done")
        )
        assert statuses(answer) == [200]
        assert await (await engine.get("open")).result(timeout=5) == "done"
        assert await (await engine.get("verified")).status() is RunStatus.WAITING


def is_complaint(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, h11.LocalProtocolError):
        # uvicorn's own: it had refused the body by itself (400) when an app answered that had not waited for one.
        return "MUST_CLOSE" not in str(error)
    return error is not None or record.levelno >= logging.ERROR


async def test_slow_bodies_are_given_up_and_hold_nobody_up_meanwhile() -> None:
    async with serving("h11") as (engine, server, port):
        await until(await engine.start(agent, "", run_id="open"), RunStatus.WAITING)
        before = asyncio.all_tasks()
        target = b"/webhooks/" + hooks["open"].token.encode()
        slow = [sized(b"x" * 9000, path=target)[:-8000], post(b"5\r\nhel", b"Transfer-Encoding: chunked", path=target)]
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2 * AT_ONCE)]
        for number, (_, writer) in enumerate(connections):
            writer.write(slow[number % 2])
        answer = await attack_once(port, sized(b"done", path=target))
        assert statuses(answer) == [200]
        assert await (await engine.get("open")).result(timeout=5) == "done"
        assert len(server.server_state.connections) >= len(connections)
        for reader, writer in connections:
            # To its end: the server hangs up by itself.
            assert statuses(await reader.read()) == [408]
            writer.close()
        await eventually(lambda: not server.server_state.connections and asyncio.all_tasks() <= before)


async def attack_once(port: int, data: bytes) -> bytes:
    """Send *data* and return the first that is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await reader.read(1000)
    writer.close()
    await writer.wait_closed()
    return answer
