"""What did an agent do? Its result as its caller gets it, and the error that a failure becomes."""

from __future__ import annotations

import enum
from typing import Any, Generic, TypeVar

import attrs

from boxflow.errors import (
    AgentAuthenticationError,
    AgentBudgetError,
    AgentError,
    AgentNotInstalledError,
    AgentOutputError,
    AgentTimeoutError,
    AgentUnavailableError,
)
from boxflow.harness import AgentEvent, AgentFailure, Usage

R = TypeVar("R")


class AgentStatus(enum.StrEnum):
    """Where an agent's run stands."""

    RUNNING = "running"
    COMPLETED = "completed"


@attrs.frozen(kw_only=True)
class AgentRun(Generic[R]):
    """One run of an agent.

    :param id: of its job in the box: `box.agent.attach` takes it
    :param result: the answer: of the type that `schema=` asked for, else the agent's last words
    :param text: the agent's last words
    :param usage: tokens of this run
    :param cost_usd: what it cost, where that is known
    :param session_id: to continue: `run(..., session=...)`
    :param events: what it did, in order, with long texts cut: at most some 100,000 characters.
        `box.agent.attach(run.id)` reads all of it again, as long as the box is there
    """

    id: str
    agent: str
    status: AgentStatus
    result: R
    text: str = ""
    usage: Usage = attrs.field(factory=Usage)
    cost_usd: float | None = None
    session_id: str | None = None
    duration_s: float = 0.0
    turns: int | None = None
    events: tuple[AgentEvent, ...] = ()


@attrs.frozen(kw_only=True)
class RunUsage:
    """What the agents of a workflow run have used, those of its children included.

    :param cost_usd: of those whose cost is known
    :param agent_runs: how many there were
    :param unpriced_runs: how many of them have no known cost
    """

    usage: Usage = attrs.field(factory=Usage)
    cost_usd: float = 0.0
    agent_runs: int = 0
    unpriced_runs: int = 0

    def __add__(self, other: RunUsage) -> RunUsage:
        return RunUsage(
            usage=self.usage + other.usage,
            cost_usd=self.cost_usd + other.cost_usd,
            agent_runs=self.agent_runs + other.agent_runs,
            unpriced_runs=self.unpriced_runs + other.unpriced_runs,
        )


@attrs.frozen(kw_only=True)
class RunRecord:
    """An agent's run as the journal keeps it: plain, whatever the schema; a failure is data, too.

    :param answer: JSON, of the agent's answer to a schema
    :param problem: why that answer does not fit the schema
    """

    id: str
    agent: str
    text: str = ""
    answer: str | None = None
    problem: str = ""
    failure: AgentFailure | None = None
    message: str = ""
    timed_out_s: float | None = None
    usage: Usage = attrs.field(factory=Usage)
    cost_usd: float | None = None
    session_id: str | None = None
    duration_s: float = 0.0
    turns: int | None = None
    events: tuple[AgentEvent, ...] = ()

    def as_run(self, result: Any) -> AgentRun[Any]:
        """What the caller gets."""
        return AgentRun(
            id=self.id,
            agent=self.agent,
            status=AgentStatus.COMPLETED,
            result=result,
            text=self.text,
            usage=self.usage,
            cost_usd=self.cost_usd,
            session_id=self.session_id,
            duration_s=self.duration_s,
            turns=self.turns,
            events=self.events,
        )

    def used(self) -> RunUsage:
        """What it has used, to be summed."""
        unknown = self.cost_usd is None
        return RunUsage(usage=self.usage, cost_usd=self.cost_usd or 0.0, agent_runs=1, unpriced_runs=int(unknown))

    def raise_failure(self) -> None:
        """:raises AgentError: of the kind that the failure is, when it is one"""
        if self.timed_out_s is not None:
            raise AgentTimeoutError(self.agent, f"was killed after {self.timed_out_s:g} s", self)
        if self.failure is None:
            return
        kind, what = _KINDS.get(self.failure, (AgentError, f"failed ({self.failure})"))
        raise kind(self.agent, f"{what}: {self.message or 'it says no more'}", self)


_KINDS: dict[AgentFailure, tuple[type[AgentError], str]] = {
    AgentFailure.NOT_INSTALLED: (AgentNotInstalledError, "cannot work"),
    AgentFailure.AUTHENTICATION: (
        AgentAuthenticationError,
        "was refused by its model's host; check the key and the model's address",
    ),
    AgentFailure.RATE_LIMITED: (AgentUnavailableError, "was sent too often to its model; try later"),
    AgentFailure.MODEL_UNAVAILABLE: (AgentUnavailableError, "got no answer from its model"),
    AgentFailure.BUDGET: (AgentBudgetError, "has spent its budget; raise max_turns, max_cost_usd or max_output_tokens"),
    AgentFailure.TURNS: (AgentBudgetError, "has used its turns; raise max_turns"),
    AgentFailure.BAD_OUTPUT: (AgentOutputError, "gave no answer that can be used; its text is on the error"),
}
