"""Bug 2, a leaked box: it is kept beyond the run, to be deleted by hand, and some ways lead around that line."""

from __future__ import annotations

import pytest

from boxflow import Context, workflow
from boxflow.testing import ExploreError, World, explore


@workflow(name="build")
async def build_with_the_bug(ctx: Context, _: None) -> int:
    box = await ctx.box("builder", keep=True)
    built = await box.exec.command("make")
    await box.delete()
    return built.exit_code


@workflow(name="build")
async def build(ctx: Context, _: None) -> int:
    async with ctx.box("builder") as box:
        return (await box.exec.command("make")).exit_code


def script(world: World) -> None:
    world.sandbox.on("make", delay="5m")


async def test_explore_finds_the_box_that_a_cancel_leaves() -> None:
    with pytest.raises(ExploreError, match=r"(?s)boxes are left: 'builder'.*the run is cancelled"):
        await explore(build_with_the_bug, None, script)


async def test_a_box_of_the_run_is_deleted_in_every_order() -> None:
    await explore(build, None, script, seeds=20)
