"""Bug 1, a lost event: an order may be changed until it is shipped, and a change that comes late is never read."""

from __future__ import annotations

import pytest

from boxflow import Context, WaitTimeoutError, workflow
from boxflow.testing import Explored, ExploreError, World, explore


def pack(order: str) -> str:
    return order


@workflow(name="ship")
async def ship_with_the_bug(ctx: Context, order: str) -> str:
    try:
        order = await ctx.wait_for_event("change", "change", type=str, timeout="1h")
    except WaitTimeoutError:
        pass
    return await ctx.run("pack", pack, order)


@workflow(name="ship")
async def ship(ctx: Context, order: str) -> str:
    try:
        order = await ctx.wait_for_event("change", "change", type=str, timeout="1h")
    except WaitTimeoutError:
        pass
    while True:
        packed = await ctx.run("pack", pack, order)
        try:
            # What has come since then waits in the run's mailbox: it is taken before the run ends.
            order = await ctx.wait_for_event("late change", "change", type=str, timeout="1s")
        except WaitTimeoutError:
            return packed


def script(world: World) -> None:
    world.when_waiting("change", "two apples")


def every_change_is_read(explored: Explored[str, None]) -> None:
    assert not explored.unread, f"nobody reads the event {explored.unread[0]!r}"


async def test_explore_finds_a_change_that_is_sent_in_time_and_never_read() -> None:
    with pytest.raises(
        ExploreError,
        match=r"(?s)nobody reads the event 'change'.*time passes.*'change' is answered.*BOXFLOW_SCHEDULE=",
    ):
        await explore(ship_with_the_bug, "an apple", script, check=every_change_is_read, cancels=False)


async def test_a_run_that_looks_into_its_mailbox_before_it_ends_loses_nothing() -> None:
    await explore(ship, "an apple", script, check=every_change_is_read, cancels=False, seeds=30)
