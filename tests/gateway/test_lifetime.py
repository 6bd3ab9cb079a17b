"""What ends what: agents that leave, streams that are cut, gateways that close and come back."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import AsyncExitStack

import pytest
from egress.harness import Certificates
from gateway.harness import (
    ANTHROPIC,
    OPENAI,
    PRICES,
    SECRETS,
    Answering,
    Asked,
    account,
    anthropic_message,
    anthropic_stream,
    ask,
    connected,
    host,
    responses_stream,
    settled,
)

from boxflow.errors import ConfigurationError
from boxflow.gateway import AccountNotFoundError, Limits, MemoryLedger, ModelGateway
from boxflow.harness import Usage

MESSAGE = {"model": "m", "max_tokens": 100, "messages": "x" * 400, "stream": True}
BODY = json.dumps(MESSAGE).encode()


async def hello(asked: Asked, out: Answering) -> None:
    await out.json(anthropic_message())


async def half(asked: Asked, out: Answering) -> None:
    """Half an answer; then nothing until the other side has gone."""
    await out.begin_events()
    for event in anthropic_stream("x" * 400)[:3]:
        await out.event(event)
    await out.gone.wait()


async def test_when_the_agent_leaves_the_host_knows_at_once_and_what_was_seen_is_charged() -> None:
    async with host(half) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        async with connected(gateway.port) as agent:
            await agent.send("POST", f"/t/{one.token}/v1/messages", BODY)
            await agent.reply(until=b"xxx")
        async with asyncio.timeout(2):
            await settled(lambda: upstream.connections == 0)
        spent = await gateway.spent(one.token)
        assert spent.usage == Usage(input_tokens=1200, output_tokens=100, requests=1)
        assert spent.estimated == 1


async def test_leaving_before_the_answer_begins_is_not_for_free() -> None:
    async def never(asked: Asked, out: Answering) -> None:
        await out.gone.wait()

    async with host(never) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(OPENAI, upstream.url)
        await gateway.open(one)
        async with connected(gateway.port) as agent:
            await agent.send("POST", f"/t/{one.token}/v1/responses", BODY)
            await settled(lambda: upstream.asked != [])
        await settled(lambda: upstream.connections == 0)
        spent = await gateway.spent(one.token)
        assert spent.usage.requests == spent.estimated == 1
        assert 100 <= spent.usage.input_tokens <= 130


async def test_a_stream_that_the_host_cuts_is_cut_for_the_agent_too() -> None:
    async def cuts(asked: Asked, out: Answering) -> None:
        await out.begin_events()
        for event in anthropic_stream("x" * 400)[:3]:
            await out.event(event)
        await asyncio.sleep(0.05)
        out.cut()

    async with host(cuts) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        reply = await ask(gateway.url(one.token), "/v1/messages", MESSAGE)
        assert reply.status == 200 and b"xxx" in reply.body and not reply.whole
        spent = await gateway.spent(one.token)
        assert spent.usage == Usage(input_tokens=1200, output_tokens=100, requests=1)


async def test_closing_an_account_ends_its_streams_and_no_others() -> None:
    async with (
        host(half) as upstream,
        ModelGateway(secrets=SECRETS) as gateway,
        connected(gateway.port) as agent,
        connected(gateway.port) as other_agent,
    ):
        one, other = account(ANTHROPIC, upstream.url), account(ANTHROPIC, upstream.url)
        for each, by in ((one, agent), (other, other_agent)):
            await gateway.open(each)
            await by.send("POST", f"/t/{each.token}/v1/messages", BODY)
            await by.reply(until=b"xxx")
        await gateway.close(one.token)
        assert not (await agent.reply()).whole
        await settled(lambda: upstream.connections == 1)
        assert (await gateway.spent(other.token)).usage == Usage(input_tokens=1200, output_tokens=100, requests=1)


async def test_closing_an_account_ends_a_request_whose_body_still_comes() -> None:
    async with ModelGateway(secrets=SECRETS) as gateway, connected(gateway.port) as agent:
        one = account(ANTHROPIC, "http://127.0.0.1:9")
        await gateway.open(one)
        agent.writer.write(f"POST /t/{one.token}/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n{{".encode())
        await asyncio.sleep(0.1)
        await gateway.close(one.token)
        assert await agent.reader.read() == b""


async def test_what_was_spent_survives_a_restart_on_the_same_port() -> None:
    ledger = MemoryLedger()
    async with host(hello) as upstream:
        one = account(ANTHROPIC, upstream.url, prices=PRICES, max_requests=2)
        async with ModelGateway(ledger, secrets=SECRETS) as gateway:
            await gateway.open(one)
            port, url = gateway.port, gateway.url(one.token)
            await ask(url, "/v1/messages", MESSAGE)
            before = await gateway.spent(one.token)
        async with ModelGateway(ledger, port=port, secrets=SECRETS) as gateway:
            assert gateway.url(one.token) == url
            # Served although nobody has opened it again yet: programs do not wait for that.
            assert (await ask(url, "/v1/messages", MESSAGE)).status == 200
            await gateway.open(one)
            assert (await ask(url, "/v1/messages", MESSAGE)).status == 402
            after = await gateway.spent(one.token)
        assert (after.usage, after.refused) == (before.usage + before.usage, 1)
        assert after.cost_usd == pytest.approx(2 * (before.cost_usd or 0))
        async with ModelGateway(ledger, port=port, secrets=SECRETS) as gateway:
            await gateway.close(one.token)
            assert (await ask(url, "/v1/messages", MESSAGE)).status == 401
        assert ledger._records == {}


async def test_each_request_is_written_down_without_waiting_for_the_end() -> None:
    ledger = MemoryLedger()
    async with host(hello) as upstream, ModelGateway(ledger, secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        await ask(gateway.url(one.token), "/v1/messages", MESSAGE)
        # Another engine would see it: this one could be killed now.
        await settled(lambda: b'"requests":1' in next(iter(ledger._records.values())))


async def test_a_ledger_that_fails_is_tried_again_and_holds_up_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(MemoryLedger):
        fails = False
        puts = 0

        async def put(self, key: str, data: bytes) -> None:
            self.puts += 1
            if self.fails:
                raise OSError("disk full")
            await super().put(key, data)

    monkeypatch.setattr("boxflow.gateway.books._LEDGER_RETRY_S", 0.05)
    ledger = Failing()
    async with host(hello) as upstream, ModelGateway(ledger, secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        ledger.fails = True
        for _ in range(3):
            assert (await ask(gateway.url(one.token), "/v1/messages", MESSAGE)).status == 200
        ledger.fails = False
        await settled(lambda: b'"requests":3' in next(iter(ledger._records.values())))


async def test_many_charges_are_few_writes() -> None:
    class Slow(MemoryLedger):
        puts = 0

        async def put(self, key: str, data: bytes) -> None:
            self.puts += 1
            await asyncio.sleep(0.1)
            await super().put(key, data)

    ledger = Slow()
    async with host(hello) as upstream, ModelGateway(ledger, secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        await asyncio.gather(*(ask(gateway.url(one.token), "/v1/messages", MESSAGE) for _ in range(30)))
    assert b'"requests":30' in next(iter(ledger._records.values()))
    assert ledger.puts < 15


async def test_a_port_that_is_taken_is_said_to_be() -> None:
    async with ModelGateway(secrets=SECRETS) as gateway:
        with pytest.raises(ConfigurationError) as caught:
            await ModelGateway(port=gateway.port).__aenter__()
    assert str(caught.value).startswith("the model gateway cannot listen on 127.0.0.1:")
    assert "stop what does (another engine?), or give it another port" in str(caught.value)


async def test_a_gateway_that_is_not_open_has_no_address() -> None:
    gateway = ModelGateway()
    with pytest.raises(RuntimeError, match="is not open"):
        gateway.url("x")
    with pytest.raises(AccountNotFoundError):
        await gateway.spent("x")


async def test_leaving_ends_everything_and_charges_what_was_seen() -> None:
    ledger = MemoryLedger()
    before = len(asyncio.all_tasks())
    async with host(half) as upstream:
        async with ModelGateway(ledger, secrets=SECRETS) as gateway:
            one, port = account(ANTHROPIC, upstream.url), gateway.port
            await gateway.open(one)
            async with AsyncExitStack() as stack:
                agents = [await stack.enter_async_context(connected(port)) for _ in range(5)]
                for agent in agents[:3]:
                    await agent.send("POST", f"/t/{one.token}/v1/messages", BODY)
                    await agent.reply(until=b"xxx")
                await gateway.__aexit__(None, None, None)
                assert [(await agent.reply()).whole for agent in agents] == [False] * 5
        await settled(lambda: upstream.connections == 0)
    await settled(lambda: len(asyncio.all_tasks()) == before)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    assert b'"requests":3' in next(iter(ledger._records.values()))


async def test_leaving_at_once_leaves_no_socket() -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with ModelGateway():
        pass
    assert len(os.listdir("/proc/self/fd")) <= before + 1


async def test_a_hundred_streams_at_once_are_metered_each_for_itself() -> None:
    async def script(asked: Asked, out: Answering) -> None:
        count = asked.json()["count"]
        events = anthropic_stream if "messages" in asked.target else responses_stream
        await out.begin_events()
        for event in events(input_tokens=count, output_tokens=2 * count):
            await out.event(event)
            await asyncio.sleep(0.01)
        await out.end()

    async with host(script) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        accounts = [account((ANTHROPIC, OPENAI)[at % 2], upstream.url) for at in range(10)]
        for one in accounts:
            await gateway.open(one)

        async def stream(at: int) -> bool:
            one = accounts[at % 10]
            path = "/v1/messages" if one.api is ANTHROPIC else "/v1/responses"
            body = {"stream": True, "count": at + 1}
            return (await ask(gateway.url(one.token), path, body)).whole

        assert all(await asyncio.gather(*map(stream, range(100))))
        for at, one in enumerate(accounts):
            total = sum(range(at + 1, 101, 10))
            spent = await gateway.spent(one.token)
            assert spent.usage == Usage(input_tokens=total, output_tokens=2 * total, requests=10)
            assert spent.estimated == 0


async def test_those_who_say_nothing_make_room_for_those_who_ask() -> None:
    limits = Limits(connections=4, head_s=30, keep_s=30)
    async with host(hello) as upstream, ModelGateway(secrets=SECRETS, limits=limits) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        async with AsyncExitStack() as stack:
            silent = [await stack.enter_async_context(connected(gateway.port)) for _ in range(8)]
            silent[7].writer.write(b"POST /t/x/v1/messages HTTP/1.1\r\n")
            async with asyncio.timeout(3):
                assert (await ask(gateway.url(one.token), "/v1/messages", MESSAGE)).status == 200


async def test_a_head_has_a_deadline_and_a_body_too() -> None:
    limits = Limits(head_s=0.2, body_s=0.2)
    async with host(hello) as upstream, ModelGateway(secrets=SECRETS, limits=limits) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        async with connected(gateway.port) as agent:
            agent.writer.write(b"POST /t/x HTTP/1.1\r\n")
            assert (await agent.reader.readline()).startswith(b"HTTP/1.1 408")
        async with connected(gateway.port) as agent:
            agent.writer.write(
                f"POST /t/{one.token}/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n".encode()
            )
            assert (await agent.reader.readline()).startswith(b"HTTP/1.1 408")
        async with connected(gateway.port) as agent:
            assert await agent.reader.read() == b""
        async with connected(gateway.port) as agent:
            agent.writer.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            assert (await agent.reader.readline()).startswith(b"HTTP/1.1 400")


async def test_an_agent_that_does_not_read_holds_up_only_itself() -> None:
    async def endless(asked: Asked, out: Answering) -> None:
        if asked.json().get("small"):
            await hello(asked, out)
            return
        await out.begin(200, {"content-type": "application/octet-stream"})
        while not out.gone.is_set():
            await out.piece(b"x" * 65_536)

    limits = Limits(idle_s=1.0)
    async with host(endless) as upstream, ModelGateway(secrets=SECRETS, limits=limits) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        async with connected(gateway.port) as agent:
            agent.reader._limit = 1  # type: ignore[attr-defined]  # the transport stops reading at once
            await agent.send("POST", f"/t/{one.token}/v1/messages", BODY)
            assert (await ask(gateway.url(one.token), "/v1/messages", {"small": True})).status == 200
            # The other one is kept for the next request.
            await settled(lambda: upstream.connections == 1)


async def test_an_agent_that_leaves_during_a_tls_handshake_leaves_no_socket(certificates: Certificates) -> None:
    shaking = asyncio.Event()
    ended = asyncio.Event()

    async def no_handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shaking.set()
        while await reader.read(65_536):
            pass
        writer.close()
        ended.set()

    server = await asyncio.start_server(no_handshake, "127.0.0.1", 0)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    limits = Limits(connect_s=0.5)
    async with ModelGateway(secrets=SECRETS, upstream_ca=certificates.ca, limits=limits) as gateway:
        one = account(ANTHROPIC, url)
        await gateway.open(one)
        async with connected(gateway.port) as agent:
            await agent.send("POST", f"/t/{one.token}/v1/messages", BODY)
            await shaking.wait()
        async with asyncio.timeout(5):
            await ended.wait()
    server.close()
