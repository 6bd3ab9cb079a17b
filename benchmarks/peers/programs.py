"""Which workloads are there, and how large? One program each; README.md has a page on what each measures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import attrs

from benchmarks.model import Program, Size, Subject, Target, counts
from benchmarks.peers.protocol import CHAIN, LONG
from benchmarks.peers.sampling import measure
from benchmarks.peers.variants import VARIANTS

RATE = ("per_s", "cpu_us", "written_bytes", "driver_mb", "server_mb")
REFERENCE = "boxflow_file_always"


@attrs.frozen(kw_only=True)
class Workload:
    """A question for all peers.

    :param workload: what the drivers call it
    :param operations: at most so many; the seconds of a sample usually end it first
    """

    name: str
    workload: str
    question: str
    operations: Mapping[Size, int]
    concurrency: int = 1
    shown: tuple[str, ...] = RATE
    targets: tuple[Target, ...] = ()


def _ahead(steps: int) -> tuple[Target, ...]:
    """Ahead of the engines that have a server or a database."""
    return tuple(
        Target(
            promise=f"durable steps, FileStore, 100 runs of {steps:,} at once: >= 20x {name}",
            subject=REFERENCE,
            over=peer,
            measure="per_s",
            limit=20,
            at_least=True,
        )
        for peer, name in (
            ("dbos_pg", "DBOS, PostgreSQL"),
            ("dbos_sqlite", "DBOS, SQLite"),
            ("restate_server", "Restate"),
            ("temporal_tuned", "Temporal"),
            ("absurd_pg", "Absurd"),
        )
    )


MANY = counts(tiny=1_000_000, quick=1_000_000, normal=1_000_000)

WORKLOADS = (
    Workload(
        name="sequence_1",
        workload="sequence",
        question="Peers: how many steps a second, one run of 10 steps after the other?",
        operations=MANY,
    ),
    Workload(
        name="sequence_100",
        workload="sequence",
        question="Peers: how many steps a second, 100 runs of 10 steps at once?",
        operations=MANY,
        concurrency=100,
        targets=_ahead(CHAIN),
    ),
    Workload(
        name="long_100",
        workload="long_runs",
        question="Peers: how many steps a second, 100 runs of 1,000 steps at once?",
        operations=MANY,
        concurrency=100,
        targets=_ahead(LONG),
    ),
    Workload(
        name="fan_out",
        workload="fan_out",
        question="Peers: how many steps a second, 1,000 at once in one run?",
        operations=counts(tiny=20, quick=1000, normal=1000),
    ),
    Workload(
        name="chains",
        workload="chains",
        question="Peers: how many steps a second, 10 branches of 10 in one run?",
        operations=counts(tiny=3, quick=10, normal=10),
    ),
    Workload(
        name="payloads",
        workload="payloads",
        question="Peers: how many steps a second whose values are 100 KB?",
        operations=counts(tiny=2, quick=10, normal=10),
    ),
    Workload(
        name="waiting",
        workload="waiting",
        question="Peers: what do waiting runs take, and how soon do they go on after their event?",
        operations=counts(tiny=6, quick=200, normal=300),
        concurrency=50,
        shown=("p50_ms", "p99_ms", "per_s", "cpu_us", "started_per_s", "run_bytes", "started", "lost"),
    ),
    Workload(
        name="recovery",
        workload="recovery",
        question="Peers: how long from the restart after a SIGKILL until all waiting runs are finished?",
        operations=counts(tiny=5, quick=100, normal=100),
        concurrency=20,
        shown=("finished_ms", "ready_ms", "cpu_us", "lost"),
    ),
    Workload(
        name="timers",
        workload="timers",
        question="Peers: how late is a durable timer of one second, many at once?",
        operations=counts(tiny=4, quick=200, normal=200),
        concurrency=50,
        shown=("p50_ms", "p99_ms", "cpu_us", "lost"),
    ),
    Workload(
        name="cold",
        workload="cold",
        question="Peers: how long until a cold process has its first result?",
        operations=counts(tiny=1, quick=3, normal=3),
        shown=("finished_ms", "import_ms", "ready_ms"),
    ),
)

NAMES = tuple(f"peers.{one.name}" for one in WORKLOADS)


def load(name: str) -> Program:
    """The program of that name, without its `peers.`."""
    found = next(one for one in WORKLOADS if one.name == name)
    subjects = [
        Subject(
            name=variant.name,
            what=variant.what,
            measure=partial(measure, variant, found.workload, found.concurrency),
            operations=found.operations,
            shown=found.shown,
        )
        for variant in VARIANTS
        if variant.only is None or found.name in variant.only
    ]
    return Program(
        name=f"peers.{name}",
        question=found.question,
        subjects=tuple(subjects),
        targets=found.targets,
        reference=REFERENCE,
    )
