"""Does opening a FileStore cost what is unfinished, or what ever ran?

A store is filled with finished runs of one step through an engine, closed, and dropped from the page cache; then a
fresh process opens it. `open_ms` is that opening (the median of several), `open_rss_bytes` the memory of the process
after it. Beside it, an empty store. `close_ms` is what closing took after the filling: it compacts.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measuring import Stopwatch, drop_from_page_cache, rss_bytes, run
from benchmarks.model import Program, Sample, Subject, Target, counts
from benchmarks.steps import steps
from boxflow import Engine
from boxflow_backends.file_store import FileStore

AT_ONCE = 200
OPENINGS = 3


async def fill(path: Path, operations: int) -> float:
    """Leave *operations* finished runs; how long closing took."""
    async with Engine([steps], store=FileStore(path, durability="os")) as engine:
        for begin in range(0, operations, AT_ONCE):
            await asyncio.gather(*(engine.run(steps, 1) for _ in range(min(AT_ONCE, operations - begin))))
        begun = time.perf_counter()
    return time.perf_counter() - begun


async def open_once(path: Path) -> None:
    begun = time.perf_counter()
    async with FileStore(path):
        opened = time.perf_counter()
        print((opened - begun) * 1e3, rss_bytes())


def measure(operations: int, directory: Path) -> Sample:
    path = directory / "store"
    close_s = run(fill(path, operations if operations > 1 else 0))
    times, sizes = list[float](), list[float]()
    with Stopwatch() as watch:
        for _ in range(OPENINGS):
            drop_from_page_cache(path)
            command = [sys.executable, "-m", "benchmarks.opening", str(path)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
            took, size = answer.stdout.split()
            times.append(float(took))
            sizes.append(float(size))
    disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return watch.sample(
        operations,
        open_ms=statistics.median(times),
        close_ms=close_s * 1e3,
        open_rss_bytes=statistics.median(sizes),
        disk_bytes=disk / operations,
    )


SHOWN = ("open_ms", "open_rss_bytes", "close_ms", "disk_bytes")

PROGRAM = Program(
    name="opening",
    question="Does opening a FileStore cost what is unfinished, or what ever ran?",
    subjects=(
        Subject(
            name="empty",
            what="an empty store",
            measure=measure,
            operations=counts(tiny=1, quick=1, normal=1),
            shown=("open_ms", "open_rss_bytes"),
        ),
        Subject(
            name="finished",
            what="a store with that many finished runs",
            measure=measure,
            operations=counts(tiny=20, quick=5_000, normal=50_000, full=1_000_000),
            shown=SHOWN,
        ),
    ),
    targets=(
        Target(
            promise="opening costs what is unfinished: <= 50 ms with finished runs only (§6; the number is ours)",
            subject="finished",
            measure="open_ms",
            limit=50,
            at_least=False,
        ),
    ),
)

if __name__ == "__main__":
    run(open_once(Path(sys.argv[1])))
