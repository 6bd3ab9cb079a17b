"""What a request is on its way to the model's host, and an answer on its way back."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from egress.harness import Certificates
from gateway.harness import (
    ANTHROPIC,
    KEY,
    OPENAI,
    SECRETS,
    Answering,
    Asked,
    account,
    anthropic_message,
    anthropic_stream,
    ask,
    chat_chunk,
    chat_usage,
    connected,
    host,
    response_usage,
    responses_stream,
)

from boxflow.errors import ConfigurationError
from boxflow.gateway import Limits, MemoryLedger, ModelGateway
from boxflow.harness import ModelApi, Usage

MESSAGE = {"model": "m", "max_tokens": 100, "messages": []}


async def hello(asked: Asked, out: Answering) -> None:
    await out.json(anthropic_message())


@pytest.mark.parametrize(("api", "path"), [(ANTHROPIC, "/v1/messages?beta=true"), (OPENAI, "/v1/responses")])
async def test_the_host_gets_the_key_and_the_agent_s_own_credentials_are_dropped(api: ModelApi, path: str) -> None:
    own = {
        "Authorization": "Bearer of-the-agent",
        "X-Api-Key": "of-the-agent",
        "Api-Key": "of-the-agent",
        "Cookie": "of-the-agent",
        "Proxy-Authorization": "of-the-agent",
        "OpenAI-Organization": "of-the-agent",
        "X-Hop": "of-the-agent",
        "Connection": "close, X-Hop",
        "anthropic-version": "2023-06-01",
        "Accept-Encoding": "br, zstd",
    }
    async with host(hello) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(api, upstream.url + "/base/")
        await gateway.open(one)
        reply = await ask(gateway.url(one.token), path, MESSAGE, own)
        (asked,) = upstream.asked
    assert (reply.status, reply.json()) == (200, anthropic_message())
    assert asked.target == f"/base{path}"
    assert asked.json() == MESSAGE
    assert "of-the-agent" not in str(asked.headers)
    assert one.token not in str(asked.headers) + asked.target
    assert asked.header("x-api-key") == ([KEY] if api is ANTHROPIC else [])
    assert asked.header("authorization") == ([] if api is ANTHROPIC else [f"Bearer {KEY}"])
    assert asked.header("anthropic-version") == ["2023-06-01"]
    assert asked.header("accept-encoding") == ["identity"]


async def test_the_key_is_nowhere_but_at_the_host(caplog: pytest.LogCaptureFixture) -> None:
    async def tells_all(asked: Asked, out: Answering) -> None:
        status = 401 if "err" in asked.body.decode() else 200
        await out.begin(status, {"content-type": "text/event-stream"})
        for letter in f"data: {KEY} {asked.headers}\n\n" + KEY:
            await out.piece(letter)
        await out.end()

    caplog.set_level(logging.DEBUG)
    ledger = MemoryLedger()
    seen = b""
    async with host(tells_all) as upstream, ModelGateway(ledger, secrets=SECRETS) as gateway:
        for api, path in ((ANTHROPIC, "/messages"), (OPENAI, "/chat/completions"), (OPENAI, "/responses")):
            one = account(api, upstream.url)
            await gateway.open(one)
            for body in (MESSAGE, {**MESSAGE, "model": "err"}, b"no JSON"):
                seen += (await ask(gateway.url(one.token), path, body)).raw
            dead = account(api, "http://127.0.0.1:9", max_requests=1)
            await gateway.open(dead)
            seen += (await ask(gateway.url(dead.token), path, MESSAGE)).raw
            seen += repr(one).encode() + repr(gateway).encode()
    assert b"*" * len(KEY) in seen
    for text in (seen.decode(), caplog.text, str(ledger._records)):
        assert KEY not in text
        assert KEY[3:] not in text
    assert one.token not in caplog.text + str(ledger._records)


async def test_a_host_that_repeats_the_key_in_its_headers_does_not_tell_the_agent() -> None:
    async def tells_all(asked: Asked, out: Answering) -> None:
        await out.json({}, headers={"x-key": f"it was {KEY}", "set-cookie": f"key={KEY}"})

    async with host(tells_all) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        reply = await ask(gateway.url(one.token), "/messages", MESSAGE)
    assert reply.headers["x-key"] == "it was " + "*" * len(KEY)
    assert "set-cookie" not in reply.headers
    assert KEY.encode() not in reply.raw


@pytest.mark.parametrize("over_tls", [False, True])
@pytest.mark.parametrize(
    ("api", "path", "events"),
    [
        (ANTHROPIC, "/v1/messages", anthropic_stream(read=10)),
        (OPENAI, "/v1/responses", responses_stream(cached=10)),
        (OPENAI, "/v1/chat/completions", [chat_chunk("Hello"), {"choices": [], "usage": chat_usage(1210, cached=10)}]),
    ],
)
async def test_a_stream_comes_piece_by_piece_and_is_metered(
    api: ModelApi, path: str, events: list[Any], certificates: Certificates, *, over_tls: bool
) -> None:
    may_go_on = asyncio.Event()

    async def slowly(asked: Asked, out: Answering) -> None:
        await out.begin_events()
        await out.event(events[0])
        await may_go_on.wait()
        for event in events[1:]:
            await out.event(event)
        await out.end()

    tls = certificates.server_context() if over_tls else None
    async with (
        host(slowly, tls) as upstream,
        ModelGateway(secrets=SECRETS, upstream_ca=certificates.ca) as gateway,
        connected(gateway.port) as agent,
    ):
        one = account(api, upstream.url)
        await gateway.open(one)
        body = json.dumps({"model": "m", "max_tokens": 100, "stream": True, "stream_options": {"include_usage": True}})
        await agent.send("POST", f"/t/{one.token}{path}", body.encode())
        first = await agent.reply(until=b"\n\n")
        assert json.dumps(events[0]).encode() in first.body and not first.whole
        may_go_on.set()
        reply = await agent.reply(first)
        assert reply.whole
        assert [json.loads(line[6:]) for line in reply.body.decode().splitlines() if line.startswith("data:")] == events
        spent = await gateway.spent(one.token)
        fresh = 1200 if api is ANTHROPIC or "chat" in path else 1190
        assert spent.usage == Usage(input_tokens=fresh, cached_input_tokens=10, output_tokens=34, requests=1)
        assert spent.estimated == 0


@pytest.mark.parametrize(
    ("api", "path", "answer"),
    [
        (ANTHROPIC, "/messages", anthropic_message(written=100)),
        (OPENAI, "/chat/completions", {"choices": [], "usage": chat_usage(1300)}),
        (OPENAI, "/responses", {"output": [], "usage": response_usage(1300)}),
    ],
)
async def test_an_answer_in_one_piece_is_metered(api: ModelApi, path: str, answer: Any) -> None:
    async def script(asked: Asked, out: Answering) -> None:
        await out.json(answer)

    async with host(script) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(api, upstream.url)
        await gateway.open(one)
        reply = await ask(gateway.url(one.token), path, MESSAGE)
        assert reply.json() == answer
        assert "content-length" in reply.headers
        assert (await gateway.spent(one.token)).usage == Usage(input_tokens=1300, output_tokens=34, requests=1)


async def test_a_chat_that_did_not_ask_for_its_usage_does_not_get_it() -> None:
    async def script(asked: Asked, out: Answering) -> None:
        assert asked.json()["stream_options"] == {"include_usage": True}
        await out.events(chat_chunk("Hello"), {"choices": [], "usage": chat_usage()})

    async with host(script) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(OPENAI, upstream.url)
        await gateway.open(one)
        reply = await ask(gateway.url(one.token), "/v1/chat/completions", {"stream": True})
        assert reply.whole and reply.body == f"data: {json.dumps(chat_chunk('Hello'))}\n\n".encode()
        assert (await gateway.spent(one.token)).usage.output_tokens == 34


async def test_a_compressed_answer_is_read_and_passed_on_as_it_was_meant() -> None:
    async def script(asked: Asked, out: Answering) -> None:
        data = gzip.compress(json.dumps(anthropic_message()).encode())
        kind = {"content-type": "application/json", "content-encoding": "gzip", "content-length": str(len(data))}
        await out.begin(200, kind)
        await out.piece(data)
        await out.end()

    async with host(script) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        reply = await ask(gateway.url(one.token), "/v1/messages", MESSAGE)
        assert reply.json() == anthropic_message()
        assert reply.whole and "content-encoding" not in reply.headers
        assert (await gateway.spent(one.token)).usage.input_tokens == 1200


async def test_an_answer_that_cannot_be_metered_is_not_passed_on() -> None:
    async def script(asked: Asked, out: Answering) -> None:
        await out.json({}, headers={"content-encoding": "br"})

    async with host(script) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        assert (await ask(gateway.url(one.token), "/v1/messages", MESSAGE)).status == 502


async def test_what_costs_nothing_is_not_charged() -> None:
    async def script(asked: Asked, out: Answering) -> None:
        await out.json({"input_tokens": 5, "usage": {"input_tokens": 5, "output_tokens": 5}})

    async with host(script) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one, other = account(ANTHROPIC, upstream.url, max_requests=0), account(OPENAI, upstream.url, max_requests=0)
        await gateway.open(one)
        await gateway.open(other)
        assert (await ask(gateway.url(one.token), "/v1/messages/count_tokens", {"messages": []})).status == 200
        assert (await ask(gateway.url(one.token), "/v1/models")).status == 200
        assert (await ask(gateway.url(other.token), "/models/gpt-5.5")).status == 200
        assert (await gateway.spent(one.token)).usage == (await gateway.spent(other.token)).usage == Usage()


@pytest.mark.parametrize(
    ("api", "method", "path"),
    [
        (ANTHROPIC, "POST", "/v1/messages/batches"),
        (ANTHROPIC, "GET", "/v1/messages"),
        (ANTHROPIC, "POST", "/v1/responses"),
        (ANTHROPIC, "POST", "/../v1/messages"),
        (ANTHROPIC, "GET", "/v1/models/../files"),
        (ANTHROPIC, "GET", "/v1/models/%2e%2e/files"),
        (ANTHROPIC, "POST", "/v1/messages/"),
        (OPENAI, "GET", "/v1/responses/resp_1"),
        (OPENAI, "POST", "/v1/batches"),
        (OPENAI, "DELETE", "/v1/models/mine"),
        (OPENAI, "POST", "/http://other.test/v1/responses"),
        (OPENAI, "GET", ""),
    ],
)
async def test_what_cannot_be_metered_is_not_forwarded(api: ModelApi, method: str, path: str) -> None:
    async with host(hello) as upstream, ModelGateway(secrets=SECRETS) as gateway, connected(gateway.port) as agent:
        one = account(api, upstream.url)
        await gateway.open(one)
        await agent.send(method, f"/t/{one.token}{path}", json.dumps(MESSAGE).encode())
        reply = await agent.reply()
        assert reply.status == 404
        assert "forwards what it can meter" in reply.json()["error"]["message"]
        assert upstream.asked == []


async def test_errors_of_the_host_pass_and_cost_nothing() -> None:
    async def script(asked: Asked, out: Answering) -> None:
        error = {
            "type": "error",
            "error": {"type": "rate_limit_error", "message": "slow down"},
            "usage": {"input_tokens": 1},
        }
        await out.json(error, asked.json()["status"], {"retry-after": "7", "request-id": "req_1"})

    async with host(script) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        for status in (400, 401, 429, 500, 529):
            reply = await ask(gateway.url(one.token), "/v1/messages", {**MESSAGE, "status": status})
            assert (reply.status, reply.headers["retry-after"], reply.headers["request-id"]) == (status, "7", "req_1")
            assert reply.json()["error"]["message"] == "slow down"
            # Another try with the same key changes nothing, and claude would make ten.
            assert reply.headers.get("x-should-retry") == ("false" if status == 401 else None)
        assert (await gateway.spent(one.token)).usage == Usage()


async def test_a_host_that_is_not_there_is_told_in_the_agent_s_words() -> None:
    async with ModelGateway(secrets=SECRETS) as gateway:
        one, other = account(ANTHROPIC, "http://127.0.0.1:9"), account(OPENAI, "http://127.0.0.1:9")
        await gateway.open(one)
        await gateway.open(other)
        reply = await ask(gateway.url(one.token), "/v1/messages", MESSAGE)
        message = "boxflow: the model's host '127.0.0.1' does not answer (ConnectError); try again"
        assert reply.status == 502
        assert reply.json() == {"type": "error", "error": {"type": "api_error", "message": message}}
        reply = await ask(gateway.url(other.token), "/v1/responses", MESSAGE)
        assert reply.status == 502
        error = {"message": message, "type": "server_error", "param": None, "code": None}
        assert reply.json() == {"error": error}
        assert (await gateway.spent(one.token)).usage == Usage()


async def test_a_host_that_says_nothing_is_given_up() -> None:
    async def script(asked: Asked, out: Answering) -> None:
        await out.gone.wait()

    async with host(script) as upstream, ModelGateway(secrets=SECRETS, limits=Limits(idle_s=0.2)) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        reply = await ask(gateway.url(one.token), "/v1/messages", MESSAGE)
        assert (reply.status, reply.json()["error"]["type"]) == (504, "timeout_error")


async def test_a_host_of_another_authority_gets_no_key(certificates: Certificates, tmp_path: Path) -> None:
    async with host(hello, certificates.server_context()) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        assert (await ask(gateway.url(one.token), "/v1/messages", MESSAGE)).status == 502
        assert upstream.asked == []
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ConfigurationError, match="cannot be read as PEM"):
        async with ModelGateway(upstream_ca=tmp_path / "ca.pem"):
            pass


async def test_a_proxy_of_the_engine_s_is_not_asked_for_a_host_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with host(hello) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one, away = account(ANTHROPIC, upstream.url), account(ANTHROPIC, "http://model.test")
        await gateway.open(one)
        await gateway.open(away)
        assert (await ask(gateway.url(one.token), "/v1/messages", MESSAGE)).status == 200
        assert (await ask(gateway.url(away.token), "/v1/messages", MESSAGE)).status == 502


async def test_redirects_stay_with_the_host_or_go_no_further() -> None:
    async def script(asked: Asked, out: Answering) -> None:
        await out.begin(307, {"location": asked.json()["to"], "content-length": "0"})
        await out.end()

    async with host(script) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url + "/base")
        await gateway.open(one)
        url = gateway.url(one.token)
        for to in (f"{upstream.url}/base/v1/messages?x=1", "/base/v1/messages?x=1", "messages?x=1"):
            reply = await ask(url, "/v1/messages", {"to": to})
            assert (reply.status, reply.headers["location"]) == (307, f"/t/{one.token}/v1/messages?x=1")
        other_port = upstream.url.replace("http://127.0.0.1:", "http://127.0.0.1:1")[:21]
        for to in (
            "https://elsewhere.test/",
            "//elsewhere.test/base/",
            "/other",
            other_port + "/base/",
            "http://[",
            "",
        ):
            reply = await ask(url, "/v1/messages", {"to": to})
            assert reply.status == (502 if to else 307), to
            assert "elsewhere" not in reply.raw.decode()
        assert len(upstream.asked) == 9


async def test_requests_have_a_size_and_are_not_compressed() -> None:
    limits = Limits(body_bytes=100_000, small_body_bytes=10_000, large_bodies_bytes=200_000)
    async with host(hello) as upstream, ModelGateway(secrets=SECRETS, limits=limits) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        url = gateway.url(one.token)
        fits = json.dumps({"messages": "x" * 90_000}).encode()
        assert (await ask(url, "/v1/messages", fits)).status == 200
        reply = await ask(url, "/v1/messages", b"x" * 100_001)
        assert (reply.status, reply.json()["error"]["type"]) == (413, "request_too_large")
        assert (await ask(url, "/v1/messages", fits, {"content-encoding": "gzip"})).status == 415
        assert (await ask(url, "/v1/messages", fits, {"x-large": "x" * 300_000})).status == 400
        assert (await ask(url, "/v1/messages", MESSAGE)).status == 200


async def test_large_bodies_go_through_whole() -> None:
    async with host(hello) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        image = "iVBO" * 5_000_000
        assert (await ask(gateway.url(one.token), "/v1/messages", {"messages": image})).status == 200
        assert upstream.asked[0].json() == {"messages": image}


async def test_large_bodies_that_come_slowly_hold_up_no_small_ones() -> None:
    limits = Limits(small_body_bytes=1000, large_bodies_bytes=20_000)
    async with (
        host(hello) as upstream,
        ModelGateway(secrets=SECRETS, limits=limits) as gateway,
        connected(gateway.port) as slow,
    ):
        one, other = account(ANTHROPIC, upstream.url), account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        await gateway.open(other)
        head = f"POST /t/{one.token}/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n"
        slow.writer.write(head.encode())
        await asyncio.sleep(0.1)
        large = {"messages": "x" * 5000}
        assert (await ask(gateway.url(one.token), "/v1/messages", MESSAGE)).status == 200
        reply = await ask(gateway.url(one.token), "/v1/messages", large)
        assert (reply.status, reply.headers["retry-after"]) == (429, "1")
        assert (await ask(gateway.url(other.token), "/v1/messages", large)).status == 200
        slow.leave()
        await asyncio.sleep(0.1)
        assert (await ask(gateway.url(one.token), "/v1/messages", large)).status == 200


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with host(hello) as upstream, ModelGateway(secrets=SECRETS) as gateway, connected(gateway.port) as agent:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        for _ in range(3):
            await agent.send("POST", f"/t/{one.token}/v1/messages", json.dumps(MESSAGE).encode())
            assert (await agent.reply()).json() == anthropic_message()
        assert (await gateway.spent(one.token)).usage.requests == 3


async def test_a_body_without_a_length_and_with_expectations_is_read() -> None:
    async with host(hello) as upstream, ModelGateway(secrets=SECRETS) as gateway, connected(gateway.port) as agent:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        head = ["host: x", "transfer-encoding: chunked", "expect: 100-continue", "\r\n"]
        agent.writer.write("\r\n".join([f"POST /t/{one.token}/messages HTTP/1.1", *head]).encode())
        assert (await agent.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        agent.writer.write(b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")
        assert (await agent.reader.readline()).startswith(b"HTTP/1.1 200")
        assert upstream.asked[0].body == b"{}"
