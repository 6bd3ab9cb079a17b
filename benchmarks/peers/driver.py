"""How is a peer driven? In its own environment: `python -m benchmarks.peers.driver WORKLOAD --count N ...`.

The last line of output is one sample as JSON: `{"operations": 100, "values": {"per_s": ...}}`, or `{"error": "why"}`.
What the peer itself prints goes before it, or to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from benchmarks.peers.protocol import SPAWNED_AT, Driver, Orders
from benchmarks.peers.workloads import WORKLOADS

KILLED_WITHIN_S = 60
"""How long a driver that is to be killed stays for it."""


def parse(arguments: list[str]) -> Orders:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.driver")
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("--peer", required=True)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--address", default="")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--servers", type=int, nargs="*", default=[])
    found = vars(parser.parse_args(arguments))
    found["servers"] = tuple(found["servers"])
    return Orders(**found)


async def drive(driver: Driver, orders: Orders, spawned_at: float, import_ms: float) -> None:
    """Do the work, print the sample, and be gone.

    At once, without closing: runs may be under way, and a peer that waits for them, or cancels them, would do so in the
    time of the next sample. Servers and state are thrown away anyway.
    """
    async with driver.open_peer(orders) as peer:
        ready_ms = (time.time() - spawned_at) * 1e3
        operations, values = await WORKLOADS[orders.workload](peer, orders)
        if (finished_at := values.pop("finished_at", None)) is not None:
            values |= {"import_ms": import_ms, "ready_ms": ready_ms, "finished_ms": (finished_at - spawned_at) * 1e3}
        answer({"operations": operations, "values": values})
        if orders.workload == "leave_waiting":
            await asyncio.sleep(KILLED_WITHIN_S)
        os._exit(0)


def answer(sample: dict[str, object]) -> None:
    print(f"\n{json.dumps(sample)}", flush=True)


def reason(error: BaseException) -> str:
    """What went wrong, in a line: of a group, the first that did."""
    errors: Sequence[BaseException] = getattr(error, "exceptions", ())
    if errors:
        return reason(errors[0])
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def main() -> None:
    spawned_at = float(os.environ.get(SPAWNED_AT) or time.time())
    orders = parse(sys.argv[1:])
    try:
        begun = time.perf_counter()
        driver = cast(Driver, importlib.import_module(f"benchmarks.peers.drivers.{orders.peer}"))
        import_ms = (time.perf_counter() - begun) * 1e3
        asyncio.run(drive(driver, orders, spawned_at, import_ms))
    except Exception as error:  # Whatever a peer raises is the answer: it is reported in its row.
        answer({"error": reason(error)})
        raise


if __name__ == "__main__":
    main()
