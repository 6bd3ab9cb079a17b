"""How does an outcome read, in one line?"""

from __future__ import annotations

import attrs

from boxflow.cli.printing import safe
from boxflow.cli.views import OutcomeView
from boxflow.model import describe


@attrs.frozen
class OutcomeLine:
    """What happened, to which call, and what is to be known of it."""

    what: str
    name: str
    about: str

    def __str__(self) -> str:
        about = f"  ({self.about})" if self.about else ""
        return safe(f"{self.what} {self.name}{about}")


def outcome_line(outcome: OutcomeView) -> OutcomeLine:
    """*outcome* as people read it."""
    about: list[str] = []
    if outcome.event_id is not None:
        about.append(f"event {outcome.event_id}")
    if outcome.run_id is not None:
        about.append(f"run {outcome.run_id} {outcome.status or ''}".rstrip())
    if outcome.attempt > 1 or outcome.next_at is not None:
        about.append(f"attempt {outcome.attempt}")
    if outcome.next_at is not None:
        about.append(f"again at {outcome.next_at[:19].replace('T', ' ')}Z")
    if outcome.error is not None:
        about.append(str(outcome.error).partition("\n")[0])
    if outcome.reason is not None and outcome.reason != "error":
        about.append(outcome.reason)
    return OutcomeLine(outcome.kind.replace("_", " "), describe(outcome.name, outcome.occurrence), ", ".join(about))
