"""What do the runner and the drivers agree on? Orders in, one line of JSON out, and what every peer can be asked."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CHAIN = 10
"""How many steps follow each other in a branch of `chains`, and in each run of `sequence`."""

LONG = 1000
"""How many do in each run of `long_runs`."""

BLOB_BYTES = 100_000
"""How large the value of a step of `payloads` is."""

SLEEP_S = 1.0
"""How long a run of `timers` sleeps."""

SPAWNED_AT = "BOXFLOW_BENCH_SPAWNED_AT"
"""The environment variable that tells a driver when its process was spawned, in seconds since the epoch."""


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What a driver is to do.

    :param variant: which settings of the peer
    :param count: at most so many operations
    :param concurrency: so many runs, or senders, at once
    :param seconds: a soft limit; what a slow peer does not manage in it, it need not
    :param directory: where an embedded peer keeps its state
    :param address: of the peer's server; empty for an embedded one
    :param port: where the driver may listen
    :param servers: the processes whose time and memory count as the peer's, with all their children
    """

    peer: str
    variant: str
    workload: str
    count: int
    concurrency: int
    seconds: float
    directory: Path
    address: str
    port: int
    servers: tuple[int, ...]


class Peer(Protocol):
    """An engine that is ready for work, with these workflows:

    - `steps`, `payloads`: so many steps, one after the other; the values of the latter are large
    - `fan_out`: so many steps at once, and all of their values
    - `chains`: so many branches at once, each `CHAIN` steps one after the other
    - `waits`: a step, a wait for the event of the run's name, a step; marks when it waits and when it goes on
    - `sleeps`: a durable timer of `SLEEP_S`; marks when it waits and when it goes on
    """

    async def run(self, workflow: str, count: int) -> None:
        """Start a run, and wait for its result as the peer's users would."""

    async def start(self, workflow: str, name: str) -> None:
        """Start `waits` or `sleeps`; return when the peer has promised to do it."""

    async def notify(self, name: str) -> None:
        """Send the event that the run of that name waits for."""


class Driver(Protocol):
    """A module of `drivers`."""

    def open_peer(self, orders: Orders) -> AbstractAsyncContextManager[Peer]:
        """A peer at work; runs that an earlier process left unfinished go on."""
        ...
