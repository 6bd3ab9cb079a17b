"""An engine that is left right after it was entered does not make its app wait."""

from __future__ import annotations

import threading

from boxflow import Context, Engine, workflow


@workflow
async def wait(ctx: Context, _: None) -> None:
    await ctx.wait_for_event("never", "never")


async def test_the_thread_that_watches_bodies_ends_with_the_engine() -> None:
    for _ in range(3):
        async with Engine([wait]) as engine:
            await engine.start(wait)
        assert not [thread for thread in threading.enumerate() if thread.name == "boxflow-monitor"]
