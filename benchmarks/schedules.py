"""Does every run survive a crash at any moment? Seeded schedules of random workflows, crashed and gone on with.

    python -m benchmarks.schedules --count 10000 --seed 1

A schedule here is one life of an engine that goes on from what a crash left: a random workflow, random messages,
random moves, and a crash after a random write. What is checked in each of them stands in `tests/crash/schedules.py`.
Exits with 1 when a promise was broken, and says how to see that schedule again.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator
from random import Random

import attrs

from tests.crash.schedules import Schedule, ScheduleFailed, crash_and_replay, generate, see_again

CRASHES_A_PLAN = 6
PLANS_A_TASK = 20

KINDS = {
    "diverged": "divergences",
    "neither received nor kept": "lost_outcomes",
    "thrown away": "lost_outcomes",
    "stuck": "lost_outcomes",
    "twice": "duplicates",
    "runs again": "duplicates",
    "again": "duplicates",
    "not the same at position": "divergences",
}
"""Which count a broken promise belongs to, by words of its message; `other` has the rest."""


@attrs.frozen(kw_only=True)
class Tally:
    """What some plans came to."""

    plans: int = 0
    schedules: int = 0
    outcomes: int = 0
    failures: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            plans=self.plans + other.plans,
            schedules=self.schedules + other.schedules,
            outcomes=self.outcomes + other.outcomes,
            failures=self.failures + other.failures,
        )


def try_plans(seeds: range) -> Tally:
    """Live through the schedules of *seeds*, each without a crash and then with several."""
    logging.getLogger("boxflow").setLevel(logging.CRITICAL + 1)
    tally = Tally()
    for seed in seeds:
        try:
            found = crash_and_replay(generate(Random(seed)), crashes=CRASHES_A_PLAN)
            tally += Tally(plans=1, schedules=found.lives - 1, outcomes=found.outcomes)
        except ScheduleFailed as failure:
            tally += Tally(plans=1, schedules=1, failures=((kind_of(failure), f"seed {seed}: {failure}"),))
    return tally


def kind_of(failure: ScheduleFailed) -> str:
    """The count that *failure* belongs to."""
    message = str(failure.found)
    return next((kind for words, kind in KINDS.items() if words in message), "other")


def ranges(seed: int) -> Iterator[range]:
    """Seeds without an end, in portions."""
    while True:
        yield range(seed, seed + PLANS_A_TASK)
        seed += PLANS_A_TASK


def run_all(count: int, seed: int, processes: int) -> Tally:
    """At least *count* schedules, from *seed* on. The same for any number of *processes*."""
    tally = Tally()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        portions = ranges(seed)
        while tally.schedules < count and len(tally.failures) < 10:
            for part in pool.imap(try_plans, [next(portions) for _ in range(processes * 2)]):
                tally += part
                print(f"\r{tally.schedules} schedules, {len(tally.failures)} failures", end="", file=sys.stderr)
    print(file=sys.stderr)
    return tally


def report(tally: Tally, seed: int, took_s: float) -> dict[str, object]:
    """The numbers, with the facts of this machine."""
    kinds = Counter(kind for kind, _ in tally.failures)
    return {
        "benchmark": "schedules",
        "seed": seed,
        "plans": tally.plans,
        "schedules": tally.schedules,
        "outcomes": tally.outcomes,
        "divergences": kinds["divergences"],
        "lost_outcomes": kinds["lost_outcomes"],
        "duplicates": kinds["duplicates"],
        "other_failures": kinds["other"],
        "seconds": round(took_s, 2),
        "schedules_per_s": round(tally.schedules / took_s, 1),
        "machine": {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()},
    }


def main() -> int:
    """Run it, or see one schedule again."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.schedules", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="how many schedules at least")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--schedule", help="see one schedule again, as a failure printed it")
    parser.add_argument("--crashes", default="", help="with --schedule: the writes after which it crashes, as '3,8'")
    options = parser.parse_args()
    if options.schedule is not None:
        life = see_again(Schedule.from_text(options.schedule), [int(one) for one in options.crashes.split(",") if one])
        print(f"ended {life.status}: {life.result.decode()}")
        return 0
    begun = time.perf_counter()
    tally = run_all(options.count, options.seed, options.processes)
    result = report(tally, options.seed, time.perf_counter() - begun)
    for kind, message in tally.failures:
        print(f"{kind}: {message}\n", file=sys.stderr)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print("\n".join(f"{name:16} {value}" for name, value in result.items()))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
