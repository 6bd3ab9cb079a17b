"""What does a peer cost, its driver and its servers together? Read from /proc, over trees of processes.

- Processor time is that of every process of the trees, in ticks of 10 ms, and of their children that have ended.
- Written bytes are `write_bytes` of /proc/PID/io: what was made dirty, in whole pages, on its way to the disk. A record
  of 300 bytes with a sync of its own so counts as 4,096: as many as the disk has to write.
- Memory is the proportional set size, in which pages that several processes share count once in all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

_PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def tree(roots: Iterable[int]) -> list[int]:
    """The processes *roots*, their children, and so on."""
    parents: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(roots)
    for pid in found:  # It grows while it is walked: breadth first.
        found += parents.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (the state); none when the process is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_s(pids: Iterable[int]) -> float:
    return sum(sum(map(int, fields[11:15])) for pid in pids if (fields := _stat(pid))) * _TICK_S


def machine_cpu_s() -> float:
    """What all processors have spent on work since the machine started."""
    user, nice, system, _idle, _iowait, irq, softirq = map(
        int, (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) * _TICK_S


def written_bytes(pids: Iterable[int]) -> int:
    return sum(_number(pid, "io", "write_bytes:") for pid in pids)


def memory_bytes(pids: Iterable[int]) -> int:
    return 1024 * sum(_number(pid, "smaps_rollup", "Pss:") for pid in pids)


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    return 1024 * _number(os.getpid(), "status", "VmHWM:")


def _number(pid: int, name: str, label: str) -> int:
    """The number after *label* in a file of /proc/PID; 0 where it cannot be read."""
    try:
        text = (_PROC / str(pid) / name).read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(label)), 0)


class Meter:
    """Measures a `with` block: time, processor time, bytes written, and how much of the machine others used."""

    def __init__(self, servers: tuple[int, ...]) -> None:
        self._roots = (os.getpid(), *servers)
        self._servers = servers
        self.wall_s = self.cpu_s = self.noise = self.written = 0.0
        self._before = (0.0, 0.0, 0.0, 0.0)

    def __enter__(self) -> Meter:
        self._before = self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        wall, cpu, machine, written = (now - then for now, then in zip(self._read(), self._before, strict=True))
        self.wall_s, self.cpu_s, self.written = wall, cpu, written
        self.noise = max(machine - cpu, 0) / wall

    def _read(self) -> tuple[float, float, float, float]:
        pids = tree(self._roots)
        return time.perf_counter(), cpu_s(pids), machine_cpu_s(), written_bytes(pids)

    def values(self, operations: int) -> dict[str, float]:
        """The measures, for so many operations."""
        return {
            "per_s": operations / self.wall_s,
            "cpu_us": self.cpu_s / operations * 1e6,
            "written_bytes": self.written / operations,
            "driver_mb": peak_bytes() / 1e6,
            "server_mb": memory_bytes(tree(self._servers)) / 1e6 if self._servers else 0.0,
            "wall_s": self.wall_s,
            "noise": self.noise,
        }
