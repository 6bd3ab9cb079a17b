"""How long from an event to the body that waited for it?

Many runs wait, each for an event of its own; one event after the other is sent with `Engine.notify` to an otherwise
idle engine in the same process. The latency is from the call until the line after the wait in the body. In between
the event is appended to the run's journal, and durable; when the run is evicted, it is first rebuilt from the store.

The floor beside the FileStore is one append + fdatasync, by a thread that the event loop waits for: what being
durable costs alone before anybody may be told.

Not measured: senders in other processes, many events at once, webhooks over HTTP.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from benchmarks.floors import GroupCommitLog
from benchmarks.inside import until_waiting
from benchmarks.measuring import Stopwatch, quantiles_ms, run
from benchmarks.model import Program, Sample, Subject, Target, counts
from boxflow import Context, Engine, workflow
from boxflow.ports import Store
from boxflow_backends.file_store import FileStore
from boxflow_backends.memory_store import MemoryStore

resumed_at: dict[int, float] = {}
"""When the body of each run went on; outside of the law, which is why it feeds nothing back."""


@workflow
async def wait(ctx: Context, number: int) -> None:
    await ctx.wait_for_event("go", f"go-{number}")
    resumed_at[number] = time.perf_counter()


def measure(store_name: str, evicted: bool, operations: int, directory: Path) -> Sample:
    warm_up = 10

    async def main() -> Sample:
        store: Store = MemoryStore() if store_name == "memory" else FileStore(directory / "store")
        limit = 0 if evicted else operations + warm_up + 10
        async with Engine([wait], store=store, max_resident_runs=limit) as engine:
            runs = [await engine.start(wait, number) for number in range(operations + warm_up)]
            for one in runs:
                await until_waiting(engine, one.id, evicted=evicted)
            for number in range(warm_up):
                await engine.notify(f"go-{number}")
                await runs[number].result()
            latencies: list[float] = []
            with Stopwatch() as watch:
                for number in range(warm_up, operations + warm_up):
                    sent_at = time.perf_counter()
                    await engine.notify(f"go-{number}")
                    await runs[number].result()
                    latencies.append(resumed_at[number] - sent_at)
            return watch.sample(operations, **quantiles_ms(latencies))

    return run(main())


def floor(operations: int, directory: Path) -> Sample:
    async def main() -> Sample:
        log = GroupCommitLog(directory / "floor.log")
        latencies: list[float] = []
        with Stopwatch() as watch:
            for _ in range(operations):
                begun = time.perf_counter()
                await log.append(b"x" * 299 + b"\n")
                latencies.append(time.perf_counter() - begun)
        log.close()
        return watch.sample(operations, **quantiles_ms(latencies))

    return run(main())


OPERATIONS = counts(tiny=5, quick=200, normal=1000)
SHOWN = ("p50_ms", "p99_ms", "cpu_us")

PROGRAM = Program(
    name="latency",
    question="How long from an event to the body that waited for it?",
    subjects=(
        Subject(
            name="append",
            what="floor: one durable append by a thread",
            measure=floor,
            operations=OPERATIONS,
            shown=SHOWN,
        ),
        *(
            Subject(
                name=f"{store}_{'evicted' if evicted else 'resident'}",
                what=f"{'MemoryStore' if store == 'memory' else 'FileStore'}, run "
                f"{'evicted' if evicted else 'in memory'}",
                measure=partial(measure, store, evicted),
                operations=OPERATIONS,
                shown=SHOWN,
            )
            for store in ("memory", "file")
            for evicted in (False, True)
        ),
    ),
    targets=(
        Target(
            promise="event to resumed body, p50 <= 2 ms (FileStore, evicted)",
            subject="file_evicted",
            measure="p50_ms",
            limit=2,
            at_least=False,
        ),
        Target(
            promise="event to resumed body, p50 <= 2 ms (FileStore, in memory)",
            subject="file_resident",
            measure="p50_ms",
            limit=2,
            at_least=False,
        ),
    ),
)
