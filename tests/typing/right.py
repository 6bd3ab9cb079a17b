"""Calls that users write, which mypy strict and pyright strict must accept, with the types they must infer."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, assert_type
from uuid import UUID

from starlette.applications import Starlette

from boxflow import (
    Box,
    Boxes,
    ChildFailedError,
    Context,
    Egress,
    Engine,
    ExecResult,
    GitAuth,
    Job,
    JobInfo,
    NonRetryableError,
    Notified,
    Outcome,
    OutputChunk,
    Response,
    Retry,
    RetryAfterError,
    Run,
    RunFailure,
    RunStatus,
    Session,
    Snapshot,
    StepInfo,
    TerminalSize,
    Webhook,
    WebhookRequest,
    Workflow,
    step,
    workflow,
)
from boxflow.asgi import create_app, lifespan, routes


def by_password(call: WebhookRequest) -> bool:
    return call.headers.get("x-password") == "open sesame"


async def by_secret(call: WebhookRequest, secret: str) -> str | bool:
    return call.headers["x-id"] if call.text == secret else False


@dataclass
class PullRequest:
    number: int
    title: str


@dataclass
class Verdict:
    approved: bool


async def fetch(url: str, retries: int = 3) -> bytes:
    return url.encode() * retries


def parse(data: bytes) -> list[int]:
    return list(data)


def total(numbers: Sequence[float], *, scale: float = 1.0) -> float:
    return sum(numbers) * scale


async def nothing() -> None: ...


async def publish(pr: PullRequest, diffs: list[str]) -> None:
    if not diffs:
        raise NonRetryableError(f"nothing to publish for {pr.number}")
    if len(diffs) > 100:
        raise RetryAfterError("too many", "30s")


class Service:
    async def ask(self, question: str) -> str:
        return question

    def count(self, *words: str) -> int:
        return len(words)


@workflow
async def child(ctx: Context, number: int) -> str:
    return str(number)


async def tell(ctx: Context, failure: RunFailure) -> None:
    await ctx.notify("tell", "failures", str(failure.error))


@workflow(name="review", version=2, retry=Retry(attempts=5), timeout="3d", failure_function=tell)
async def review(ctx: Context, pr: PullRequest) -> dict[str, str]:
    service = Service()
    assert_type(await ctx.run("fetch", fetch, "https://example.org"), bytes)
    assert_type(await ctx.run("fetch", fetch, "https://example.org", 5, timeout="5s", retry=Retry(delay=0.5)), bytes)
    assert_type(await ctx.run("parse", parse, b"", at_most_once=True), list[int])
    assert_type(await ctx.run("total", total, [1, 2.5]), float)
    assert_type(await ctx.run("total", functools.partial(total, scale=2.0), [1, 2.5]), float)
    assert_type(await ctx.run("ask", service.ask, "why?"), str)
    assert_type(await ctx.run("count", service.count, "a", "b"), int)
    assert_type(await ctx.run("lambda", lambda: 3), int)
    assert_type(await ctx.run("length", len, "text"), int)
    typed: set[int] = await ctx.run("set", lambda: {1}, type=set[int])
    await ctx.run("nothing", nothing)
    await ctx.run("publish", publish, pr, ["diff"], retry=Retry(on=(OSError, TimeoutError)))

    numbers, text = await asyncio.gather(ctx.run("parse", parse, b""), ctx.invoke("child", child, 3))
    assert_type(numbers, list[int])
    assert_type(text, str)
    assert_type(await asyncio.gather(*(ctx.invoke(f"c{n}", child, n) for n in range(3))), list[str])
    assert_type(await ctx.invoke("child", child, 3, run_id="own"), str)
    by_name: Any = await ctx.invoke("child", "child", 3)

    assert_type(await ctx.wait_for_event("review", "event", type=Verdict, timeout="3d"), Verdict)
    assert_type(await ctx.wait_for_event("review", "event", type=dict[str, int]), dict[str, int])
    anything: Any = await ctx.wait_for_event("review", "event", timeout=timedelta(days=1))
    optional: Verdict | None = await ctx.wait_for_event("review", "event", type=Verdict | None)
    assert_type(await ctx.notify("send", "event", {"a": 1}, run_id="other"), Notified)

    await ctx.create_webhook("push", verify="github", secret="$GITHUB_WEBHOOK_SECRET")
    await ctx.create_webhook("plain", verify=by_password)
    await ctx.create_webhook("signed", verify=by_secret, secret="$TEAM_SECRET")
    hook = await ctx.create_webhook("done")
    assert_type(hook, Webhook)
    request = await ctx.wait_for_webhook("agent", hook, timeout=3600)
    assert_type(request, WebhookRequest)
    assert_type(request.json(Verdict), Verdict)
    assert_type(await ctx.call("call", hook.url, method="PUT", json={"a": 1}, headers={"x": "y"}), Response)

    await ctx.sleep("nap", "5m")
    await ctx.sleep("nap", 1)
    await ctx.sleep_until("morning", datetime(2030, 1, 1, tzinfo=UTC))
    assert_type(ctx.now(), datetime)
    assert_type(ctx.uuid4(), UUID)
    assert_type(ctx.patched("change"), bool)
    ctx.log.info("%s %s %s %s", by_name, anything, optional, typed)
    async with ctx.box("box", image="agent", env={"A": "1"}, ttl="1h") as box:
        result = await box.exec.command("true", timeout="10s", check=True)
        assert_type(result.stdout, str)
    kept = await ctx.box("kept", keep=True)
    return {"id": kept.id, "url": hook.url, "random": str(ctx.random.random())}


@workflow
async def nightly(ctx: Context, payload: None = None) -> None:
    try:
        await ctx.invoke("child", child, 1)
    except ChildFailedError as error:
        await ctx.cancel(f"{error.name} ended {error.status}")


async def use(engine: Engine) -> None:
    assert_type(child, Workflow[int, str])
    run = await engine.start(child, 3, run_id="r", labels=["a"], delay="5m")
    assert_type(run, Run[str])
    assert_type(await run.result(timeout=5), str)
    assert_type(await engine.run(review, PullRequest(1, "x")), dict[str, str])
    assert_type(await engine.start(nightly), Run[None])
    by_name: Run[Any] = await engine.start("child", 3)
    assert_type(await run.status(), RunStatus)
    assert_type(await run.history(), list[Outcome])
    async for outcome in run.watch():
        print(outcome.seq, outcome.at, outcome.kind, outcome.name, outcome.occurrence)
    await run.cancel("enough")
    await run.resume(accept_divergence=True)
    assert_type(await run.restart(), Run[str])
    assert_type(await run.fork(before="fetch", occurrence=2), Run[str])
    assert_type((await engine.notify("event", Verdict(True))).run_ids, tuple[str, ...])
    found: AsyncIterator[Run[Any]] = engine.runs(
        status=[RunStatus.FAILED, "diverged"], workflow=review, label="a", limit=5
    )
    print([each.id async for each in found], by_name.id, (await engine.get("r")).labels)
    async with engine.boxes.create("mine") as box:
        print(box.id)


async def use_a_box(box: Box, boxes: Boxes, here: Path) -> None:
    result = await box.exec.command(["make", "test"], cwd="src", env={"A": "1"}, user="root", stdin=b"", check=False)
    assert_type(result, ExecResult)
    assert_type(await box.exec.code("print(1)", "python", args=["a"], timeout="10s"), ExecResult)
    async for chunk in box.exec.stream("make"):
        assert_type(chunk, OutputChunk)
    async with box.exec.session(["python3", "-i"], tty=TerminalSize(columns=100, rows=30)) as session:
        assert_type(session, Session)
        await session.stdin.write("1 + 1\n")
        await session.resize(columns=80, rows=24)
        await session.signal("INT")
        assert_type(await session.wait(), int)
    talk = await box.exec.session("sh", tty=True)
    await talk.kill()

    job = await box.jobs.start("sleep 1", job_id="nap")
    assert_type(job, Job)
    assert_type(await box.jobs.get("nap"), JobInfo)
    assert_type(await box.jobs.list(), list[JobInfo])
    async for piece in box.jobs.logs("nap", follow=True, offset=10):
        print(piece.stream, piece.offset, piece.text)
    assert_type(await job.wait(timeout="1m", check=True), ExecResult)
    await box.jobs.kill("nap")

    await box.files.upload(here, "there")
    await box.files.download("there", "here")
    await box.git.clone("https://example.org/a.git", auth=GitAuth(token="t"), depth=1)
    snapshot = await box.snapshot("before")
    assert_type(snapshot, Snapshot)
    assert_type(await boxes.list_snapshots(), list[Snapshot])
    network = Egress(allow=["example.org"], headers={"example.org": {"Authorization": "Bearer $TOKEN"}})
    async with boxes.create("a", snapshot=snapshot, network=network, memory="1GiB", cpus=1.5, disk=10**9) as other:
        assert_type(await other.url(8000), str)
    await boxes.create("b", network=["example.org"], dockerfile="FROM scratch", max_processes=10)
    await boxes.create("c", network="none", box_id="fixed")
    await box.pause()
    await box.resume()


def idempotency() -> str:
    assert_type(step(), StepInfo)
    return step().idempotency_key


def serve() -> Starlette:
    engine = Engine([child, review, nightly], store="file:state", sandbox="local:", base_url="https://example.org")
    app: AbstractAsyncContextManager[None] = lifespan(engine)(None)
    print(app, routes(engine))
    return create_app(engine, max_body_bytes=1000)
