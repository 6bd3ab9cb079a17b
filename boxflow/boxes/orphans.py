"""Which boxes does nobody own any more? Those of a process of this machine that is dead, or whose time is up.

An engine with a store that outlives it knows its boxes from there. This is for all others: a box of an `async with`
block, and those of an engine whose store is gone with its process.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from boxflow.errors import SandboxError
from boxflow.ports import BoxInfo, Sandbox

log = logging.getLogger("boxflow")

OWNER_LABEL: Final = "boxflow.owner"
"""The process with which the box must go: machine, boot, process id, start time."""

DIES_AT_LABEL: Final = "boxflow.dies-at"
"""When the box's ttl is past, in seconds since the epoch."""

ENGINE_LABEL: Final = "boxflow.engine"
"""The engine that has the box in its records, and looks after it by itself."""


@cache
def this_process() -> str:
    """What marks a box as owned by this process."""
    return f"{platform.node()}|{_boot()}|{os.getpid()}|{_start_time(os.getpid())}"


def is_orphan(info: BoxInfo, now: float) -> bool:
    """Whether the box's owner is dead, or its time is up and no engine looks after it."""
    owner = info.labels.get(OWNER_LABEL)
    if owner is not None and _is_dead(owner):
        return True
    return ENGINE_LABEL not in info.labels and _past(info.labels, now)


async def delete_orphans(sandbox: Sandbox, now: float) -> int:
    """Delete the boxes that nobody owns any more. Returns how many went; one that resists is left for the next time."""
    gone = 0
    for info in await sandbox.list({}):
        if not is_orphan(info, now):
            continue
        try:
            await sandbox.delete(info.box_id)
        except SandboxError as error:
            log.warning("box %r could not be deleted, will be tried again: %s", info.box_id, error)
        else:
            gone += 1
            log.info("deleted box %r, which nobody owned any more", info.box_id)
    return gone


def _past(labels: Mapping[str, str], now: float) -> bool:
    try:
        return float(labels[DIES_AT_LABEL]) <= now
    except (KeyError, ValueError):
        return False


def _is_dead(owner: str) -> bool:
    node, _, rest = owner.partition("|")
    boot, _, rest = rest.partition("|")
    pid, _, started = rest.partition("|")
    if node != platform.node() or not pid.isdigit():
        # Of another machine that shares the sandbox: whether it is dead cannot be seen from here.
        return False
    return boot != _boot() or _start_time(int(pid)) != started


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "-"


def _start_time(pid: int) -> str:
    """When the process began, in clock ticks since the boot; empty when there is none of this id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    # Without /proc an id that was used again passes for the process of old: then a box stays, and none goes too early.
    return "-"
