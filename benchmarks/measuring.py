"""How are time, processor time and memory measured? A stopwatch over this process and its children; RSS on Linux."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import ctypes.util
import gc
import math
import os
import resource
import statistics
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from benchmarks.model import Sample

T = TypeVar("T")


class Stopwatch:
    """Measures a `with` block: wall time, our processor time, and how much of the machine others used meanwhile."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0
        #: Processors that other processes kept busy; NaN where that cannot be known.
        self.noise = 0.0
        self._wall = self._cpu = self._machine = 0.0

    def __enter__(self) -> Self:
        gc.collect()
        self._machine, self._cpu, self._wall = _machine_cpu_s(), _own_cpu_s(), time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.wall_s = time.perf_counter() - self._wall
        self.cpu_s = _own_cpu_s() - self._cpu
        others_s = _machine_cpu_s() - self._machine - self.cpu_s
        self.noise = others_s if math.isnan(others_s) else max(others_s, 0.0) / self.wall_s

    def sample(self, operations: int, **more: float) -> Sample:
        """Rate, processor time for each operation, and what else was measured."""
        values = {
            "per_s": operations / self.wall_s,
            "cpu_us": self.cpu_s / operations * 1e6,
            "wall_s": self.wall_s,
            **more,
        }
        if not math.isnan(self.noise):
            values["noise"] = self.noise
        return Sample(operations=operations, values=values)


def _own_cpu_s() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    return total


def _machine_cpu_s() -> float:
    """What all processors of the machine have spent on work since it started; NaN off Linux."""
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0]
    except OSError:
        return float("nan")
    user, nice, system, _idle, _iowait, irq, softirq = (int(text) for text in first.split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def quantiles_ms(seconds: Sequence[float], prefix: str = "") -> dict[str, float]:
    """The median and the 99th percentile of latencies."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 99
    return {f"{prefix}p50_ms": cuts[49] * 1e3, f"{prefix}p99_ms": cuts[98] * 1e3}


def rss_bytes() -> int:
    """Resident memory of this process, after what is garbage has been given back to the system."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc has it, others do not
        ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def drop_from_page_cache(root: Path) -> None:
    """Ask the kernel to forget the files under *root*, so that reading them reads the disk. Advice, no promise."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in root.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, on uvloop where `BOXFLOW_BENCH_UVLOOP` asks for it."""
    if os.environ.get("BOXFLOW_BENCH_UVLOOP"):
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    return asyncio.run(main)
