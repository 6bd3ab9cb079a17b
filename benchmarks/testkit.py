"""How long does a unit test of a workflow take?

A workflow of ten steps (five of them plain functions) and two waits, each answered a day later, in a world of its own:
made, run, left. `audited` is what the fixture gives; `plain` is without the audit, which rebuilds the body after every
outcome. `crash_everywhere` is the whole of it: a run for each write, before and after it, and one for each step.

The floor is the same engine with the same workflow and no test kit: a store in memory, the events sent before.

Not measured: pytest's own time for a test, imports, boxes.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from benchmarks.measuring import Stopwatch, quantiles_ms, run
from benchmarks.model import Program, Sample, Subject, Target, counts
from boxflow import Context, Engine, workflow
from boxflow.testing import World, crash_everywhere
from boxflow_backends.memory_store import MemoryStore


async def step(number: int) -> int:
    return number + 1


def plain_step(number: int) -> int:
    return number + 1


@workflow
async def ten_steps(ctx: Context, number: int) -> int:
    for name in ("a", "b", "c", "d", "e"):
        number = await ctx.run(name, step, number)
    await ctx.wait_for_event("first", "first")
    for name in ("f", "g", "h", "i", "j"):
        number = await ctx.run(name, plain_step, number)
    await ctx.wait_for_event("second", "second")
    return number


def script(world: World) -> None:
    world.when_waiting("*", True, after="1d")


async def in_a_world(audit: bool) -> None:
    async with World(audit=audit) as world:
        script(world)
        assert await world.run(ten_steps, 0) == 10


async def in_an_engine() -> None:
    async with Engine([ten_steps], store=MemoryStore(), blocking_limit=None) as engine:
        for event_id in ("first", "second"):
            await engine.notify(event_id, True)
        assert await engine.run(ten_steps, 0) == 10


async def crashed() -> None:
    await crash_everywhere(ten_steps, 0, script)


def measure(once: Callable[[], Awaitable[None]], operations: int, directory: Path) -> Sample:
    async def main() -> Sample:
        for _ in range(2):
            await once()
        latencies: list[float] = []
        with Stopwatch() as watch:
            for _ in range(operations):
                begun = time.perf_counter()
                await once()
                latencies.append(time.perf_counter() - begun)
        return watch.sample(operations, **quantiles_ms(latencies))

    return run(main())


OPERATIONS = counts(tiny=3, quick=200, normal=1000)
SHOWN = ("p50_ms", "p99_ms", "cpu_us")

PROGRAM = Program(
    name="testkit",
    question="How long does a unit test of a workflow of ten steps and two waits take?",
    subjects=(
        Subject(
            name="engine",
            what="floor: an engine with a store in memory, no test kit",
            measure=partial(measure, in_an_engine),
            operations=OPERATIONS,
            shown=SHOWN,
        ),
        Subject(
            name="plain",
            what="World(audit=False)",
            measure=partial(measure, partial(in_a_world, False)),
            operations=OPERATIONS,
            shown=SHOWN,
        ),
        Subject(
            name="audited",
            what="World, as the fixture makes it",
            measure=partial(measure, partial(in_a_world, True)),
            operations=OPERATIONS,
            shown=SHOWN,
        ),
        Subject(
            name="crash_everywhere",
            what="crash_everywhere: every crash of that run",
            measure=partial(measure, crashed),
            operations=counts(tiny=1, quick=10, normal=50),
            shown=SHOWN,
        ),
    ),
    targets=(
        Target(
            promise="a unit test of ten steps and two waits <= 5 ms (p50, audit included)",
            subject="audited",
            measure="p50_ms",
            limit=5,
            at_least=False,
        ),
        Target(
            promise="crash_everywhere on it <= 100 ms (p50)",
            subject="crash_everywhere",
            measure="p50_ms",
            limit=100,
            at_least=False,
        ),
    ),
)
