"""Where does the time of a step go? `python -m benchmarks.where [memory | file] [RUNS]`: microseconds a step, by part.

A profile of the workload of steps.py, grouped by the file that the time was spent in, scaled so that the sum is the
processor time of the event loop's thread without a profiler. The profiler charges every call about the same, so parts
made of many small functions look larger than they are. Use it to see the order of the parts, not the second digit.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measuring import run
from benchmarks.rounds import ROOT
from benchmarks.steps import steps
from boxflow import Engine
from boxflow.ports import Store
from boxflow_backends.file_store import FileStore
from boxflow_backends.memory_store import MemoryStore

STEPS = 10_000


async def spend(store: Store, runs: int, profile: cProfile.Profile | None) -> float:
    """Seconds of this thread's processor time."""
    async with Engine([steps], store=store) as engine:
        await asyncio.gather(*(engine.run(steps, 5) for _ in range(runs)))
        begun = time.thread_time()
        if profile is not None:
            profile.enable()
        await asyncio.gather(*(engine.run(steps, STEPS // runs) for _ in range(runs)))
        if profile is not None:
            profile.disable()
        return time.thread_time() - begun


def part(file: str, function: str) -> str:
    """The part that a profiled function belongs to."""
    if file in ("~", ""):
        return f"C: {function}"
    path = Path(file)
    if path.is_relative_to(ROOT):
        return str(path.relative_to(ROOT))
    return f"python: {path.parent.name}/{path.name}"


def main(kind: str, runs: int) -> None:
    directory = ROOT / ".boxflow" / "benchmarks"
    directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=directory) as scratch:

        def store(name: str) -> Store:
            return MemoryStore() if kind == "memory" else FileStore(Path(scratch) / name)

        plain_s = min(run(spend(store(f"plain-{number}"), runs, None)) for number in range(3))
        profile = cProfile.Profile()
        run(spend(store("profiled"), runs, profile))
    found: Counter[str] = Counter()
    for (file, _line, function), (_calls, _primitive, own_s, _whole_s, _callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]  # there is no public way to the numbers
        if "poll" not in function:  # waiting for the disk
            found[part(file, function)] += own_s
    total = sum(found.values())
    each_us = plain_s / STEPS * 1e6
    print(f"{kind}, {runs} runs at once: {each_us:.1f} µs of the loop's thread a step")
    for name, own_s in found.most_common(24):
        print(f"{own_s / total * each_us:6.2f} µs {own_s / total:5.0%}  {name}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "memory", int(sys.argv[2]) if len(sys.argv) > 2 else 100)
