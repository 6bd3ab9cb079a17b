"""Who may spend: tokens, and what an account must be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from gateway.harness import ANTHROPIC, KEY, OPENAI, SECRETS, Answering, Asked, account, anthropic_message, ask, host

from boxflow.errors import ConfigurationError
from boxflow.gateway import AccountNotFoundError, MemoryLedger, ModelGateway, Prices, new_token
from boxflow.harness import ModelApi, Usage

MESSAGE = {"model": "m", "max_tokens": 100, "messages": []}


async def hello(asked: Asked, out: Answering) -> None:
    await out.json(anthropic_message())


async def test_a_token_that_was_never_opened_is_refused_in_the_words_of_each_interface() -> None:
    async with ModelGateway(secrets=SECRETS) as gateway:
        url = gateway.url(new_token())
        message = "boxflow: this token is not valid (any more); the run that it was made for has ended"
        reply = await ask(url, "/v1/messages", MESSAGE)
        assert (reply.status, reply.headers["x-should-retry"]) == (401, "false")
        assert reply.json() == {"type": "error", "error": {"type": "authentication_error", "message": message}}
        reply = await ask(url, "/v1/responses", MESSAGE)
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
        assert (reply.status, reply.json()) == (401, {"error": error})


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/t//v1/messages", "/t/", "/", "*", "http://other.test/t/x/v1/messages"]
)
async def test_without_a_token_there_is_no_answer(path: str) -> None:
    async with ModelGateway(secrets=SECRETS) as gateway:
        reply = await ask(f"http://127.0.0.1:{gateway.port}/", path.removeprefix("/"), MESSAGE)
        assert reply.status == 401 if path != "http://other.test/t/x/v1/messages" else reply.status in {400, 401}


async def test_a_closed_token_is_worth_nothing() -> None:
    async with host(hello) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        url = gateway.url(one.token)
        assert (await ask(url, "/v1/messages", MESSAGE)).status == 200
        await gateway.close(one.token)
        await gateway.close(one.token)
        assert (await ask(url, "/v1/messages", MESSAGE)).status == 401
        with pytest.raises(AccountNotFoundError, match="no account of the model gateway has this token; open it first"):
            await gateway.spent(one.token)
        assert len(upstream.asked) == 1


async def test_an_account_spends_for_itself() -> None:
    async with host(hello) as upstream, ModelGateway(secrets=SECRETS) as gateway:
        one, other = account(ANTHROPIC, upstream.url), account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        await gateway.open(other)
        # The credentials that a program sends are not looked at.
        await ask(gateway.url(one.token), "/v1/messages", MESSAGE, {"x-api-key": other.token})
        assert (await gateway.spent(one.token)).usage.requests == 1
        assert (await gateway.spent(other.token)).usage == Usage()


async def test_closing_while_the_ledger_is_read_does_not_open_it_again() -> None:
    class Slow(MemoryLedger):
        def __init__(self) -> None:
            super().__init__()
            self.reading, self.may_go_on = asyncio.Event(), asyncio.Event()

        async def get(self, key: str) -> bytes | None:
            found = await super().get(key)
            self.reading.set()
            await self.may_go_on.wait()
            return found

    ledger = Slow()
    one = account(ANTHROPIC, "http://127.0.0.1:9")
    ledger.may_go_on.set()
    async with ModelGateway(ledger, secrets=SECRETS) as gateway:
        await gateway.open(one)
    ledger.may_go_on.clear()
    ledger.reading.clear()
    async with ModelGateway(ledger, secrets=SECRETS) as gateway:
        asking = asyncio.create_task(ask(gateway.url(one.token), "/v1/messages", MESSAGE))
        await ledger.reading.wait()
        await gateway.close(one.token)
        ledger.may_go_on.set()
        assert (await asking).status == 401


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"token": "short"}, "its token can be guessed, or is no part of a URL; use `new_token()`"),
        ({"token": "x" * 40 + "/"}, "its token can be guessed, or is no part of a URL; use `new_token()`"),
        ({"api": ModelApi.NONE}, "the gateway can meter the interfaces of Anthropic and OpenAI only"),
        ({"upstream": "api.test"}, "is no URL of a host; write https://HOST"),
        ({"upstream": "ftp://api.test"}, "is no URL of a host; write https://HOST"),
        ({"upstream": "https://u:p@api.test"}, "has a user, a query or a fragment; leave them out"),
        ({"upstream": "https://api.test?x"}, "has a user, a query or a fragment; leave them out"),
        ({"key": KEY}, "its key cannot be used: it names no variable; write `$NAME`"),
        ({"key": "$NOWHERE"}, "its key cannot be used: variable 'NOWHERE' is not set where the engine runs"),
        ({"max_cost_usd": 1.0}, "max_cost_usd needs to know what the model costs; give prices"),
        ({"max_requests": -1}, "max_requests must not be negative"),
        ({"max_cost_usd": float("nan"), "prices": Prices(input=1, cached_input=1, output=1)}, "must not be negative"),
    ],
)
async def test_an_account_that_cannot_work_is_refused(changes: dict[str, Any], says: str) -> None:
    async with ModelGateway(secrets=SECRETS) as gateway:
        with pytest.raises(ConfigurationError) as caught:
            await gateway.open(account(**{"api": OPENAI, "upstream": "https://api.test", **changes}))
    assert says in str(caught.value)
    assert str(caught.value).startswith("account 'box/")
    assert KEY not in str(caught.value)


async def test_a_key_that_is_missing_meanwhile_is_told_to_the_agent() -> None:
    secrets = dict(SECRETS)
    async with host(hello) as upstream, ModelGateway(secrets=secrets) as gateway:
        one = account(ANTHROPIC, upstream.url)
        await gateway.open(one)
        secrets["MODEL_KEY"] = "another-key"
        assert (await ask(gateway.url(one.token), "/v1/messages", MESSAGE)).status == 200
        assert upstream.asked[0].header("x-api-key") == ["another-key"]
        del secrets["MODEL_KEY"]
        reply = await ask(gateway.url(one.token), "/v1/messages", MESSAGE)
        assert reply.status == 401
        assert "variable 'MODEL_KEY' is not set where the engine runs; set it there" in reply.json()["error"]["message"]
        assert len(upstream.asked) == 1


async def test_a_host_that_wants_no_key_gets_none() -> None:
    async with host(hello) as upstream, ModelGateway(secrets={}) as gateway:
        one = account(OPENAI, upstream.url, key="")
        await gateway.open(one)
        assert (
            await ask(gateway.url(one.token), "/v1/responses", MESSAGE, {"authorization": "Bearer x"})
        ).status == 200
        assert upstream.asked[0].header("authorization") == []
