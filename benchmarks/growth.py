"""Does a step cost more, the longer its run is?

Runs follow one another, each of N steps as in `steps`, until some 20,000 steps are done: at N = 10 that is 2,000 runs,
at N = 100,000 a single one. With short runs a step carries its share of a run's beginning and end; with long ones it
would show if anything looked through a journal that grows. `late_ratio` says so within the run: processor time of its
last tenth over that of its first.

The FileStore syncs at intervals here: a sync after each step would hide what the step costs.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from benchmarks.measuring import Stopwatch, run
from benchmarks.model import Program, Sample, Size, Subject, Target
from benchmarks.steps import work
from boxflow import Context, Engine, workflow
from boxflow.ports import Store
from boxflow_backends.file_store import FileStore
from boxflow_backends.memory_store import MemoryStore

IN_ALL = 20_000
LENGTHS = (10, 100, 1_000, 10_000, 100_000)

spent_s: list[float] = []
"""This process's processor time at each tenth of the last run; outside of the law, so it feeds nothing back."""


@workflow
async def tenths(ctx: Context, count: int) -> int:
    spent_s[:] = [time.process_time()]
    for _ in range(10):
        for number in range(count // 10):
            await ctx.run("step", work, number)
        spent_s.append(time.process_time())
    return count


def measure(store_name: str, length: int, operations: int, directory: Path) -> Sample:
    async def main() -> Sample:
        store: Store = MemoryStore() if store_name == "memory" else FileStore(directory, durability="interval")
        async with Engine([tenths], store=store) as engine:
            await engine.run(tenths, 1000)
            times = max(operations // length, 1)
            with Stopwatch() as watch:
                for _ in range(times):
                    await engine.run(tenths, length)
            first, last = spent_s[1] - spent_s[0], spent_s[-1] - spent_s[-2]
            # A tenth of a short run is too little for the clock.
            more = {"late_ratio": last / first} if length >= 1_000 else {}
            return watch.sample(times * length, **more)

    return run(main())


def _subjects() -> list[Subject]:
    found: list[Subject] = []
    for store, name in (("memory", "MemoryStore"), ("file", 'FileStore(durability="interval")')):
        for length in LENGTHS:
            sizes = {size: max(IN_ALL, length) for size in (Size.NORMAL, Size.FULL)}
            if length <= 10_000:
                sizes[Size.QUICK] = max(IN_ALL // 2, length)
            if length == 10:
                sizes[Size.TINY] = 20
            found.append(
                Subject(
                    name=f"{store}_{length}",
                    what=f"{name}, {length:,} steps a run",
                    measure=partial(measure, store, length),
                    operations=sizes,
                    shown=("cpu_us", "late_ratio", "per_s"),
                )
            )
    return found


PROGRAM = Program(
    name="growth",
    question="Does a step cost more, the longer its run is?",
    subjects=tuple(_subjects()),
    targets=tuple(
        Target(
            promise=f"a step of a run of {long:,}: <= 1.25 of one of a run of 1,000 ({store}; the number is ours)",
            subject=f"{store}_{long}",
            over=f"{store}_1000",
            measure="cpu_us",
            limit=1.25,
            at_least=False,
        )
        for store in ("memory", "file")
        for long in (10_000, 100_000)
    ),
)
