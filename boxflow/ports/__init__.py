"""What boxflow asks of others: the Protocols `Clock`, `Store` and `Sandbox`, and the data they exchange.

A backend imports this module, `boxflow.model` and `boxflow.errors`, and nothing else of boxflow. The duties are written
as prose beside each Protocol, and as tests in `boxflow.testing.StoreContract`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from boxflow.ports.clock import Clock
from boxflow.ports.store import Fence, RunQuery, Store, StoredRun

if TYPE_CHECKING:
    from boxflow.ports.box import (
        BoxInfo,
        BoxSpec,
        BoxStatus,
        Capability,
        Egress,
        FileInfo,
        Network,
        ProcessSpec,
        SnapshotInfo,
        TerminalSize,
    )
    from boxflow.ports.sandbox import Process, Sandbox

__all__ = [
    "BoxInfo",
    "BoxSpec",
    "BoxStatus",
    "Capability",
    "Clock",
    "Egress",
    "Fence",
    "FileInfo",
    "Network",
    "Process",
    "ProcessSpec",
    "RunQuery",
    "Sandbox",
    "SnapshotInfo",
    "Store",
    "StoredRun",
    "TerminalSize",
]

# What sandboxes are asked for, by the module that has it. It is loaded when one of its names is first asked for: with
# what it imports it took a tenth of the time of `import boxflow`, and a program without boxes needs none of it.
_MODULES = {
    "BoxInfo": "box",
    "BoxSpec": "box",
    "BoxStatus": "box",
    "Capability": "box",
    "Egress": "box",
    "FileInfo": "box",
    "Network": "box",
    "Process": "sandbox",
    "ProcessSpec": "box",
    "Sandbox": "sandbox",
    "SnapshotInfo": "box",
    "TerminalSize": "box",
}

if not TYPE_CHECKING:  # Type checkers would take any name to be there.

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value  # So that it is asked for once.
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
