"""How many durable steps a second, in one run and in 100 at once, in memory and on disk?

Each run is a body that awaits `ctx.run("step", work, n)` in a loop; `work` is a coroutine function that returns its
argument. So what is measured is boxflow alone: issuing a step, running it, encoding its value, appending the outcome,
delivering it to the body. Creating the runs and ending them is in the time, spread over their steps.

Not measured: plain functions (each costs a hand-over to a worker thread), large values, what steps do.

The floors append records as long as boxflow's, in the same round: see `benchmarks/floors.py`.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import floors
from benchmarks.measuring import Stopwatch, run
from benchmarks.model import Program, Sample, Subject, Target, counts
from boxflow import Context, Engine, workflow
from boxflow.ports import Store
from boxflow_backends.file_store import FileStore
from boxflow_backends.file_store.writer import Durability
from boxflow_backends.memory_store import MemoryStore


async def work(number: int) -> int:
    return number


@workflow
async def steps(ctx: Context, count: int) -> int:
    for number in range(count):
        await ctx.run("step", work, number)
    return count


def measure(store: Store, runs: int, operations: int, share: int | None = None) -> Sample:
    """*operations* steps in *runs* runs at once; with *share* each run has that many, and a new one follows it."""
    each = max(operations // runs, 1) if share is None else share
    rounds = 1 if share is None else max(operations // (runs * share), 1)

    async def one(engine: Engine) -> None:
        for _ in range(rounds):
            await engine.run(steps, each)

    async def main() -> Sample:
        async with Engine([steps], store=store) as engine:
            await asyncio.gather(*(engine.run(steps, 5) for _ in range(min(runs, 20))))
            with Stopwatch() as watch:
                await asyncio.gather(*(one(engine) for _ in range(runs)))
            return watch.sample(runs * each * rounds)

    return run(main())


def in_memory(runs: int, operations: int, _directory: Path) -> Sample:
    return measure(MemoryStore(), runs, operations)


def on_disk(durability: Durability, runs: int, share: int | None, operations: int, directory: Path) -> Sample:
    return measure(FileStore(directory / "store", durability=durability), runs, operations, share)


def a_record() -> bytes:
    """As many bytes as boxflow's line for one such step."""
    with TemporaryDirectory() as scratch:
        measure(FileStore(scratch, durability="os"), 1, 20)
        lines = [line for path in Path(scratch).glob("log/*.jsonl") for line in path.read_bytes().splitlines(True)]
    sizes = sorted(len(line) for line in lines if json.loads(line)["op"] == "append")
    return b"x" * (sizes[len(sizes) // 2] - 1) + b"\n"


def floor_bare_asyncio(tasks: int, operations: int, _directory: Path) -> Sample:
    return floors.bare_asyncio(tasks, operations)


def floor_append_fdatasync(operations: int, directory: Path) -> Sample:
    return floors.append_fdatasync(operations, directory, a_record())


def floor_group_commit(tasks: int, sync: bool, operations: int, directory: Path) -> Sample:
    return floors.group_commit(tasks, operations, directory, a_record(), sync=sync)


MANY = counts(tiny=200, quick=10_000, normal=50_000)
ONE = counts(tiny=20, quick=500, normal=2_000)

PROGRAM = Program(
    name="steps",
    question="How many durable steps a second?",
    subjects=(
        Subject(
            name="asyncio_100",
            what="floor: bare asyncio, 100 tasks, a task for each step",
            measure=partial(floor_bare_asyncio, 100),
            operations=MANY,
        ),
        Subject(
            name="memory_1",
            what="MemoryStore, one run",
            measure=partial(in_memory, 1),
            operations=MANY,
        ),
        Subject(
            name="memory_100",
            what="MemoryStore, 100 runs at once",
            measure=partial(in_memory, 100),
            operations=MANY,
        ),
        Subject(
            name="append_1",
            what="floor: append + fdatasync, one after the other",
            measure=floor_append_fdatasync,
            operations=ONE,
        ),
        Subject(
            name="file_1",
            what="FileStore, one run",
            measure=partial(on_disk, "always", 1, None),
            operations=ONE,
        ),
        Subject(
            name="group_commit_1",
            what="floor: group-commit log, one task",
            measure=partial(floor_group_commit, 1, True),
            operations=ONE,
        ),
        Subject(
            name="group_commit_100",
            what="floor: group-commit log, 100 tasks",
            measure=partial(floor_group_commit, 100, True),
            operations=MANY,
        ),
        Subject(
            name="file_100",
            what="FileStore, 100 runs at once",
            measure=partial(on_disk, "always", 100, None),
            operations=MANY,
        ),
        Subject(
            name="file_100x10",
            what="FileStore, 100 runs of 10 steps at once, and again",
            measure=partial(on_disk, "always", 100, 10),
            operations=MANY,
        ),
        Subject(
            name="group_commit_100_unsynced",
            what="floor: group-commit log without the sync, 100 tasks",
            measure=partial(floor_group_commit, 100, False),
            operations=MANY,
        ),
        Subject(
            name="file_100_interval",
            what='FileStore(durability="interval"), 100 runs at once',
            measure=partial(on_disk, "interval", 100, None),
            operations=MANY,
        ),
        Subject(
            name="file_100_os",
            what='FileStore(durability="os"), 100 runs at once',
            measure=partial(on_disk, "os", 100, None),
            operations=MANY,
        ),
        Subject(
            name="file_1_os",
            what='FileStore(durability="os"), one run',
            measure=partial(on_disk, "os", 1, None),
            operations=MANY,
        ),
    ),
    targets=(
        Target(
            promise="FileStore, 100 runs at once: >= 0.4 of a bare group-commit log",
            subject="file_100",
            over="group_commit_100",
            measure="per_s",
            limit=0.4,
            at_least=True,
        ),
        Target(
            promise="FileStore, one run: >= 0.5 of append + fdatasync alone",
            subject="file_1",
            over="append_1",
            measure="per_s",
            limit=0.5,
            at_least=True,
        ),
        Target(
            promise="MemoryStore: >= 25,000 steps/s on one core (100 runs at once)",
            subject="memory_100",
            measure="per_s",
            limit=25_000,
            at_least=True,
        ),
        Target(
            promise="the same as processor time: <= 40 µs a step (steadier on a machine that others use)",
            subject="memory_100",
            measure="cpu_us",
            limit=40,
            at_least=False,
        ),
        Target(
            promise="MemoryStore: >= 25,000 steps/s on one core (one run)",
            subject="memory_1",
            measure="per_s",
            limit=25_000,
            at_least=True,
        ),
    ),
)
