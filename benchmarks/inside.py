"""How does a benchmark see what users never see: whether a run is in memory, and its execution? Through the hub."""

from __future__ import annotations

import asyncio

from boxflow import Engine
from boxflow.hub import Hub


def hub(engine: Engine) -> Hub:
    """What is behind *engine*."""
    return engine._hub  # noqa: SLF001  # programs ask this to know when a measurement may begin; no user needs it


async def until_waiting(engine: Engine, run_id: str, *, evicted: bool) -> None:
    """Return when the run waits, as its stored head says; and, if *evicted*, is no longer in memory."""
    while (stored := await hub(engine).find(run_id)) is None or not stored.head.waiting:
        await asyncio.sleep(0.001)
    while evicted and hub(engine).resident(run_id) is not None:
        await asyncio.sleep(0.001)
