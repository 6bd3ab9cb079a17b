"""Has a run ended as it should? Two endings, compared fact by fact."""

from __future__ import annotations

from boxflow.model import Outcome, RunStatus, StepRetrying, describe
from boxflow.testing.breaking.lives import Ending


def ended_wrongly(ending: Ending) -> str | None:
    """Why a run that ended so broke a promise, whatever the world was like; None when it did not."""
    if ending.problem is not None:
        return ending.problem
    if ending.status is RunStatus.DIVERGED:
        return f"the run diverged: {ending.error}"
    return None


def difference(expected: Ending, found: Ending, varying: set[object]) -> str | None:
    """The first thing that is otherwise in *found*; None when all is as expected.

    :param varying: what differs without a crash, too, and is not compared
    """
    if (wrong := ended_wrongly(found)) is not None:
        return wrong
    if found.status is not expected.status:
        why = f": {found.error}" if found.error is not None else ""
        return f"the run is {found.status}{why}; without a crash it is {expected.status}"
    ours, theirs = _facts(found), _facts(expected)
    for fact in {**theirs, **ours}:
        if fact not in varying and ours.get(fact) != theirs.get(fact):
            return f"{fact}: {_shown(ours.get(fact))}; without a crash: {_shown(theirs.get(fact))}"
    return None


def _facts(ending: Ending) -> dict[object, object]:
    """What is compared, by what it is called."""
    facts: dict[object, object] = {
        "what the world outside has seen": ending.effects,
        "boxes that are left": ending.boxes,
        "the result": ending.result.decode(),
        "the error": (ending.error.type, ending.error.message) if ending.error is not None else None,
    }
    for run_id, outcomes in ending.outcomes.items():
        for outcome in outcomes:
            # How often a step was tried may differ: a crash takes an attempt with it.
            if not isinstance(outcome, StepRetrying):
                title = f"{outcome.kind} {describe(outcome.name, outcome.occurrence)} of run {run_id!r}"
                facts[title] = _told(outcome)
    return facts


def _told(outcome: Outcome) -> object:
    """What an outcome says, without when and at which try."""
    for name in ("value", "error", "status", "due", "reason"):
        told = getattr(outcome, name, None)
        if told is not None:
            return (told.type, told.message) if name == "error" else bytes(told) if name == "value" else told
    return True


def varying_facts(first: Ending, again: Ending) -> set[object]:
    """What two endings of the same undisturbed run do not share."""
    one, other = _facts(first), _facts(again)
    return {fact for fact in {**one, **other} if one.get(fact) != other.get(fact)}


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = value.decode() if isinstance(value, bytes) else value if isinstance(value, str) else repr(value)
    return text if len(text) <= 500 else f"{text[:500]}..."
