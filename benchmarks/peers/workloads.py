"""What is a peer asked to do? The workloads, on the driver's side; README.md says what each measures, and what not.

Each is bounded by its orders' seconds, softly: it ends with the first operation that is done after them.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from benchmarks.peers import meter
from benchmarks.peers.marks import marks
from benchmarks.peers.meter import Meter
from benchmarks.peers.protocol import CHAIN, LONG, SLEEP_S, Orders, Peer

Found = tuple[int, dict[str, float]]
"""How many operations, and the measures by name."""

PATIENCE_S = 20.0
"""How long a workload waits, beyond its seconds, for runs that are to go on. Then it counts those that did."""

WARM_UP_S = 0.3


async def sequence(peer: Peer, orders: Orders) -> Found:
    return await _busy(peer, CHAIN, orders)


async def long_runs(peer: Peer, orders: Orders) -> Found:
    return await _busy(peer, LONG, orders)


async def _busy(peer: Peer, steps: int, orders: Orders) -> Found:
    """Steps that ran while all runs are busy: what is under way at the end makes up for what was at the beginning.

    Short runs that begin together do the same at the same time. So the window opens when as many have ended as there
    are at once, which also lets what a peer does behind the body catch up, and closes when as many again have. Long
    ones end too late for that, and only do one thing all the time.
    """
    over, ended = False, 0

    async def one() -> None:
        nonlocal ended
        while not over:
            await peer.run("steps", steps)
            ended += 1

    def has_generation_ended(before: int) -> bool:
        return steps == LONG or ended - before >= orders.concurrency

    runs = [asyncio.create_task(one()) for _ in range(orders.concurrency)]
    await asyncio.sleep(WARM_UP_S)
    warm = 2 * orders.concurrency
    await _until(lambda: (marks.steps >= warm and has_generation_ended(0)) or _failed(runs), PATIENCE_S)
    first, before, deadline = marks.steps, ended, time.perf_counter() + orders.seconds
    with Meter(orders.servers) as measured:
        await _until(
            lambda: (time.perf_counter() >= deadline and has_generation_ended(before)) or _failed(runs), PATIENCE_S
        )
    done = marks.steps - first
    over = True
    await _raise_first(runs)
    if not done:
        raise RuntimeError(f"no step ran in {measured.wall_s:.1f} s")
    return done, measured.values(done)


async def fan_out(peer: Peer, orders: Orders) -> Found:
    return await _repeat(peer, "fan_out", orders.count, orders.count, orders)


async def chains(peer: Peer, orders: Orders) -> Found:
    return await _repeat(peer, "chains", orders.count, orders.count * CHAIN, orders)


async def payloads(peer: Peer, orders: Orders) -> Found:
    return await _repeat(peer, "payloads", orders.count, orders.count, orders)


async def _repeat(peer: Peer, workflow: str, count: int, steps: int, orders: Orders) -> Found:
    """One run after the other, whole ones, until the seconds are over; a small one first, to warm up."""
    await peer.run(workflow, min(count, 3))
    done, begun = 0, time.perf_counter()
    with Meter(orders.servers) as measured:
        while not done or time.perf_counter() - begun < orders.seconds:
            await peer.run(workflow, count)
            done += steps
    return done, measured.values(done)


async def waiting(peer: Peer, orders: Orders) -> Found:
    """Runs that wait, and what they take; then events, one at a time and many at once."""
    await _start(peer, "waits", ["warm"], orders, PATIENCE_S)
    await peer.notify("warm")
    await _until(lambda: "warm" in marks.finished, PATIENCE_S)

    before = _memory(orders)
    with Meter(orders.servers) as starting:
        names = await _start(peer, "waits", [f"w{n}" for n in range(orders.count)], orders, orders.seconds)
    started = starting.values(len(names))
    grown = _memory(orders) - before

    probes = names[: min(50, len(names) // 2)]
    alone = await _one_at_a_time(peer, probes, orders.seconds)
    rest = [name for name in names if name not in alone]
    sent = dict[str, float]()

    async def tell(name: str) -> None:
        sent[name] = time.time()
        await peer.notify(name)

    with Meter(orders.servers) as resuming:
        await _all(tell, rest, orders.concurrency)
        await _until(lambda: all(name in marks.finished for name in rest), orders.seconds + PATIENCE_S)
    resumed = [name for name in rest if name in marks.finished]
    if not resumed:
        raise RuntimeError(f"of {len(rest)} runs none went on in {resuming.wall_s:.0f} s after its event")
    found = resuming.values(len(resumed))
    found |= {f"started_{name}": started[name] for name in ("per_s", "cpu_us")}
    found |= _quantiles_ms(list(alone.values())) | {"run_bytes": grown / len(names), "started": float(len(names))}
    found["lost"] = float(len(rest) - len(resumed))
    return len(resumed), found


async def _one_at_a_time(peer: Peer, names: Sequence[str], seconds: float) -> dict[str, float]:
    """How long each took from the call to the line after the wait, in seconds; at least one, until the time is over."""
    found: dict[str, float] = {}
    begun = time.perf_counter()
    for name in names:
        sent_at = time.time()
        await peer.notify(name)
        await _until(lambda name=name: name in marks.resumed, PATIENCE_S, tick_s=0.0005)  # type: ignore[misc]  # mypy cannot infer a lambda's default
        found[name] = marks.resumed[name] - sent_at
        if time.perf_counter() - begun > seconds:
            break
    return found


async def timers(peer: Peer, orders: Orders) -> Found:
    """How late runs go on that all sleep for a second, from the moment at which each asked for it."""
    with Meter(orders.servers) as measured:
        names = await _start(peer, "sleeps", [f"t{n}" for n in range(orders.count)], orders, orders.seconds)
        await _until(lambda: all(name in marks.resumed for name in names), SLEEP_S + PATIENCE_S)
    woken = [name for name in names if name in marks.resumed]
    if not woken:
        raise RuntimeError(f"of {len(names)} runs that sleep {SLEEP_S:g} s none went on in {measured.wall_s:.0f} s")
    late = [marks.resumed[name] - marks.waiting[name] - SLEEP_S for name in woken]
    found = measured.values(len(woken)) | _quantiles_ms(late) | {"lost": float(len(names) - len(woken))}
    return len(woken), found


async def leave_waiting(peer: Peer, orders: Orders) -> Found:
    """The first half of `recovery`: runs that wait. Then this process is killed."""
    names = await _start(peer, "waits", [f"r{n}" for n in range(orders.count)], orders, 2 * orders.seconds)
    await asyncio.sleep(0.3)  # What a peer records after it has waited, it may record.
    return len(names), {}


async def take_up(peer: Peer, orders: Orders) -> Found:
    """The second half: a fresh process, in which all of them are to be finished. The driver adds when it began."""
    names = [f"r{n}" for n in range(orders.count)]
    with Meter(orders.servers) as measured:
        await _all(peer.notify, names, orders.concurrency)
        await _until(lambda: all(name in marks.finished for name in names), orders.seconds + PATIENCE_S)
    done = [marks.finished[name] for name in names if name in marks.finished]
    if not done:
        raise RuntimeError(f"of {len(names)} runs none was finished {measured.wall_s:.0f} s after the restart")
    return len(done), measured.values(len(done)) | {"finished_at": max(done), "lost": float(len(names) - len(done))}


async def cold(peer: Peer, _orders: Orders) -> Found:
    """One step. The driver adds how long the process took until here."""
    await peer.run("steps", 1)
    return 1, {"finished_at": time.time()}


# --- what they are made of -----------------------------------------------------------------------------------------


async def _start(peer: Peer, workflow: str, names: Sequence[str], orders: Orders, seconds: float) -> list[str]:
    """Start runs until all are started, or *seconds* are over; return the names of those, when all of them wait."""
    deadline = time.perf_counter() + seconds
    started: list[str] = []

    async def start(name: str) -> None:
        if started and time.perf_counter() > deadline:
            return
        await peer.start(workflow, name)
        started.append(name)

    await _all(start, names, orders.concurrency)
    await _until(lambda: all(name in marks.waiting for name in started), PATIENCE_S)
    if missing := [name for name in started if name not in marks.waiting]:
        raise RuntimeError(f"of {len(started)} runs that were started {len(missing)} did not come to their wait")
    return started


async def _all(act: Callable[[str], Awaitable[None]], names: Sequence[str], at_once: int) -> None:
    """Call *act* with each name, so many at once."""
    left = iter(names)

    async def one() -> None:
        for name in left:
            await act(name)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(names))):
            group.create_task(one())


async def _until(is_so: Callable[[], bool], seconds: float, *, tick_s: float = 0.002) -> None:
    """Return when it is so, or after *seconds*: whoever asked looks how far it came."""
    deadline = time.perf_counter() + seconds
    while not is_so() and time.perf_counter() < deadline:
        await asyncio.sleep(tick_s)


def _failed(tasks: Sequence[asyncio.Task[None]]) -> bool:
    """Whether one of them, which all go on until they are told, has not."""
    return any(task.done() for task in tasks)


async def _raise_first(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Raise what one of them has failed with; those under way are left behind, with the process."""
    for task in tasks:
        if task.done() and not task.cancelled():
            await task


def _memory(orders: Orders) -> int:
    import gc
    import os

    gc.collect()
    return meter.memory_bytes(meter.tree((os.getpid(), *orders.servers)))


def _quantiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 99
    return {"p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3}


WORKLOADS: dict[str, Callable[[Peer, Orders], Coroutine[Any, Any, Found]]] = {
    "sequence": sequence,
    "long_runs": long_runs,
    "fan_out": fan_out,
    "chains": chains,
    "payloads": payloads,
    "waiting": waiting,
    "timers": timers,
    "leave_waiting": leave_waiting,
    "take_up": take_up,
    "cold": cold,
}
