"""A run that leaves memory is freed at once, and not by the next full collection, which is a pause."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from behaviour.support import Machine, until

from boxflow import Context, RunStatus, workflow

pytestmark = pytest.mark.usefixtures("saved_garbage")


@pytest.fixture
def saved_garbage() -> Iterator[None]:
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def of_runs() -> set[str]:
    """The types of ours among what only a collection finds."""
    gc.collect()
    kinds: set[type] = {type(thing) for thing in gc.garbage}
    return {kind.__name__ for kind in kinds if kind.__module__.startswith("boxflow.")}


async def work(number: int) -> int:
    return number


async def test_of_runs_that_have_ended_nothing_is_left_to_collect(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: int) -> int:
        return sum([await ctx.run("work", work, number) for number in range(payload)])

    async with memory_machine.running(main) as engine:
        for _ in range(20):
            assert await engine.run(main, 3) == 3
        assert of_runs() == set()


async def test_of_runs_that_wait_and_were_evicted_neither(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: int) -> Any:
        await ctx.run("work", work, payload)
        return await ctx.wait_for_event("go", f"go-{payload}")

    async with memory_machine.running(main, max_resident_runs=0) as engine:
        runs = [await engine.start(main, number) for number in range(20)]
        for run in runs:
            await until(run, RunStatus.WAITING)
        assert of_runs() == set()
        await engine.notify("go-7", "now")
        assert await runs[7].result() == "now"
