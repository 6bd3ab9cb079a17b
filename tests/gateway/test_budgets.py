"""How much may be spent, and what an agent reads when it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
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
    host,
    response_usage,
    settled,
)

from boxflow.gateway import Limits, ModelGateway

MESSAGE = {"model": "m", "max_tokens": 5000, "messages": []}
# 1200 tokens of input for 3 USD a million, 34 of output for 15.
COST_USD = 0.00411


async def script(asked: Asked, out: Answering) -> None:
    usage = response_usage()
    await out.json(anthropic_message() if "messages" in asked.target else {"output": [], "usage": usage})


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"max_requests": 2}, "2 of 2 requests were made"),
        ({"max_output_tokens": 68}, "68 of 68 output tokens were made"),
        ({"max_cost_usd": COST_USD * 1.9, "prices": PRICES}, "0.0082 of 0.0078 USD are spent"),
    ],
)
async def test_once_a_limit_is_reached_requests_are_refused_such_that_programs_stop(limits: Any, says: str) -> None:
    async with host(script) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        for api, path in ((ANTHROPIC, "/v1/messages"), (OPENAI, "/v1/responses")):
            one = account(api, upstream.url, name="run/port", **limits)
            await gateway.open(one)
            url = gateway.url(one.token)
            statuses = [(await ask(url, path, MESSAGE)).status for _ in range(2)]
            assert statuses == [200, 200]
            reply = await ask(url, path, MESSAGE)
            message = f"boxflow: the budget of 'run/port' is spent: {says}"
            assert reply.headers["x-should-retry"] == "false"
            if api is ANTHROPIC:
                assert reply.status == 402
                assert reply.json() == {"type": "error", "error": {"type": "billing_error", "message": message}}
            else:
                assert reply.status == 400
                quota = "insufficient_quota"
                assert reply.json() == {"error": {"message": message, "type": quota, "param": None, "code": quota}}
            await ask(url, path, MESSAGE)
            spent = await gateway.spent(one.token)
            assert (spent.usage.requests, spent.refused) == (2, 2)
        assert len(upstream.asked) == 4


async def test_what_is_left_limits_the_next_answer() -> None:
    async with host(script) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url, max_output_tokens=1000)
        two = account(OPENAI, upstream.url, max_cost_usd=0.015, prices=PRICES)
        await gateway.open(one)
        await gateway.open(two)
        for _ in range(2):
            await ask(gateway.url(one.token), "/v1/messages", MESSAGE)
        await ask(gateway.url(two.token), "/v1/responses", {"model": "m"})
        asked = [request.json() for request in upstream.asked]
    assert [request.get("max_tokens") for request in asked[:2]] == [1000, 966]
    assert asked[2]["max_output_tokens"] == 1000


async def test_the_cost_is_told_where_prices_are_known() -> None:
    async def cached(asked: Asked, out: Answering) -> None:
        await out.json(anthropic_message(input_tokens=1000, output_tokens=100, read=10_000, written=2000))

    async with host(cached) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one, other = account(ANTHROPIC, upstream.url, prices=PRICES), account(ANTHROPIC, upstream.url)
        for each in (one, other):
            await gateway.open(each)
            await ask(gateway.url(each.token), "/v1/messages", MESSAGE)
        assert (await gateway.spent(one.token)).cost_usd == pytest.approx(0.003 + 0.003 + 0.0075 + 0.0015)
        assert (await gateway.spent(other.token)).cost_usd is None
        assert (await gateway.spent(other.token)).usage.input_tokens == 3000


async def test_requests_that_are_being_answered_count() -> None:
    may_go_on = asyncio.Event()

    async def slowly(asked: Asked, out: Answering) -> None:
        await out.begin_events()
        for event in anthropic_stream("x" * 400)[:3]:
            await out.event(event)
        await may_go_on.wait()
        await out.end()

    async with host(slowly) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url, max_requests=1)
        two = account(ANTHROPIC, upstream.url, max_output_tokens=90)
        for each in (one, two):
            await gateway.open(each)
            asking = asyncio.create_task(ask(gateway.url(each.token), "/v1/messages", MESSAGE))
            await settled(lambda: upstream.asked != [])
            upstream.asked.clear()
            await asyncio.sleep(0.05)
            assert (await ask(gateway.url(each.token), "/v1/messages", MESSAGE)).status == 402
            assert upstream.asked == []
            may_go_on.set()
            assert (await asking).status == 200
            may_go_on.clear()


async def test_an_account_makes_so_many_requests_at_once() -> None:
    async def never(asked: Asked, out: Answering) -> None:
        await out.gone.wait()

    async with host(never) as upstream, ModelGateway(secrets=SECRETS, limits=Limits(account_requests=2)) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        asking = [asyncio.create_task(ask(gateway.url(one.token), "/v1/messages", MESSAGE)) for _ in range(2)]
        await settled(lambda: len(upstream.asked) == 2)
        reply = await ask(gateway.url(one.token), "/v1/messages", MESSAGE)
        assert (reply.status, reply.headers["retry-after"]) == (429, "1")
        assert "x-should-retry" not in reply.headers
        await gateway.close(one.token)
        await asyncio.gather(*asking)


async def test_new_limits_hold_and_what_was_spent_stays() -> None:
    async with host(script) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url, max_requests=1)
        await gateway.open(one)
        await ask(gateway.url(one.token), "/v1/messages", MESSAGE)
        assert (await ask(gateway.url(one.token), "/v1/messages", MESSAGE)).status == 402
        await gateway.open(account(ANTHROPIC, upstream.url, token=one.token, max_requests=2))
        assert (await ask(gateway.url(one.token), "/v1/messages", MESSAGE)).status == 200
        assert (await ask(gateway.url(one.token), "/v1/messages", MESSAGE)).status == 402
        assert (await gateway.spent(one.token)).usage.requests == 2


async def test_what_costs_nothing_takes_its_place_but_is_no_request_of_the_budget() -> None:
    async def never(asked: Asked, out: Answering) -> None:
        if "count" in asked.target:
            await out.gone.wait()
        else:
            await script(asked, out)

    async with host(never) as upstream, ModelGateway(secrets=SECRETS, limits=Limits(account_requests=2)) as gateway:
        one = account(ANTHROPIC, upstream.url, max_requests=1)
        await gateway.open(one)
        url = gateway.url(one.token)
        asking = [asyncio.create_task(ask(url, "/v1/messages/count_tokens", MESSAGE))]
        await settled(lambda: len(upstream.asked) == 1)
        assert (await ask(url, "/v1/messages", MESSAGE)).status == 200
        asking.append(asyncio.create_task(ask(url, "/v1/messages/count_tokens", MESSAGE)))
        await settled(lambda: len(upstream.asked) == 3)
        assert (await ask(url, "/v1/models")).status == 429
        await gateway.close(one.token)
        assert [reply.whole for reply in await asyncio.gather(*asking)] == [False, False]
