"""Bug 6, a deploy that diverges: a check was added in front of what waiting runs have done already."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxflow import Context, workflow
from boxflow.testing import ReplayError, World, assert_replays, save_history

HISTORIES = Path(__file__).parent / "histories"


def do(what: str) -> str:
    return what


@workflow(name="onboard")
async def of_last_week(ctx: Context, name: str) -> str:
    await ctx.run("account", do, name)
    await ctx.wait_for_event("signed", "signed")
    return await ctx.run("welcome", do, name)


@workflow(name="onboard")
async def with_the_bug(ctx: Context, name: str) -> str:
    await ctx.run("check", do, name)
    await ctx.run("account", do, name)
    await ctx.wait_for_event("signed", "signed")
    return await ctx.run("welcome", do, name)


@workflow(name="onboard")
async def of_today(ctx: Context, name: str) -> str:
    if ctx.patched("check first"):
        await ctx.run("check", do, name)
    await ctx.run("account", do, name)
    await ctx.wait_for_event("signed", "signed")
    return await ctx.run("welcome", do, name)


async def test_a_history_is_saved_while_its_run_waits(tmp_path: Path) -> None:
    async with World() as world:
        run = await world.start(of_last_week, "ada")
        await save_history(world.engine, run.id, tmp_path / "waiting.json")
    # The one that is kept here was made so.
    assert (tmp_path / "waiting.json").read_bytes() == (HISTORIES / "waiting.json").read_bytes()
    assert_replays(tmp_path, of_last_week)


def test_assert_replays_shows_what_the_new_code_does_instead() -> None:
    with pytest.raises(ReplayError, match=r"(?s)waiting.json.*-    1  step done 'account'.*\+       step 'check'"):
        assert_replays(HISTORIES, with_the_bug)


def test_code_that_asks_whether_the_run_is_old_still_fits() -> None:
    assert_replays(HISTORIES, of_today)
