"""How much memory does a run cost that waits for an event and is evicted?

N runs are started in a process of its own, each with an id of its own, waiting for an event of its own, none kept in
memory (`max_resident_runs=0`). `run_bytes` is what the process's resident memory grew by, over N, from after the
first 1,000 runs (so that code, threads and pools are there) to after the last, garbage collected and given back to
the system both times.

- In the MemoryStore that includes the records and heads themselves, which live there.
- In the FileStore it is the index; `reopened_bytes` is the same after opening that store in a fresh process: what a
  machine with that many waiting runs pays from its next start on.

- `p50_ms`, `p99_ms`: how long it takes with so many waiting, from `Engine.notify` to the result of the run that waited
  for it: some of them, spread over all, one after the other.

Also `per_s`: how many such runs are started, waiting and evicted in a second; `disk_bytes` a run on disk.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.inside import until_waiting
from benchmarks.measuring import Stopwatch, quantiles_ms, rss_bytes, run
from benchmarks.model import Program, Sample, Size, Subject, Target
from boxflow import Context, Engine, workflow
from boxflow.ports import Store
from boxflow_backends.file_store import FileStore
from boxflow_backends.memory_store import MemoryStore

AT_ONCE = 500
NOTIFIED = 100


@workflow
async def wait(ctx: Context, number: int) -> None:
    await ctx.wait_for_event("go", f"go-{number}")


async def start(engine: Engine, begin: int, end: int) -> None:
    """Start the runs, and return when none of them is in memory."""
    for first in range(begin, end, AT_ONCE):
        ids = [f"run-{number:08d}" for number in range(first, min(first + AT_ONCE, end))]
        await asyncio.gather(*(engine.start(wait, int(run_id[4:]), run_id=run_id) for run_id in ids))
        for run_id in ids:
            await until_waiting(engine, run_id, evicted=True)


def measure(store_name: str, operations: int, directory: Path) -> Sample:
    warm_up = min(1000, operations // 2)
    path = directory / "store"

    async def main() -> Sample:
        store: Store = MemoryStore() if store_name == "memory" else FileStore(path, durability="interval")
        async with Engine([wait], store=store, max_resident_runs=0) as engine:
            await start(engine, 0, warm_up)
            before = rss_bytes()
            with Stopwatch() as watch:
                await start(engine, warm_up, operations)
            grown = rss_bytes() - before
            latencies = [await resumed_s(engine, number) for number in range(0, operations, operations // NOTIFIED)]
        values = {"run_bytes": grown / (operations - warm_up), **quantiles_ms(latencies)}
        return watch.sample(operations - warm_up, **values)

    sample = run(main())
    if store_name == "file":
        sample.values["reopened_bytes"] = reopened_bytes(path) / operations
        sample.values["disk_bytes"] = sum(file.stat().st_size for file in path.rglob("*.jsonl")) / operations
    return sample


async def resumed_s(engine: Engine, number: int) -> float:
    """How long it takes from the event to the result of the run that waits for it."""
    waiting = await engine.get(f"run-{number:08d}")
    begun = time.perf_counter()
    await engine.notify(f"go-{number}")
    await waiting.result()
    return time.perf_counter() - begun


def reopened_bytes(path: Path) -> float:
    """What resident memory grows by when a fresh process opens the store with an engine, compared to an empty store."""
    grown: list[int] = []
    for directory in (path.with_name("empty"), path):
        command = [sys.executable, "-m", "benchmarks.waiting", str(directory)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        grown.append(int(answer.stdout.split()[-1]))
    return grown[1] - grown[0]


async def reopen(path: Path) -> int:
    async with Engine([wait], store=FileStore(path), max_resident_runs=0):
        # The engine looks through what waits in the background. It has done so when its memory no longer changes.
        size = 0
        while abs((now := rss_bytes()) - size) > size // 200:
            size = now
            await asyncio.sleep(1.0)
        return now


def _subjects() -> list[Subject]:
    subjects: list[Subject] = []
    for store in ("memory", "file"):
        name = "MemoryStore" if store == "memory" else "FileStore"
        for number, sizes in (
            (400, [Size.TINY]),
            (10_000, [Size.QUICK, Size.NORMAL, Size.FULL]),
            (100_000, [Size.NORMAL, Size.FULL]),
            (1_000_000, [Size.FULL]),
        ):
            subjects.append(
                Subject(
                    name=f"{store}_{number}",
                    what=f"{name}, {number:,} waiting runs",
                    measure=partial(measure, store),
                    operations=dict.fromkeys(sizes, number),
                    shown=("run_bytes", "reopened_bytes", "p50_ms", "p99_ms", "per_s", "cpu_us", "disk_bytes"),
                )
            )
    return subjects


PROGRAM = Program(
    name="waiting",
    question="What do runs cost that wait: how much memory, and how long until one goes on?",
    subjects=tuple(_subjects()),
    targets=tuple(
        Target(
            promise=f"<= 500 bytes of memory for each evicted run ({what})",
            subject=f"file_{number}",
            measure=measure_name,
            limit=500,
            at_least=False,
        )
        for number in (100_000, 1_000_000)
        for measure_name, what in (
            ("run_bytes", f"{number:,} in the process that started them"),
            ("reopened_bytes", f"{number:,} after opening the store"),
        )
    ),
)

if __name__ == "__main__":
    print(run(reopen(Path(sys.argv[1]))))
