"""Steps that follow each other share a task, and nobody can tell: neither by what one leaves behind, nor by waiting."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from boxflow import Context, Engine, RunCancelledError, workflow
from boxflow.model import Change, Head, Outcome
from boxflow.ports import Fence
from boxflow_backends.memory_store import MemoryStore

color: ContextVar[str] = ContextVar("color")
inherited: ContextVar[str] = ContextVar("inherited", default="unset")


async def test_what_a_step_puts_into_context_variables_is_gone_for_the_next() -> None:
    seen: list[tuple[str, str]] = []

    async def paint(name: str) -> None:
        seen.append((color.get("none"), inherited.get()))
        color.set(name)
        inherited.set(name)

    async def look() -> None:
        seen.append((color.get("none"), inherited.get()))

    @workflow
    async def body(ctx: Context, _: None) -> None:
        await ctx.run("look", look)
        for name in ("red", "green"):
            await ctx.run("paint", paint, name)
        await ctx.run("look", look)

    inherited.set("by the engine")
    async with Engine([body]) as engine:
        await engine.run(body, None)
    assert seen == [("none", "by the engine")] * 4


async def test_a_step_that_swallowed_a_cancel_leaves_none_to_the_next() -> None:
    async def swallow() -> int:
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        task.cancel()
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            return before
        raise AssertionError("the cancel did not arrive")

    @workflow
    async def body(ctx: Context, _: None) -> list[int]:
        return [await ctx.run("swallow", swallow) for _ in range(3)]

    async with Engine([body]) as engine:
        assert await engine.run(body, None) == [0, 0, 0]


async def test_others_have_their_turn_while_a_run_takes_steps_that_wait_for_nothing() -> None:
    async def quick() -> None:
        return None

    @workflow
    async def body(ctx: Context, steps: int) -> None:
        for _ in range(steps):
            await ctx.run("quick", quick)

    async with Engine([body], store=MemoryStore()) as engine:
        running = asyncio.create_task(engine.run(body, 800))
        turns = 0
        while not running.done():
            await asyncio.sleep(0)
            turns += 1
    assert turns >= 100


class Gated(MemoryStore):
    """Once told to, it takes one append more, and no other until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.takes: int | None = None
        self.gate = asyncio.Event()

    async def append(
        self, run_id: str, outcomes: Sequence[Outcome], head: Head, fence: Fence, changes: Sequence[Change] = ()
    ) -> None:
        if self.takes is not None:
            self.takes -= 1
            if self.takes < 0:
                await self.gate.wait()
            else:
                await asyncio.sleep(0.01)  # So that more arrives meanwhile.
        await super().append(run_id, outcomes, head, fence, changes)


async def test_a_step_does_not_wait_until_what_came_with_the_one_before_is_stored() -> None:
    store = Gated()
    began = asyncio.Event()

    async def quick() -> None:
        store.takes = store.takes if store.takes is not None else 1

    async def second() -> None:
        began.set()

    @workflow
    async def body(ctx: Context, _: None) -> None:
        async def branch() -> None:
            await ctx.run("quick", quick)
            await ctx.run("second", second)

        await asyncio.gather(branch(), ctx.run("other", quick), ctx.run("another", quick))

    async with Engine([body], store=store) as engine:
        running = asyncio.create_task(engine.run(body, None))
        # The first outcome is stored; those of the other branches are kept waiting by the store.
        await asyncio.wait_for(began.wait(), 10)
        assert not running.done()
        store.gate.set()
        await running


@pytest.mark.parametrize("seed", range(40))
async def test_a_cancel_between_two_steps_ends_the_run_and_begins_no_step_more(seed: int) -> None:
    done: list[int] = []

    async def work(number: int) -> None:
        if chance.random() < 0.3:
            await asyncio.sleep(0)
        done.append(number)

    @workflow
    async def body(ctx: Context, _: None) -> None:
        for number in range(10_000):
            await ctx.run("work", work, number)

    chance = random.Random(seed)
    async with Engine([body], max_resident_runs=seed % 2) as engine:
        run = await engine.start(body, None)
        for _ in range(chance.randrange(120)):
            await asyncio.sleep(0)
        await run.cancel("enough")
        with pytest.raises(RunCancelledError):
            await run.result(timeout=20)
        count = len(done)
        await asyncio.sleep(0.01)
        assert len(done) == count and done == list(range(count))
