"""Which peers are measured, with which settings? In the order of a round; each row says how durable a step is there."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs


@attrs.frozen(kw_only=True)
class Variant:
    """A row of the tables.

    :param server: which server it needs; empty for an embedded peer
    :param what: the peer, its settings, and its durability class
    :param only: the workloads it is measured for; None for all
    :param lacks: workloads that it cannot do, or that would say nothing about it, and why; told in its row
    """

    peer: str
    variant: str
    what: str
    server: str = ""
    only: tuple[str, ...] | None = None
    lacks: Mapping[str, str] = MappingProxyType({})

    @property
    def name(self) -> str:
        return f"{self.peer}_{self.variant.replace('-', '_')}"


SYNCED = "synced before it is acknowledged"
STEPS = ("sequence_1", "sequence_100", "long_100")

FORGOTTEN = {"recovery": "nothing is left to recover"}
NO_TIMERS = {"timers": "it has no durable timers"}
BEHIND = {"long_runs": "its tasks are saved behind the body, and in so short a time most of them would not be"}
NO_ENGINE = {"recovery": "a floor: nothing reads the log again"}

VARIANTS = (
    Variant(peer="floor", variant="bare", what="floor: asyncio; nothing is recorded", lacks=NO_ENGINE),
    Variant(peer="floor", variant="log", what=f"floor: asyncio and a log with group commit; {SYNCED}", lacks=NO_ENGINE),
    Variant(peer="boxflow", variant="memory", what="boxflow, memory; lost with the process", lacks=FORGOTTEN),
    Variant(peer="boxflow", variant="file-os", what="boxflow, files, `os`; lost with the machine", only=STEPS),
    Variant(
        peer="boxflow",
        variant="file-interval",
        what="boxflow, files, `interval`; the last moment is lost with the machine",
        only=STEPS,
    ),
    Variant(peer="boxflow", variant="file-always", what=f"**boxflow, files**; {SYNCED}"),
    Variant(
        peer="langgraph",
        variant="memory",
        what="LangGraph 1.2, memory; lost with the process",
        lacks=NO_TIMERS | FORGOTTEN,
    ),
    Variant(
        peer="langgraph",
        variant="sqlite",
        what='LangGraph 1.2, SQLite, durability="sync"; a task is synced behind the body',
        lacks=NO_TIMERS | BEHIND,
    ),
    Variant(peer="dbos", variant="sqlite", what=f"DBOS 3.4, SQLite; {SYNCED}"),
    Variant(peer="dbos", variant="pg", what=f"DBOS 3.4, PostgreSQL; {SYNCED}", server="postgres"),
    Variant(peer="absurd", variant="pg", what=f"Absurd 0.5, PostgreSQL, 8 workers; {SYNCED}", server="postgres"),
    Variant(peer="restate", variant="server", what=f"Restate 1.7, its server; {SYNCED}", server="restate"),
    Variant(
        peer="temporal",
        variant="default",
        what="Temporal 1.32, development server as it comes, SQLite",
        server="temporal",
        only=("sequence_1",),
    ),
    Variant(
        peer="temporal",
        variant="tuned",
        what="Temporal 1.32, development server without its poll limit, SQLite",
        server="temporal-tuned",
    ),
    Variant(
        peer="temporal",
        variant="local",
        what="Temporal 1.32, the same, local activities; a step is kept with the next workflow task",
        server="temporal-tuned",
        only=(*STEPS, "fan_out", "chains"),
    ),
)
