"""On which machine was that measured? Facts that a number needs to be read, and nothing that identifies the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import time
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about the machine, the disk that was measured, and the programs."""

    measured_at: str
    processor: str
    processors: int
    memory_gib: float
    system: str
    file_system: str
    python: str
    loop: str
    packages: dict[str, str]
    load: float


def look(directory: Path) -> Machine:
    """The facts, for stores in *directory*."""
    return Machine(
        measured_at=time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        processor=_processor(),
        processors=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        file_system=_file_system(directory),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        loop="uvloop" if os.environ.get("BOXFLOW_BENCH_UVLOOP") else "asyncio",
        packages={name: importlib.metadata.version(name) for name in ("msgspec", "anyio", "attrs")},
        load=round(os.getloadavg()[0], 2),
    )


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _file_system(directory: Path) -> str:
    """The type of the file system that *directory* is on: the longest mount point above it."""
    if sys.platform != "linux":
        return "unknown"
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, this, options = line.split()[:4]
        above = directory.resolve().is_relative_to(mount)
        if above and len(mount) >= len(best):
            best, kind = mount, f"{this} ({','.join(o for o in options.split(',') if 'barrier' in o or 'data=' in o)})"
    return kind.removesuffix(" ()")
