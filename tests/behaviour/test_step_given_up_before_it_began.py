"""A step that is given up before its task had a turn leaves nothing behind: the run says that it waits, and goes on."""

from __future__ import annotations

import asyncio

from boxflow import Context, Engine, RunStatus, workflow

from .support import until

began: list[int] = []


async def never(number: int) -> int:
    began.append(number)
    await asyncio.sleep(60)
    return number


@workflow
async def gives_up_at_once(ctx: Context, _: None) -> str:
    first = asyncio.ensure_future(ctx.wait_for_event("a", "a"))
    second = asyncio.ensure_future(ctx.wait_for_event("b", "b"))
    await first
    step = asyncio.ensure_future(ctx.run("never", never, 1))
    await second
    step.cancel()
    await ctx.wait_for_event("end", "end")
    return "ok"


async def test_a_run_whose_step_never_began_waits_and_goes_on() -> None:
    async with Engine([gives_up_at_once], max_resident_runs=0) as engine:
        run = await engine.start(gives_up_at_once, None)
        await until(run, RunStatus.WAITING)
        # Both arrive before the host's loop gives the step its first turn.
        await asyncio.gather(engine.notify("a"), engine.notify("b"))
        await until(run, RunStatus.WAITING)
        await engine.notify("end")
        assert await run.result(timeout=10) == "ok"
