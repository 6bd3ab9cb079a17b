"""How long does `import boxflow` take, and how soon does a cold process have its first result?

Each operation is a Python process. `process_ms` is its whole life as its parent sees it (the median of all);
`inside_ms` is what it measured itself around its import, or nothing. The floors are a process that does nothing and
one that imports asyncio alone. "Cold" is the process, not the disk: the files are in the page cache, the byte code is
compiled.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.measuring import Stopwatch
from benchmarks.model import Program, Sample, Subject, Target, counts

PACKAGES = "asyncio, anyio, attrs, msgspec"
"""What boxflow itself imports."""

IMPORT = """
import time
begun = time.perf_counter()
import {module}
print((time.perf_counter() - begun) * 1e3)
"""

FIRST_RESULT = """
import asyncio
from boxflow import Context, Engine, workflow

async def work(number: int) -> int:
    return number

@workflow
async def first(ctx: Context, number: int) -> int:
    return await ctx.run("step", work, number)

async def main() -> None:
    async with Engine([first], store={store!r}) as engine:
        assert await engine.run(first, 7) == 7

asyncio.run(main())
"""


def measure(program: str, operations: int, directory: Path) -> Sample:
    process, inside = list[float](), list[float]()

    def once(number: int) -> None:
        code = program.replace("STORE", str(directory / f"store-{number}"))
        begun = time.perf_counter()
        answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
        process.append((time.perf_counter() - begun) * 1e3)
        inside.append(float(answer.stdout or 0))

    once(-1)
    process.clear()
    inside.clear()
    with Stopwatch() as watch:
        for number in range(operations):
            once(number)
    more = {"process_ms": statistics.median(process)}
    if any(inside):
        more["inside_ms"] = statistics.median(inside)
    return watch.sample(operations, **more)


OPERATIONS = counts(tiny=1, quick=5, normal=11)

PROGRAM = Program(
    name="startup",
    question="How long until a cold process has boxflow, and its first result?",
    subjects=tuple(
        Subject(
            name=name,
            what=what,
            measure=partial(measure, program),
            operations=OPERATIONS,
            shown=("process_ms", "inside_ms", "cpu_us"),
        )
        for name, what, program in (
            ("pass", "floor: python -c pass", "pass"),
            ("asyncio", "floor: import asyncio", IMPORT.format(module="asyncio")),
            ("packages", f"floor: import {PACKAGES}", IMPORT.format(module=PACKAGES)),
            ("import", "import boxflow", IMPORT.format(module="boxflow")),
            ("first_memory", "first result, MemoryStore", FIRST_RESULT.format(store="memory:")),
            ("first_file", "first result, FileStore, new directory", FIRST_RESULT.format(store="file:STORE")),
        )
    ),
    targets=(
        Target(
            promise="import boxflow <= 100 ms",
            subject="import",
            measure="inside_ms",
            limit=100,
            at_least=False,
        ),
        Target(
            promise="first result from a cold process <= 250 ms (FileStore)",
            subject="first_file",
            measure="process_ms",
            limit=250,
            at_least=False,
        ),
    ),
)
