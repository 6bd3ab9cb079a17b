"""Mail of one mailbox is taken in the order in which it was sent, also by a run that is only just waking up."""

from __future__ import annotations

import asyncio

import pytest

from boxflow import Context, Engine, workflow


@workflow
async def take_three(ctx: Context, _: None) -> list[int]:
    return [await ctx.wait_for_event("mail", "mail", type=int) for _ in range(3)]


@pytest.mark.parametrize("residents", [0, 1000])
@pytest.mark.parametrize("turns", range(6))
async def test_what_was_sent_first_is_taken_first(turns: int, residents: int) -> None:
    async with Engine([take_three], store="memory:", max_resident_runs=residents) as engine:
        run = await engine.start(take_three)
        # The run begins to wait somewhere between the sendings: where exactly, *turns* of the loop decide.
        for number in range(3):
            await engine.notify("mail", number, run_id=run.id)
            for _ in range(turns):
                await asyncio.sleep(0)
        assert await run.result(timeout=5) == [0, 1, 2]
