"""A host of models to be asked, and agents that speak with the gateway byte by byte."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import h11

from boxflow.gateway import Account, Prices, new_token
from boxflow.harness import ModelApi

KEY = "sk-test-7f3a9c1b5d"
SECRETS = {"MODEL_KEY": KEY}
PRICES = Prices(input=3.0, cached_input=0.3, output=15.0)

ANTHROPIC, OPENAI = ModelApi.ANTHROPIC, ModelApi.OPENAI


def account(api: ModelApi, upstream: str, **changes: Any) -> Account:
    settings = {"token": new_token(), "name": f"box/{api}", "api": api, "upstream": upstream, "key": "$MODEL_KEY"}
    return Account(**{**settings, **changes})


# --- the model's host ------------------------------------------------------------------------------------------------


@attrs.define
class Asked:
    """A request as the host saw it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known == name]

    def json(self) -> Any:
        return json.loads(self.body)


@attrs.define
class Answering:
    """What a script of the host writes with."""

    writer: asyncio.StreamWriter
    http: h11.Connection
    gone: asyncio.Event

    async def begin(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        await self._send(h11.Response(status_code=status, headers=list((headers or {}).items()), reason=b"Scripted"))

    async def piece(self, data: bytes | str) -> None:
        await self._send(h11.Data(data=data.encode() if isinstance(data, str) else data))

    async def end(self) -> None:
        await self._send(h11.EndOfMessage())

    async def json(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        kind = {"content-type": "application/json", "content-length": str(len(data))}
        await self.begin(status, {**kind, **(headers or {})})
        await self.piece(data)
        await self.end()

    async def begin_events(self) -> None:
        await self.begin(200, {"content-type": "text/event-stream; charset=utf-8"})

    async def event(self, value: Any) -> None:
        name = f"event: {value['type']}\n" if "type" in value else ""
        await self.piece(f"{name}data: {json.dumps(value)}\n\n")

    async def events(self, *values: Any) -> None:
        await self.begin_events()
        for value in values:
            await self.event(value)
        await self.end()

    def cut(self) -> None:
        self.writer.transport.abort()

    async def _send(self, event: h11.Event) -> None:
        data = self.http.send(event)
        if data:
            self.writer.write(data)
            await self.writer.drain()


Script = Callable[[Asked, Answering], Awaitable[None]]


@attrs.define
class Host:
    url: str
    script: Script
    asked: list[Asked] = attrs.field(factory=list)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        http = h11.Connection(h11.SERVER)
        try:
            while (asked := await _read(http, reader)) is not None:
                self.asked.append(asked)
                gone = asyncio.Event()
                watching = asyncio.create_task(_watch(reader, gone))
                try:
                    await self.script(asked, Answering(writer, http, gone))
                finally:
                    watching.cancel()
                    await asyncio.wait({watching})
                if http.our_state is not h11.DONE:
                    break
                http.start_next_cycle()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections -= 1
            writer.close()


async def _watch(reader: asyncio.StreamReader, gone: asyncio.Event) -> None:
    # Nobody pipelines here: whatever comes is the end.
    try:
        await reader.read(1)
    except ConnectionError:
        pass
    gone.set()


async def _read(http: h11.Connection, reader: asyncio.StreamReader) -> Asked | None:
    asked: Asked | None = None
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(65_536))
        elif isinstance(event, h11.Request):
            headers = [(name.decode(), value.decode()) for name, value in event.headers]
            asked = Asked(event.method.decode(), event.target.decode(), headers, b"")
        elif isinstance(event, h11.Data):
            assert asked is not None
            asked.body += bytes(event.data)
        else:
            return asked if isinstance(event, h11.EndOfMessage) else None


@asynccontextmanager
async def host(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Host]:
    found = Host("", script)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    found.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    try:
        yield found
    finally:
        server.close()
        async with asyncio.timeout(5):
            while found.connections:
                await asyncio.sleep(0.005)


# --- what models answer ----------------------------------------------------------------------------------------------


def anthropic_usage(
    input_tokens: int = 1200, output_tokens: int = 34, read: int = 0, written: int = 0
) -> dict[str, int]:
    return {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": output_tokens,
    }


def anthropic_stream(text: str = "Hello there", **usage: int) -> list[dict[str, Any]]:
    told = anthropic_usage(**usage)
    return [
        {
            "type": "message_start",
            "message": {"id": "msg_1", "role": "assistant", "usage": {**told, "output_tokens": 1}},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": told["output_tokens"]},
        },
        {"type": "message_stop"},
    ]


def anthropic_message(**usage: int) -> dict[str, Any]:
    content = [{"type": "text", "text": "Hello"}]
    return {"id": "msg_1", "type": "message", "content": content, "usage": anthropic_usage(**usage)}


def chat_usage(prompt: int = 1200, completion: int = 34, cached: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def chat_chunk(content: str, usage: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"id": "c1", "choices": [{"index": 0, "delta": {"content": content}}], "usage": usage}


def response_usage(input_tokens: int = 1200, output_tokens: int = 34, cached: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": input_tokens + output_tokens,
    }


def responses_stream(text: str = "Hello there", **usage: int) -> list[dict[str, Any]]:
    return [
        {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "usage": None}},
        {"type": "response.output_text.delta", "item_id": "m", "delta": text},
        {"type": "response.completed", "response": {"id": "resp_1", "usage": response_usage(**usage)}},
    ]


# --- agents, byte by byte --------------------------------------------------------------------------------------------


@attrs.define
class Reply:
    """An answer as an agent got it.

    :param raw: every byte of it
    :param whole: it ended as it said it would
    """

    raw: bytes = b""
    status: int = 0
    headers: dict[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    whole: bool = False

    def json(self) -> Any:
        return json.loads(self.body)


@attrs.define
class Agent:
    """One connection to the gateway."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    http: h11.Connection = attrs.field(factory=lambda: h11.Connection(h11.CLIENT))

    async def send(self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        lines = {"host": "127.0.0.1", "content-length": str(len(body)), **(headers or {})}
        data = self.http.send(h11.Request(method=method, target=target, headers=list(lines.items()))) or b""
        data += self.http.send(h11.Data(data=body)) or b""
        data += self.http.send(h11.EndOfMessage()) or b""
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, reply: Reply | None = None, *, until: bytes | None = None) -> Reply:
        """The answer, or what there is of it once *until* has come."""
        reply = reply or Reply()
        while until is None or until not in reply.body:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                try:
                    data = await self.reader.read(65_536)
                except ConnectionError:
                    data = b""
                reply.raw += data
                try:
                    self.http.receive_data(data)
                    if not data:
                        self.http.next_event()
                except h11.RemoteProtocolError:
                    return reply
                if not data:
                    return reply
            elif isinstance(event, h11.Response):
                reply.status = event.status_code
                reply.headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                reply.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                reply.whole = True
                if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
                    self.http.start_next_cycle()
                return reply
            elif isinstance(event, h11.ConnectionClosed):
                return reply
        return reply

    def leave(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Agent]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Agent(reader, writer)
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


async def ask(url: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
    """One request to a gateway's *url*; POST with a body, else GET."""
    port, prefix = url.removeprefix("http://127.0.0.1:").split("/", 1)
    async with connected(int(port)) as agent:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        await agent.send("GET" if body is None else "POST", f"/{prefix}{path}", data, headers)
        return await agent.reply()


async def settled(check: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    """Wait until *check* is true; the test's own deadline ends it otherwise."""
    async with asyncio.timeout(10):
        while True:
            value = check()
            if await value if isinstance(value, Awaitable) else value:
                return
            await asyncio.sleep(0.005)
