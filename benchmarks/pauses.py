"""Does compaction make anybody wait?

10,000 runs are active: each has taken ten steps and waits for an event, in memory or not. Beside them 20 runs take one
step after the other, on a FileStore whose segments are small, so that it compacts again and again: each compaction
reads what is new and writes all 10,000 runs into a checkpoint, in a thread beside the event loop.

- `longest_ms`: the longest time between two turns of the event loop, asked for every millisecond.
- `step_p50_ms`, `step_p999_ms`, `step_longest_ms`: how long a step takes, from its call to the line after it.
- `compactions`: how many there were. A measurement without any has measured nothing, which the last target says.

The floor is the same work on the same store with segments that never fill: what the load, the garbage collector and the
disk do to both is no fault of compaction.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

from benchmarks.inside import until_waiting
from benchmarks.measuring import Stopwatch, run
from benchmarks.model import Program, Sample, Subject, Target, counts
from benchmarks.steps import work
from boxflow import Context, Engine, workflow
from boxflow_backends.file_store import FileStore

BUSY = 20
AT_ONCE = 200
SMALL, ENDLESS = 1 << 18, 1 << 40

took_s: list[float] = []
"""How long each step took; outside of the law, which is why it feeds nothing back."""


@workflow
async def active(ctx: Context, number: int) -> None:
    for _ in range(10):
        await ctx.run("step", work, number)
    await ctx.wait_for_event("go", f"go-{number}")


@workflow
async def busy(ctx: Context, seconds: float) -> None:
    # The machine's clock, which a body must not ask: this one is measured, and never replayed.
    until = time.perf_counter() + seconds
    number = 0
    while (begun := time.perf_counter()) < until:
        await ctx.run("step", work, number)
        took_s.append(time.perf_counter() - begun)
        number += 1


async def longest_turn(found: list[float]) -> None:
    """Add the longest time between two turns of the loop so far."""
    last = time.perf_counter()
    while True:
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        found[0] = max(found[0], now - last)
        last = now


def measure(segment_bytes: int, operations: int, directory: Path) -> Sample:
    seconds = min(operations / 1000, 10.0)

    async def main() -> Sample:
        store = FileStore(directory, segment_bytes=segment_bytes)
        async with Engine([active, busy], store=store, blocking_limit=None) as engine:
            for begin in range(0, operations, AT_ONCE):
                numbers = range(begin, min(begin + AT_ONCE, operations))
                runs = [await engine.start(active, number) for number in numbers]
                for one in runs:
                    await until_waiting(engine, one.id, evicted=False)
            await asyncio.sleep(1.0)  # What filling has left to compact is none of the measurement's business.
            longest = [0.0]
            ticker = asyncio.create_task(longest_turn(longest))
            seen = set(checkpoints(directory))
            watcher = asyncio.create_task(watch_checkpoints(directory, seen))
            before = len(seen)
            with Stopwatch() as watch:
                await asyncio.gather(*(engine.run(busy, seconds) for _ in range(BUSY)))
            ticker.cancel()
            watcher.cancel()
            compactions = len(seen | set(checkpoints(directory))) - before
        times = sorted(took_s)
        return watch.sample(
            len(times),
            longest_ms=longest[0] * 1e3,
            step_p50_ms=times[len(times) // 2] * 1e3,
            step_p999_ms=times[int(len(times) * 0.999)] * 1e3,
            step_longest_ms=times[-1] * 1e3,
            compactions=float(compactions),
        )

    return run(main())


def checkpoints(directory: Path) -> list[str]:
    """The checkpoints that are there now: each compaction writes one, under a new number."""
    return [path.name for path in (directory / "checkpoint").glob("*.jsonl")]


async def watch_checkpoints(directory: Path, seen: set[str]) -> None:
    while True:
        await asyncio.sleep(0.05)
        seen.update(checkpoints(directory))


ACTIVE = counts(tiny=500, quick=10_000, normal=10_000)
SHOWN = ("longest_ms", "step_p50_ms", "step_p999_ms", "step_longest_ms", "compactions")

PROGRAM = Program(
    name="pauses",
    question="Does compaction make anybody wait?",
    subjects=(
        Subject(
            name="never",
            what="floor: the same work, nothing is compacted",
            measure=partial(measure, ENDLESS),
            operations=ACTIVE,
            shown=SHOWN,
        ),
        Subject(
            name="always",
            what="FileStore that compacts all the time",
            measure=partial(measure, SMALL),
            operations=ACTIVE,
            shown=SHOWN,
        ),
    ),
    targets=(
        Target(
            promise="no pause over 50 ms from compaction with 10,000 active runs",
            subject="always",
            measure="longest_ms",
            limit=50,
            at_least=False,
        ),
        Target(
            promise="the store did compact meanwhile",
            subject="always",
            measure="compactions",
            limit=1,
            at_least=True,
        ),
    ),
)
