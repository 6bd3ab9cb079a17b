"""What random schedules have found, each as the smallest program that shows it."""

from __future__ import annotations

import asyncio

import anyio

from boxflow import Context, Engine, Retry, step, workflow
from boxflow_backends.memory_store import MemoryStore


async def test_a_step_that_succeeded_on_its_second_attempt_is_not_run_again_when_its_run_is_rebuilt() -> None:
    attempts: list[int] = []

    async def flaky() -> str:
        attempts.append(step().attempt)
        if step().attempt == 1:
            raise ConnectionError("again")
        return "done"

    @workflow
    async def tried_twice(ctx: Context, payload: None) -> str:
        result = await ctx.run("flaky", flaky, retry=Retry(delay=0.0))
        await ctx.sleep("nap", 0.02)
        return f"{result} {await ctx.wait_for_event('go', 'go')}"

    store = MemoryStore()
    async with Engine([tried_twice], store=store) as engine:
        run = await engine.start(tried_twice, None, run_id="r")
        async for outcome in run.watch():
            if outcome.kind == "step_done":
                break
    async with Engine([tried_twice], store=store) as engine:
        run = await engine.get("r")
        async for outcome in run.watch():
            if outcome.kind == "timer_fired":
                break
        await asyncio.sleep(0.05)  # Time in which the step would be rung for, as one that is to be tried again.
        await engine.notify("go", "on")
        assert await run.result() == "done on"
        history = await run.history()
    assert attempts == [1, 2]
    assert [outcome.kind for outcome in history] == ["step_retrying", "step_done", "timer_fired", "event_arrived"]


async def test_a_cancelled_scope_waits_for_a_task_group_whose_tasks_clean_up_with_steps() -> None:
    async def undo() -> str:
        await asyncio.sleep(0.01)
        return "undone"

    @workflow
    async def cleans_up(ctx: Context, payload: None) -> list[str]:
        seen: list[str] = []

        async def part() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                seen.append(await ctx.run("undo", undo))

        # The scope cancels its host task again and again; the group takes each cancel, and waits for its own task.
        with anyio.move_on_after(0.01):
            async with asyncio.TaskGroup() as group:
                group.create_task(part())
        return seen

    async with Engine([cleans_up], store=MemoryStore()) as engine:
        assert await engine.run(cleans_up, None) == ["undone"]
