"""A webhook made with `verify=` keeps calls of its sender only, each once; whatever else comes leaves nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from behaviour.manual_clock import ManualClock
from behaviour.support import Machine, eventually, in_memory, settle, until

from boxflow import Context, Engine, Notified, RunStatus, Webhook, WebhookRequest, workflow
from boxflow.errors import (
    ConfigurationError,
    EventsFullError,
    WebhookRefusedError,
    WebhookTokenError,
    WebhookUnverifiableError,
)
from boxflow.mail import joined_headers
from boxflow.ports import Store
from boxflow.webhook_ids import AT_ONCE, IDS, KEEP_S, LEAST_S, WebhookIds
from boxflow.webhook_signatures import TOLERANCE_S, Scheme, verify_webhook
from boxflow_backends.file_store import FileStore
from boxflow_backends.memory_store import MemoryStore

NOW = 1_800_000_000
KEY = base64.b64encode(b"a key of twenty-four byte").decode()
SECRETS = {
    "github": "It's a Secret to Everybody",
    "slack": "8f742231b10e8888abcd99yyyzzz85a5",
    "standard-webhooks": KEY,
}
VARIABLES = {"github": "GITHUB_WEBHOOK_SECRET", "slack": "SLACK_SIGNING_SECRET", "standard-webhooks": "WEBHOOK_SECRET"}
SCHEMES: list[Scheme] = ["github", "slack", "standard-webhooks"]

hooks: dict[str, Webhook] = {}
options: dict[str, Any] = {}


def mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def signed(scheme: str, body: bytes = b"{}", *, at: int = NOW, call_id: str = "d-1", secret: str | None = None) -> Any:
    """A call as that sender makes it. Slack gives an id to events only, in their body."""
    secret = SECRETS[scheme] if secret is None else secret
    time = str(at).encode()
    if scheme == "github":
        digest = mac(secret.encode(), body).hex()
        headers = {"x-hub-signature-256": f"sha256={digest}", "x-github-delivery": call_id}
    elif scheme == "slack":
        body = b'{"event_id":"%s","x":%s}' % (call_id.encode(), body)
        digest = mac(secret.encode(), b"v0:", time, b":", body).hex()
        headers = {"x-slack-signature": f"v0={digest}", "x-slack-request-timestamp": str(at)}
    else:
        digest = base64.b64encode(mac(base64.b64decode(secret), call_id.encode(), b".", time, b".", body)).decode()
        headers = {"webhook-id": call_id, "webhook-timestamp": str(at), "webhook-signature": f"v1,{digest}"}
    return WebhookRequest(method="POST", headers=headers, body=body)


def changed(call: WebhookRequest, headers: dict[str, str]) -> WebhookRequest:
    return WebhookRequest(method="POST", headers={**call.headers, **headers}, body=call.body)


@workflow
async def collect(ctx: Context, count: int) -> list[str]:
    hook = hooks[ctx.run_id] = await ctx.create_webhook("calls", **options)
    await ctx.wait_for_event("go", "go")
    return [(await ctx.wait_for_webhook("call", hook)).body.decode() for _ in range(count)]


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    options.clear()
    for scheme, name in VARIABLES.items():
        monkeypatch.setenv(name, SECRETS[scheme])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


async def begin(engine: Engine, run_id: str, count: int = 1, **made_with: Any) -> Webhook:
    options.update(made_with)
    await until(await engine.start(collect, count, run_id=run_id), RunStatus.WAITING)
    return hooks[run_id]


async def kept(engine: Engine) -> int:
    return len(await engine.store.list_items("mail"))


# --- who is let in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_call_of_the_sender_is_kept_also_by_an_engine_that_has_not_run_the_body(
    machine: Machine, clock: ManualClock, scheme: Scheme
) -> None:
    async with machine.crashing(collect, clock=clock) as engine:
        hook = await begin(engine, "r", verify=scheme)
    async with machine.running(collect, clock=clock, max_resident_runs=0) as engine:
        call = signed(scheme, b'{"n": 1}')
        assert await engine.deliver_webhook(hook.token, call) == Notified(kept=True)
        await engine.notify("go")
        assert await (await engine.get("r")).result() == [call.body.decode()]


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_what_the_sender_has_not_signed_is_refused_and_leaves_nothing(scheme: Scheme, clock: ManualClock) -> None:
    good = signed(scheme)
    name = next(name for name in good.headers if "signature" in name)
    signature = good.headers[name]
    bad = {
        "signature does not match": [
            WebhookRequest(method="POST", headers=good.headers, body=good.body + b" "),
            WebhookRequest(method="POST", headers=good.headers),
            signed(scheme, secret=base64.b64encode(b"another secret of theirs").decode()),
            changed(good, {name: signature[:-1]}),
            changed(good, {name: signature + "x"}),
            changed(good, {name: signature.partition("=" if "=" in signature[:8] else ",")[2]}),
            changed(good, {name: "é\x00" * 10_000}),
            changed(good, {name: "v1a,x v2," if scheme == "standard-webhooks" else f"{signature}, {signature}"}),
        ],
        f"header {name}": [
            WebhookRequest(method="POST", headers={k: v for k, v in good.headers.items() if k != name}, body=good.body),
            changed(good, {name: " "}),
        ],
    }
    async with in_memory().running(collect, clock=clock) as engine:
        hook = await begin(engine, "r", verify=scheme)
        for reason, calls in bad.items():
            for call in calls:
                with pytest.raises(WebhookRefusedError, match=f"(?i){reason}"):
                    await engine.deliver_webhook(hook.token, call)
        assert await kept(engine) == 0
        assert await engine.store.list_items(IDS) == []
        assert await engine.deliver_webhook(hook.token, good) == Notified(kept=True)


@pytest.mark.parametrize("scheme", ["slack", "standard-webhooks"])
async def test_stale_calls_and_calls_from_the_future_are_refused(scheme: Scheme, clock: ManualClock) -> None:
    async with in_memory().running(collect, clock=clock) as engine:
        hook = await begin(engine, "r", verify=scheme)
        for at, reason in (
            (NOW - TOLERANCE_S - 1, "more than 300 s ago"),
            (NOW + TOLERANCE_S + 1, "in the future"),
            (0, "more than 300 s ago"),
            (10**12, "not a number of seconds"),
            (-NOW, "not a number of seconds"),
        ):
            with pytest.raises(WebhookRefusedError, match=reason):
                await engine.deliver_webhook(hook.token, signed(scheme, at=at))
        assert await kept(engine) == 0
        for number, at in enumerate((NOW - TOLERANCE_S, NOW + TOLERANCE_S)):
            await engine.deliver_webhook(hook.token, signed(scheme, at=at, call_id=f"in-time-{number}"))
        assert await kept(engine) == 2


def test_the_examples_of_github_and_of_standard_webhooks_are_verified() -> None:
    # docs.github.com, "Validating webhook deliveries", "Testing the webhook payload validation".
    digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    headers = {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Delivery": "72d3162e"}
    given = {"headers": headers, "body": b"Hello, World!"}
    assert verify_webhook("github", "It's a Secret to Everybody", **given) == "72d3162e"  # type: ignore[arg-type] # a table of arguments
    # standardwebhooks.com, specification 1.0, "Verifying webhook authenticity" and the examples of its libraries.
    call = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    secret, body = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    for spelled in (secret, f"whsec_{secret}"):
        found = verify_webhook("standard-webhooks", spelled, headers=call, body=body, now=1614265330)
        assert found == "msg_p5jXN8AQM9LWM0D4loKWxJek"


def test_the_example_of_slack_is_verified() -> None:
    # api.slack.com, "Verifying requests from Slack", step by step.
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name="
        b"foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2F"
        b"hooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015"
        b".47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    signature = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    headers = {"X-Slack-Signature": signature, "X-Slack-Request-Timestamp": "1531420618"}
    secret = "8f742231b10e8888abcd99yyyzzz85a5"
    assert verify_webhook("slack", secret, headers=headers, body=body, now=1531420618) == signature


def test_one_of_several_standard_signatures_is_enough_also_where_a_proxy_joined_two_headers() -> None:
    call = signed("standard-webhooks")
    right, wrong = call.headers["webhook-signature"], signed("standard-webhooks", b"x").headers["webhook-signature"]
    for signature in (
        f"{wrong} {right}",
        f"{right} {wrong}",
        f"v1a,x {right}",
        f"{wrong}, {right}",
        f"{right}, {wrong}",
    ):
        headers = {**call.headers, "webhook-signature": signature}
        assert verify_webhook("standard-webhooks", KEY, headers=headers, body=call.body, now=NOW) == "d-1"


class Repeated(Mapping[str, str]):
    """Headers as web frameworks give them: `items` has all, `get` the first."""

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self.pairs = pairs

    def __getitem__(self, key: str) -> str:
        return next(value for name, value in self.pairs if name == key)

    def __iter__(self) -> Any:
        return iter([name for name, _ in self.pairs])

    def __len__(self) -> int:
        return len(self.pairs)

    def items(self) -> Any:
        return self.pairs


def test_a_second_signature_header_is_refused_whichever_of_them_is_right() -> None:
    call = signed("github")
    right = ("x-hub-signature-256", call.headers["x-hub-signature-256"])
    delivery = ("x-github-delivery", "d-1")
    verify_webhook("github", SECRETS["github"], headers=Repeated(right, delivery), body=call.body)
    for headers in (Repeated(right, right, delivery), Repeated(("X-Hub-Signature-256", "x"), right, delivery)):
        with pytest.raises(WebhookRefusedError, match="X-Hub-Signature-256 is there more than once"):
            verify_webhook("github", SECRETS["github"], headers=headers, body=call.body)


def test_a_github_call_without_a_delivery_id_is_refused() -> None:
    headers = {"X-Hub-Signature-256": signed("github").headers["x-hub-signature-256"]}
    with pytest.raises(WebhookRefusedError, match="header X-GitHub-Delivery is missing"):
        verify_webhook("github", SECRETS["github"], headers=headers, body=b"{}")


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_signatures_are_compared_in_constant_time(
    scheme: Scheme, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    original = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(len(b))
        return original(a, b)

    async with in_memory().running(collect, clock=clock) as engine:
        hook = await begin(engine, "r", verify=scheme)
        monkeypatch.setattr(hmac, "compare_digest", compare)
        await engine.deliver_webhook(hook.token, signed(scheme))
        with pytest.raises(WebhookRefusedError):
            await engine.deliver_webhook(hook.token, signed(scheme, secret=base64.b64encode(b"x" * 24).decode()))
    assert len(compared) == 4


# --- the same call again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_call_that_comes_again_is_answered_and_delivered_once_also_after_a_crash(
    machine: Machine, clock: ManualClock, scheme: Scheme
) -> None:
    async with machine.crashing(collect, clock=clock) as engine:
        hook = await begin(engine, "r", 2, verify=scheme)
        assert await engine.deliver_webhook(hook.token, signed(scheme)) == Notified(kept=True)
        assert await engine.deliver_webhook(hook.token, signed(scheme)) == Notified()
    async with machine.crashing(collect, clock=clock) as engine:
        assert await engine.deliver_webhook(hook.token, signed(scheme)) == Notified()
        await engine.notify("go")
        run = await engine.get("r")
        await until(run, RunStatus.WAITING)
        await eventually(lambda: _has_taken(engine, 1))
    async with machine.running(collect, clock=clock) as engine:
        clock.advance(60)
        # Taken long ago, and signed anew: it is known all the same.
        assert await engine.deliver_webhook(hook.token, signed(scheme, at=NOW + 60)) == Notified()
        other = signed(scheme, call_id="d-2")
        assert await engine.deliver_webhook(hook.token, other) == Notified(run_ids=("r",))
        assert await (await engine.get("r")).result() == [signed(scheme).body.decode(), other.body.decode()]
        assert await engine.store.list_items(IDS) == []


async def _has_taken(engine: Engine, count: int) -> bool:
    return [one.kind for one in await (await engine.get("r")).history()].count("webhook_arrived") == count


async def test_of_many_that_bring_one_call_at_once_one_delivers_it(machine: Machine, clock: ManualClock) -> None:
    async with machine.running(collect, clock=clock) as engine:
        hook = await begin(engine, "r", 4, verify="github")
        calls = [signed("github", b"%d" % number, call_id=f"d-{number}") for number in range(4)]
        sent = [engine.deliver_webhook(hook.token, call) for call in calls * 25]
        answers = await asyncio.gather(*sent, engine.notify("go"))
        run = await engine.get("r")
        assert sorted(await run.result()) == ["0", "1", "2", "3"]
        assert sum(answer in (Notified(kept=True), Notified(run_ids=("r",))) for answer in answers[:-1]) == 4


async def test_a_call_whose_sender_saw_no_answer_is_not_lost_and_not_doubled(
    tmp_path: Path, clock: ManualClock
) -> None:
    """The process dies at any moment of a delivery; the sender tries again until it is answered."""
    machine = Machine(lambda: FileStore(str(tmp_path / "state"), durability="os"), clock=clock)
    async with machine.crashing(collect) as engine:
        hook = await begin(engine, "r", 6, verify="github")
    for turns in range(12):
        call = signed("github", b"%d" % (turns // 2), call_id=f"d-{turns // 2}")
        async with machine.crashing(collect) as engine:
            sending = asyncio.create_task(engine.deliver_webhook(hook.token, call))
            await settle(turns)
            await asyncio.sleep(0.0002 * turns)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    async with machine.running(collect) as engine:
        for number in range(6):
            await engine.deliver_webhook(hook.token, signed("github", b"%d" % number, call_id=f"d-{number}"))
        await engine.notify("go")
        assert sorted(await (await engine.get("r")).result()) == ["0", "1", "2", "3", "4", "5"]
        assert await kept(engine) == 0


async def test_each_webhook_has_ids_of_its_own(clock: ManualClock) -> None:
    async with in_memory().running(collect, clock=clock) as engine:
        for run_id in ("a", "b"):
            hook = await begin(engine, run_id, verify="github")
            assert await engine.deliver_webhook(hook.token, signed("github")) == Notified(kept=True)


@pytest.mark.parametrize("name", ["idempotency-key", "webhook-id"])
async def test_without_a_check_the_id_is_the_one_that_the_sender_gives(name: str) -> None:
    async with in_memory().running(collect) as engine:
        hook = await begin(engine, "r")
        call = WebhookRequest(method="POST", headers={name: "a"}, body=b"1")
        answers = [await engine.deliver_webhook(hook.token, call) for _ in range(2)]
        assert answers == [Notified(kept=True), Notified()]
        bare = WebhookRequest(method="POST", body=b"2")
        assert [await engine.deliver_webhook(hook.token, bare) for _ in range(2)] == [Notified(kept=True)] * 2


async def test_a_resumed_run_still_knows_what_it_has_taken(clock: ManualClock) -> None:
    broken = True

    async def fail() -> None:
        if broken:
            raise ValueError("broken")

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        hook = hooks[ctx.run_id] = await ctx.create_webhook("calls", verify="github")
        call = await ctx.wait_for_webhook("call", hook)
        await ctx.run("fail", fail)
        return call.text

    async with in_memory().running(main, clock=clock) as engine:
        run = await engine.start(main, run_id="r")
        await until(run, RunStatus.WAITING)
        await engine.deliver_webhook(hooks["r"].token, signed("github", b"1"))
        await until(run, RunStatus.FAILED)
        assert len(await engine.store.list_items(IDS)) == 1
        broken = False
        await run.resume()
        assert await run.result() == "1"
        assert await engine.store.list_items(IDS) == []


async def test_ids_go_after_a_week(clock: ManualClock) -> None:
    async with in_memory().running(collect, clock=clock) as engine:
        hook = await begin(engine, "r", verify="github")
        await engine.deliver_webhook(hook.token, signed("github"))
        clock.advance(KEEP_S + 61)
        await eventually(lambda: _forgotten(engine))
        assert await engine.deliver_webhook(hook.token, signed("github")) == Notified(kept=True)


async def _forgotten(engine: Engine) -> bool:
    return await engine.store.list_items(IDS) == []


async def test_with_too_many_ids_the_oldest_goes_but_none_that_could_still_be_replayed(clock: ManualClock) -> None:
    @attrs.define
    class Hub:
        clock: ManualClock
        store: Store

    async with MemoryStore() as store:
        ids = WebhookIds(Hub(clock, store), max_ids=3)
        for key in "abc":
            await store.change_items(ids.remember("r", key))
            clock.advance(1)
        with pytest.raises(EventsFullError, match="3 webhook calls with ids have come within 900 s"):
            ids.remember("r", "d")
        await store.change_items(ids.remember("r", "a"))
        clock.advance(LEAST_S + 1)
        await store.change_items(ids.remember("r", "d"))
        assert [item.key for item in await store.list_items(IDS)] == ["a", "c", "d"]
        again = WebhookIds(Hub(clock, store), max_ids=3)
        await again.recover()
        await store.change_items(again.remember("r", "e"))
        assert [item.key for item in await store.list_items(IDS)] == ["a", "d", "e"]


async def test_more_calls_at_once_than_one_change_keeps_are_each_delivered_once_and_in_order(machine: Machine) -> None:
    count = 2 * AT_ONCE + 7
    async with machine.running(collect) as engine:
        hook = await begin(engine, "r", count, verify="github")
        calls = [signed("github", b"%d" % number, call_id=f"d-{number}") for number in range(count)]
        answers = await asyncio.gather(*(engine.deliver_webhook(hook.token, call) for call in calls))
        assert answers == [Notified(kept=True)] * count
        await engine.notify("go")
        assert await (await engine.get("r")).result() == [str(number) for number in range(count)]


async def test_a_sender_that_hangs_up_takes_no_other_call_with_it() -> None:
    async with in_memory().running(collect) as engine:
        hook = await begin(engine, "r", 1)
        first = asyncio.create_task(engine.deliver_webhook(hook.token, WebhookRequest(method="POST", body=b"1")))
        second = asyncio.create_task(engine.deliver_webhook(hook.token, WebhookRequest(method="POST", body=b"2")))
        await settle(1)
        first.cancel()
        assert await second == Notified(kept=True)


async def test_a_full_mailbox_refuses_what_does_not_fit_and_a_retry_is_not_taken_for_known() -> None:
    async with in_memory().running(collect, max_kept_events=2) as engine:
        hook = await begin(engine, "r", 3, verify="github")
        calls = [signed("github", b"%d" % number, call_id=f"d-{number}") for number in range(3)]
        sent = await asyncio.gather(*(engine.deliver_webhook(hook.token, one) for one in calls), return_exceptions=True)
        assert sent[:2] == [Notified(kept=True)] * 2
        assert isinstance(sent[2], EventsFullError)
        await engine.notify("go")
        await eventually(lambda: _has_taken(engine, 2))
        await engine.deliver_webhook(hook.token, calls[2])
        assert await (await engine.get("r")).result() == ["0", "1", "2"]


# --- functions of the user's ------------------------------------------------------------------------------------------


def by_password(call: WebhookRequest) -> bool:
    return call.headers.get("x-password") == "open sesame"


async def with_secret(call: WebhookRequest, secret: str) -> str | bool:
    await asyncio.sleep(0)
    return call.headers["x-id"] if call.text == secret else False


def forgetful(call: WebhookRequest) -> Any:
    return None


def refusing(call: WebhookRequest) -> bool:
    raise WebhookRefusedError("not on Sundays")


def broken(call: WebhookRequest, secret: str) -> bool:
    raise ValueError(f"cannot read {secret}")


async def test_a_function_decides_with_the_secret_or_without(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_SECRET", "s3cret")
    async with machine.crashing(collect) as engine:
        plain = await begin(engine, "plain", verify=by_password)
        options.clear()
        secret = await begin(engine, "secret", verify=with_secret, secret="${TEAM_SECRET}")
    async with machine.running(collect) as engine:
        right = WebhookRequest(method="POST", headers={"x-password": "open sesame"})
        assert [await engine.deliver_webhook(plain.token, right) for _ in range(2)] == [Notified(kept=True)] * 2
        with pytest.raises(WebhookRefusedError, match="verifies webhook 'calls' did not accept it"):
            await engine.deliver_webhook(plain.token, WebhookRequest(method="POST"))
        right = WebhookRequest(method="POST", headers={"x-id": "1"}, body=b"s3cret")
        answers = [await engine.deliver_webhook(secret.token, right) for _ in range(2)]
        assert answers == [Notified(kept=True), Notified()]


@pytest.mark.parametrize(
    ("verify", "error", "message"),
    [(forgetful, WebhookRefusedError, "did not accept"), (refusing, WebhookRefusedError, "not on Sundays")],
)
async def test_a_function_that_says_nothing_has_refused(
    verify: Callable[..., Any], error: type[Exception], message: str
) -> None:
    async with in_memory().running(collect) as engine:
        hook = await begin(engine, "r", verify=verify)
        with pytest.raises(error, match=message):
            await engine.deliver_webhook(hook.token, WebhookRequest(method="POST"))
        assert await kept(engine) == 0


def nested() -> Callable[[WebhookRequest], bool]:
    def inside(call: WebhookRequest) -> bool:
        return True

    return inside


@pytest.mark.parametrize(
    ("made_with", "message"),
    [
        ({"verify": "gitlab"}, "verify='gitlab' is no known scheme; give one of 'github', 'slack'"),
        ({"secret": "$X"}, "a webhook got `secret=` and no `verify=`"),
        ({"verify": lambda call: True}, "cannot be found again by a name after a restart"),
        ({"verify": nested()}, "cannot be found again by a name after a restart"),
        ({"verify": "github", "secret": "hunter2"}, "names no variable; write '\\$NAME'"),
        ({"verify": "github", "secret": "$A$B"}, "names no variable"),
        ({"verify": "github", "secret": ""}, "names no variable"),
    ],
)
async def test_what_cannot_be_verified_later_is_refused_in_the_body(made_with: dict[str, Any], message: str) -> None:
    refused: list[str] = []

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        try:
            await ctx.create_webhook("calls", **made_with)
        except ConfigurationError as error:
            refused.append(str(error))

    async with in_memory().running(main) as engine:
        await engine.run(main)
    with pytest.raises(ConfigurationError, match=message):
        raise ConfigurationError(refused[0])
    assert "hunter2" not in refused[0]


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made_with", "variable", "value", "logged"),
    [
        ({"verify": "github"}, "GITHUB_WEBHOOK_SECRET", "", "variable 'GITHUB_WEBHOOK_SECRET' is not set"),
        ({"verify": "github", "secret": "$MINE"}, "MINE", "", "variable 'MINE' is not set"),
        ({"verify": "standard-webhooks"}, "WEBHOOK_SECRET", "no-base64!", "must be in base64"),
        ({"verify": broken, "secret": "$MINE"}, "MINE", "hunter2", "raised ValueError"),
    ],
)
async def test_an_engine_that_cannot_verify_says_so_in_its_log_and_tells_nobody_a_secret(
    made_with: dict[str, Any],
    variable: str,
    value: str,
    logged: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(variable, value)
    async with in_memory().running(collect) as engine:
        hook = await begin(engine, "r", **made_with)
        with caplog.at_level(logging.ERROR), pytest.raises(WebhookUnverifiableError) as caught:
            await engine.deliver_webhook(hook.token, signed("github"))
        assert await kept(engine) == 0
        # Once it is set, nobody has to restart anything.
        monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", SECRETS["github"])
        if made_with == {"verify": "github"}:
            await engine.deliver_webhook(hook.token, signed("github"))
    assert (
        str(caught.value) == "calls of webhook 'calls' cannot be verified now; the engine's log says why, retry later"
    )
    assert logged in caplog.text and "'r'" in caplog.text
    assert value == "" or value not in caplog.text + repr(caught.value) + caught.value.reason


async def test_no_secret_is_in_the_token_the_journal_or_the_store(tmp_path: Path, clock: ManualClock) -> None:
    store = FileStore(str(tmp_path / "state"), durability="os")
    async with Engine([collect], store=store, clock=clock) as engine:
        hook = await begin(engine, "r", verify="github")
        await engine.deliver_webhook(hook.token, signed("github"))
        await engine.notify("go")
        await (await engine.get("r")).result()
    said = base64.urlsafe_b64decode(hook.token.split(".")[1] + "===")
    assert said == b'["r","calls","github","GITHUB_WEBHOOK_SECRET"]'
    written = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
    assert b"GITHUB" not in written.replace(b"x-github-delivery", b"")
    assert SECRETS["github"].encode() not in written + hook.url.encode()


# --- tokens -----------------------------------------------------------------------------------------------------------


async def test_a_check_cannot_be_taken_off_a_token_and_tokens_of_before_stay_valid(clock: ManualClock) -> None:
    async with in_memory().running(collect, clock=clock, secret="s") as engine:
        hook = await begin(engine, "r", verify="github")
        body, tag = hook.token.removeprefix("v.").split(".")
        plain = base64.urlsafe_b64encode(b'["r","calls"]').decode().rstrip("=")
        for forged in (
            f"{body}.{tag}",
            f"v.{plain}.{tag}",
            f"{plain}.{tag}",
            f"v.v.{body}.{tag}",
            f"v.{body}",
            "v.",
            "v",
        ):
            with pytest.raises(WebhookTokenError):
                await engine.deliver_webhook(forged, signed("github"))
        # As it was made before webhooks could be verified.
        old = mac(b"s", b"boxflow webhook\0", b'["r","calls"]')[:20]
        token = f"{plain}.{base64.urlsafe_b64encode(old).decode().rstrip('=')}"
        with pytest.raises(WebhookTokenError):
            await engine.deliver_webhook(f"v.{token}", signed("github"))
        assert await engine.deliver_webhook(token, WebhookRequest(method="GET")) == Notified(kept=True)


def test_a_repeated_header_keeps_all_its_values() -> None:
    pairs = [("X-A", "1"), ("Cookie", "a=1"), ("x-a", "2, 3"), ("cookie", "b=2"), ("X-B", "é")]
    assert joined_headers(pairs) == {"x-a": "1, 2, 3", "cookie": "a=1; b=2", "x-b": "é"}
