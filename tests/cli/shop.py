"""The workflows that the command runs, and an engine for them: `cli.shop:greet`, `cli.shop:engine`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from boxflow import Context, Engine, workflow


@dataclass(frozen=True)
class Guest:
    name: str
    visits: int = 1


async def greeting(name: str) -> str:
    return f"hello {name}"


async def refuse() -> str:
    if not os.environ.get("SHOP_IS_OPEN"):
        raise ConnectionError("\x1b]0;closed\x07 today")
    return "open"


@workflow
async def greet(ctx: Context, guest: Guest) -> dict[str, object]:
    """A step and a child."""
    text = await ctx.run("greeting", greeting, guest.name)
    return {"text": text, "visits": await ctx.invoke("count", count, guest.visits)}


@workflow
async def count(ctx: Context, visits: int) -> int:
    return visits


@workflow
async def fail(ctx: Context, payload: None) -> str:
    return await ctx.run("refuse", refuse)


@workflow
async def approve(ctx: Context, event_id: str = "approval") -> object:
    """A step, then a wait."""
    await ctx.run("greeting", greeting, "you")
    return await ctx.wait_for_event("answer", event_id)


@workflow
async def work(ctx: Context, payload: None) -> object:
    """A box with a job in it, while an event is awaited."""
    async with ctx.box("bench") as box:
        await box.jobs.start("echo begun; sleep 600", job_id="job")
        return await ctx.wait_for_event("done", "work-done")


def engine() -> Engine:
    """An engine where the environment says."""
    return Engine(
        [greet, count, fail, approve, work], store=os.environ["SHOP_STORE"], sandbox=os.environ["SHOP_SANDBOX"]
    )


def no_engine() -> str:
    return "none"


def broken_engine() -> Engine:
    raise RuntimeError("the shop has burnt down")
