"""How fast is a journal replayed, and how soon does a run of 1,000 steps go on that lies cold on disk?

- `deliver`: outcomes delivered to a body, one by one with a full drain each, from a journal in memory: the law's own
  cost.
- `rebuild`: the same through an engine, from asking for the run until its body waits again: store, fence, decoding,
  and the turns that the host's loop gets in between.
- `resume_1000`: a FileStore is closed, its files are dropped from the page cache, and it is opened again by a new
  engine. `open_ms` is until the engine runs; `resume_ms` from the event that the run waits for until the line after
  the wait. The process is warm: boxflow is imported and the code has run before (a cold process: see `startup`).

Not measured: large values, bodies that compute.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

from benchmarks.inside import hub, until_waiting
from benchmarks.measuring import Stopwatch, drop_from_page_cache, run
from benchmarks.model import Program, Sample, Subject, Target, counts
from benchmarks.steps import work
from boxflow import Context, Engine, workflow
from boxflow.ports import Store
from boxflow_backends.file_store import FileStore
from boxflow_backends.memory_store import MemoryStore

STEPS = 1000

resumed_at: list[float] = []
"""When a body went on; outside of the law, which is why it feeds nothing back."""


@workflow
async def steps_then_wait(ctx: Context, count: int) -> None:
    for number in range(count):
        await ctx.run("step", work, number)
    await ctx.wait_for_event("go", f"go-{ctx.run_id}")
    resumed_at.append(time.perf_counter())


async def make(engine: Engine, run_id: str, count: int) -> None:
    """A run of *count* steps that waits, and is not in memory."""
    await engine.start(steps_then_wait, count, run_id=run_id)
    await until_waiting(engine, run_id, evicted=True)


def deliver(operations: int, _directory: Path) -> Sample:
    rounds = max(operations // STEPS, 1)
    count = min(STEPS, operations)

    async def main() -> Sample:
        async with Engine([steps_then_wait], store=MemoryStore(), max_resident_runs=0) as engine:
            await make(engine, "a", count)
            stored = await hub(engine).find("a")
            assert stored is not None
            outcomes = await hub(engine).read("a")

            def once() -> None:
                execution = hub(engine).execution(stored.record, steps_then_wait, count)
                counted = execution.prepare(outcomes)
                execution.begin()
                for outcome in counted:
                    execution.deliver(outcome)
                execution.evict()

            once()
            with Stopwatch() as watch:
                for _ in range(rounds):
                    once()
            return watch.sample(rounds * count)

    return run(main())


def rebuild(store_name: str, operations: int, directory: Path) -> Sample:
    rounds = max(operations // STEPS, 1)
    count = min(STEPS, operations)

    async def main() -> Sample:
        store: Store = MemoryStore() if store_name == "memory" else FileStore(directory / "store", durability="os")
        async with Engine([steps_then_wait], store=store, max_resident_runs=0) as engine:
            await make(engine, "a", count)
            await hub(engine).rouse("a")
            wall: list[float] = []
            with Stopwatch() as watch:
                for _ in range(rounds):
                    while hub(engine).resident("a") is not None:
                        await asyncio.sleep(0)
                    begun = time.perf_counter()
                    await hub(engine).rouse("a")
                    wall.append(time.perf_counter() - begun)
            wall.sort()
            return watch.sample(rounds * count, rebuild_ms=wall[len(wall) // 2] * 1e3)

    return run(main())


def resume(operations: int, directory: Path) -> Sample:
    """*operations* steps in the run."""

    async def main() -> Sample:
        path = directory / "store"
        async with Engine([steps_then_wait], store=FileStore(path, durability="os"), max_resident_runs=0) as engine:
            # One to warm the code up, one among others to be resumed.
            for name in ("warm", "cold"):
                await make(engine, name, operations)
            await engine.notify("go-warm")
            await (await engine.get("warm")).result()
        drop_from_page_cache(path)
        engine = Engine([steps_then_wait], store=FileStore(path), max_resident_runs=0)
        with Stopwatch() as watch:
            begun = time.perf_counter()
            async with engine:
                opened = time.perf_counter()
                await engine.notify("go-cold")
                await (await engine.get("cold")).result()
        return watch.sample(operations, open_ms=(opened - begun) * 1e3, resume_ms=(resumed_at[-1] - opened) * 1e3)

    return run(main())


PROGRAM = Program(
    name="replay",
    question="How fast is a journal replayed?",
    subjects=(
        Subject(
            name="deliver",
            what="outcomes delivered to a body, journal in memory",
            measure=deliver,
            operations=counts(tiny=20, quick=20_000, normal=100_000),
        ),
        Subject(
            name="rebuild_memory",
            what="a run of 1,000 steps rebuilt by an engine, MemoryStore",
            measure=partial(rebuild, "memory"),
            operations=counts(tiny=20, quick=10_000, normal=50_000),
            shown=("per_s", "cpu_us", "rebuild_ms"),
        ),
        Subject(
            name="rebuild_file",
            what="a run of 1,000 steps rebuilt by an engine, FileStore in the page cache",
            measure=partial(rebuild, "file"),
            operations=counts(tiny=20, quick=10_000, normal=50_000),
            shown=("per_s", "cpu_us", "rebuild_ms"),
        ),
        Subject(
            name="resume_1000",
            what="a run of 1,000 steps goes on, FileStore opened cold",
            measure=resume,
            operations=counts(tiny=20, quick=STEPS, normal=STEPS),
            shown=("resume_ms", "open_ms"),
        ),
    ),
    targets=(
        Target(
            promise="replay: >= 50,000 outcomes/s",
            subject="deliver",
            measure="per_s",
            limit=50_000,
            at_least=True,
        ),
        Target(
            promise="a run of 1,000 steps resumes in <= 50 ms",
            subject="resume_1000",
            measure="resume_ms",
            limit=50,
            at_least=False,
        ),
    ),
)
