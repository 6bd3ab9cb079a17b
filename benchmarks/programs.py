"""Which programs are there? Their names, in the order in which they run; one is imported when it is asked for."""

from __future__ import annotations

import importlib

from benchmarks.model import Program

NAMES = (
    "steps",
    "growth",
    "replay",
    "waiting",
    "latency",
    "webhooks",
    "startup",
    "opening",
    "pauses",
    "testkit",
    "boxes",
)


def load(name: str) -> Program:
    """The program of that name; `peers.NAME` is a workload of the peers."""
    if name.startswith("peers."):
        from benchmarks.peers.programs import load as load_workload

        return load_workload(name.removeprefix("peers."))
    program = importlib.import_module(f"benchmarks.{name}").PROGRAM
    assert isinstance(program, Program)
    return program
