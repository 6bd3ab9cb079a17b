"""A webhook may be called before the wait, more than once, with any method; each call is kept, oldest first."""

from __future__ import annotations

import asyncio
import hmac

import pytest
from behaviour.support import Machine, in_memory, keys, settle, until

from boxflow import Context, Engine, Notified, RunStatus, WaitTimeoutError, Webhook, WebhookRequest, workflow
from boxflow.errors import RunEndedError, WebhookTokenError

hooks: dict[str, Webhook] = {}


@workflow
async def collect(ctx: Context, count: int) -> list[str]:
    hook = hooks[ctx.run_id] = await ctx.create_webhook("done")
    await ctx.wait_for_event("go", "go")
    requests = [await ctx.wait_for_webhook("agent", hook) for _ in range(count)]
    return [f"{request.method} {request.text}" for request in requests]


def post(text: str, method: str = "POST") -> WebhookRequest:
    return WebhookRequest(method=method, body=text.encode())


async def begin(engine: Engine, run_id: str, count: int = 1) -> Webhook:
    run = await engine.start(collect, count, run_id=run_id)
    await until(run, RunStatus.WAITING)
    return hooks[run_id]


async def test_calls_before_the_wait_are_kept_and_taken_oldest_first_also_after_a_crash(machine: Machine) -> None:
    async with machine.crashing(collect) as engine:
        hook = await begin(engine, "r", 3)
        for number, method in enumerate(("POST", "PUT", "GET")):
            assert await engine.deliver_webhook(hook.token, post(str(number), method)) == Notified(kept=True)
    async with machine.running(collect) as engine:
        await engine.notify("go")
        run = await engine.get("r")
        assert await run.result() == ["POST 0", "PUT 1", "GET 2"]
        assert keys(await run.history()) == [
            ("event_arrived", "go", 1),
            ("webhook_arrived", "agent", 1),
            ("webhook_arrived", "agent", 2),
            ("webhook_arrived", "agent", 3),
        ]


async def test_a_call_during_the_wait_wakes_the_run(machine: Machine) -> None:
    async with machine.crashing(collect) as engine:
        hook = await begin(engine, "r")
        await engine.notify("go")
        await until(await engine.get("r"), RunStatus.WAITING)
    async with machine.running(collect, max_resident_runs=0) as engine:
        assert await engine.deliver_webhook(hook.token, post("now")) == Notified(run_ids=("r",))
        assert await (await engine.get("r")).result() == ["POST now"]


async def test_a_call_keeps_its_headers_query_and_body(machine: Machine) -> None:
    got: list[WebhookRequest] = []

    @workflow
    async def main(ctx: Context, payload: None) -> dict[str, int]:
        hook = hooks[ctx.run_id] = await ctx.create_webhook("done")
        request = await ctx.wait_for_webhook("agent", hook)
        got.append(request)
        return request.json(dict[str, int])

    sent = WebhookRequest(
        method="PATCH", headers={"content-type": "application/json", "x-a": "é"}, query={"q": "1"}, body=b'{"n": 1}'
    )
    async with machine.running(main) as engine:
        run = await engine.start(main)
        await until(run, RunStatus.WAITING)
        await engine.deliver_webhook(hooks[run.id].token, sent)
        assert await run.result() == {"n": 1}
    assert got == [sent]


async def test_a_body_of_any_bytes_arrives_as_it_was(machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> bytes:
        hook = hooks[ctx.run_id] = await ctx.create_webhook("done")
        return (await ctx.wait_for_webhook("agent", hook)).body

    body = bytes(range(256)) * 20
    async with machine.running(main, max_payload_bytes=1000) as engine:
        run = await engine.start(main)
        await until(run, RunStatus.WAITING)
        await engine.deliver_webhook(hooks[run.id].token, WebhookRequest(method="POST", body=body))
        assert await run.result() == body


async def test_the_url_is_the_same_after_a_restart_and_belongs_to_the_base_url(machine: Machine) -> None:
    async with machine.crashing(collect, base_url="https://example.org/flow/") as engine:
        before = await begin(engine, "r")
    async with machine.running(collect, base_url="https://example.org/flow/") as engine:
        await engine.notify("go")
        await until(await engine.get("r"), RunStatus.WAITING)
        assert hooks["r"] == before
        assert before.url == f"https://example.org/flow/webhooks/{before.token}"


async def test_each_webhook_of_a_run_has_a_token_of_its_own(memory_machine: Machine) -> None:
    made: list[Webhook] = []

    @workflow
    async def main(ctx: Context, payload: None) -> list[str]:
        made.extend([await ctx.create_webhook("a"), await ctx.create_webhook("a"), await ctx.create_webhook("b")])
        texts = await asyncio.gather(*(ctx.wait_for_webhook("wait", hook) for hook in made))
        return [request.text for request in texts]

    async with memory_machine.running(main) as engine:
        run = await engine.start(main)
        await until(run, RunStatus.WAITING)
        assert len({hook.token for hook in made}) == 3
        for number in (2, 0, 1):
            await engine.deliver_webhook(made[number].token, post(str(number)))
        assert await run.result() == ["0", "1", "2"]


async def test_a_forged_and_a_foreign_token_are_unknown_and_say_the_same(memory_machine: Machine) -> None:
    said: set[str] = set()
    async with memory_machine.running(collect) as engine:
        hook = await begin(engine, "r")
        body, mac = hook.token.split(".")
        forged = [
            "",
            ".",
            "x",
            body,
            f"{body}.",
            f"{body}.{mac}x",
            f"{body}.{mac[:-1]}",
            f"{body}.{mac}.{mac}",
            f"{body}x.{mac}",
            f"{mac}.{body}",
            f"é.{mac}",
            f"{body}.{'A' * len(mac)}",
            hook.token + "=",
            hook.token + "\n",
        ]
        for token in forged:
            with pytest.raises(WebhookTokenError) as caught:
                await engine.deliver_webhook(token, post("x"))
            said.add(str(caught.value))
    async with in_memory().running(collect) as stranger:
        with pytest.raises(WebhookTokenError) as caught:
            await stranger.deliver_webhook(hook.token, post("x"))
        said.add(str(caught.value))
    assert len(said) == 1


async def test_two_engines_with_the_same_secret_understand_each_others_tokens_but_know_only_their_runs(
    memory_machine: Machine,
) -> None:
    async with (
        memory_machine.running(collect, secret="s3cret") as one,
        in_memory().running(collect, secret="s3cret") as two,
    ):
        hook = await begin(one, "r")
        with pytest.raises(WebhookTokenError):
            await two.deliver_webhook(hook.token, post("x"))
        await one.deliver_webhook(hook.token, post("x"))


async def test_every_bit_of_a_token_counts(memory_machine: Machine) -> None:
    async with memory_machine.running(collect) as engine:
        hook = await begin(engine, "r")
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        for place, letter in enumerate(hook.token):
            if letter == ".":
                continue
            for flip in (1, 2, 4, 8, 16, 32):
                other = alphabet[alphabet.index(letter) ^ flip]
                with pytest.raises(WebhookTokenError):
                    await engine.deliver_webhook(hook.token[:place] + other + hook.token[place + 1 :], post("x"))


async def test_a_call_after_the_end_is_refused(memory_machine: Machine) -> None:
    async with memory_machine.running(collect) as engine:
        hook = await begin(engine, "r", 0)
        await engine.notify("go")
        await (await engine.get("r")).result()
        with pytest.raises(RunEndedError):
            await engine.deliver_webhook(hook.token, post("late"))


async def test_a_wait_for_a_webhook_times_out(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        hook = await ctx.create_webhook("done")
        try:
            await ctx.wait_for_webhook("agent", hook, timeout=0.01)
        except WaitTimeoutError as error:
            return str(error)
        return "?"

    async with memory_machine.running(main) as engine:
        assert await engine.run(main) == "wait 'agent' got no call of webhook 'done' within 0.01 s"


async def test_a_step_may_call_the_webhook_that_its_own_run_waits_for(memory_machine: Machine) -> None:
    engines: list[Engine] = []

    async def agent(token: str) -> None:
        await engines[0].deliver_webhook(token, post("from the agent"))

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        hook = await ctx.create_webhook("done")
        await ctx.run("agent", agent, hook.token)
        return (await ctx.wait_for_webhook("answer", hook)).text

    async with memory_machine.running(main) as engine:
        engines.append(engine)
        assert await engine.run(main) == "from the agent"


async def test_many_calls_at_once_are_each_taken_once(machine: Machine) -> None:
    async with machine.running(collect, max_resident_runs=0) as engine:
        hook = await begin(engine, "r", 40)
        sending = asyncio.gather(*(engine.deliver_webhook(hook.token, post(str(n))) for n in range(40)))
        await engine.notify("go")
        await sending
        result = await (await engine.get("r")).result()
        assert sorted(result) == sorted(f"POST {n}" for n in range(40))


async def test_tokens_are_compared_in_constant_time(memory_machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    original = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(len(a))
        return original(a, b)

    async with memory_machine.running(collect) as engine:
        hook = await begin(engine, "r")
        monkeypatch.setattr(hmac, "compare_digest", compare)
        await engine.deliver_webhook(hook.token, post("x"))
        for forged in ("", "x.y", hook.token[:-2]):
            with pytest.raises(WebhookTokenError):
                await engine.deliver_webhook(forged, post("x"))
        await settle()
    assert len(compared) == 4
