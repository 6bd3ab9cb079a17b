"""Calls that mypy strict and pyright strict must refuse, each marked for both.

A marker that no error answers is itself an error: mypy and pyright both warn of ignores that are not needed. So this
file is clean exactly when every marked line is refused, and no other. (mypy takes `wait_for_event(type=int)` for Any
where a str is expected; only pyright refuses that.)
"""

from __future__ import annotations

import boxflow
from boxflow import Boxes, Context, Engine, Retry, RunFailure, Webhook, workflow


async def fetch(url: str, retries: int = 3) -> bytes:
    return url.encode() * retries


def parse(data: bytes) -> list[int]:
    return list(data)


@workflow
async def double(ctx: Context, number: int) -> int:
    return 2 * number


async def body(ctx: Context, hook: Webhook) -> None:
    await ctx.run("fetch", fetch)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.run("fetch", fetch, 5)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.run("fetch", fetch, "url", "many")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.run("fetch", fetch, "url", 1, 2)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.run("parse", parse, "text")  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.run("parse", parse, b"", retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await ctx.run("fetch", fetch("url"))  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.run(fetch, "url")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.run("parse", parse, b"", retry=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.run("parse", parse, b"", timeout=object())  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    text: str = await ctx.run("parse", parse, b"")  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    number: int = await ctx.run("fetch", fetch, "url")  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    wrong_event: str = await ctx.wait_for_event("wait", "event", type=int)  # pyright: ignore[reportAssignmentType]
    await ctx.wait_for_event("wait", 7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await ctx.wait_for_event("wait")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await ctx.create_webhook("hook", verify="gitlab")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.create_webhook("hook", verify=len)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.wait_for_webhook("wait", "https://example.org")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    wrong_child: str = await ctx.invoke("child", double, 3)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    await ctx.invoke("child", double, "3")  # type: ignore[misc]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.invoke("child", fetch, "3")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.sleep(5)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    await ctx.sleep_until("morning", "08:00")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ctx.call("call", "https://example.org", timeout=[])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    patched: str = ctx.patched("change")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    await ctx.box("box", image=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    print(text, number, wrong_event, wrong_child, patched)
    hook.token = "another"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def use(engine: Engine) -> None:
    await engine.start(double, "3")  # type: ignore[misc]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await engine.start(fetch, "3")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await engine.run(double, None)  # type: ignore[misc]  # pyright: ignore[reportCallIssue, reportArgumentType]
    result: str = await engine.run(double, 3)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    await engine.start(double, 3, run_id=7)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    run = await engine.start(double, 3)
    other: str = await run.result()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    await engine.start(double, 3, label="a")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await engine.notify(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await run.fork()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await run.cancel(reason=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    list(engine.runs())  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    print(result, other)


def policies() -> None:
    Retry(attempts="three")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Retry(on=BaseException)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Retry(on="OSError")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Retry(times=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@workflow  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def not_async(ctx: Context, payload: int) -> int:
    return payload


@workflow  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def too_few(ctx: Context) -> int:
    return 1


@workflow  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def too_many(ctx: Context, one: int, two: int) -> int:
    return one + two


@workflow  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def no_context(one: int, two: int) -> int:
    return one + two


async def not_a_failure_function(failure: RunFailure) -> None: ...


@workflow(failure_function=not_a_failure_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def with_wrong_failure_function(ctx: Context, payload: int) -> int:
    return payload


@workflow(timeout=object())  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportArgumentType]
async def with_wrong_timeout(ctx: Context, payload: int) -> int:
    return payload


async def boxes_of(boxes: Boxes) -> None:
    await boxes.create("a", netwrok="none")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await boxes.create("a", network="closed")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    box = await boxes.create("a", memory=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await box.exec.command(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await box.git.clone("u", auth="token")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await box.jobs.start("true", id="a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def engines() -> None:
    Engine()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Engine([fetch])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    Engine([double], max_resident_runs="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Engine([double], stores="memory:")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def names_that_are_not_there() -> None:
    print(boxflow.Sandbocks)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
