"""What of a journal still counts when a failed run goes on, and what a fork takes along. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from boxflow.errors import RunStateError
from boxflow.journal import Key
from boxflow.model import (
    CancelAsked,
    ChangePatched,
    ChildEnded,
    EventArrived,
    Head,
    Outcome,
    RunRecord,
    RunResumed,
    RunStatus,
    StepDone,
    StepFailed,
    StepStarted,
    TimerFired,
    WebhookArrived,
)


def counting(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes that earlier resumptions have left in force."""
    dropped = {seq for outcome in outcomes if isinstance(outcome, RunResumed) for seq in outcome.dropped}
    return [outcome for outcome in outcomes if outcome.seq not in dropped]


def dropped_by_resume(
    outcomes: Sequence[Outcome], head: Head, pending_before: Callable[[int], frozenset[Key]]
) -> list[Outcome]:
    """The outcomes that no longer count when the run goes on from what failed.

    - what was recorded after the body had ended: the failure function, the deletion of boxes
    - the failed outcomes from which the body's end came: they are tried again
    - what followed from the first of these. Outcomes of calls that were pending before it stay: a branch that went on
      beside the failed one keeps its work. Timers go, they fire again.

    :param outcomes: those that counted so far
    :param pending_before: the keys that were pending before the outcome at a position was delivered
    """
    ended = head.length if head.body_ended is None else head.body_ended
    causes = frozenset(head.causes)
    first = min(causes, default=ended + 1)
    kept_keys = pending_before(first) if causes else frozenset[Key]()
    dropped: list[Outcome] = []
    again = {
        (outcome.name, outcome.occurrence) for outcome in outcomes if outcome.seq in causes and _has_ended(outcome)
    }
    for outcome in outcomes:
        if isinstance(outcome, StepStarted) and (outcome.name, outcome.occurrence) in again:
            # Else it would look as if a crash had interrupted the attempt, and an `at_most_once` step never run again.
            dropped.append(outcome)
        elif outcome.seq < first or isinstance(outcome, (RunResumed, ChangePatched)):
            continue
        elif outcome.seq > ended or outcome.seq in causes or not _stays(outcome, kept_keys):
            dropped.append(outcome)
    return dropped


def _stays(outcome: Outcome, kept_keys: frozenset[Key]) -> bool:
    if isinstance(outcome, (TimerFired, CancelAsked)) or _was_given_up(outcome):
        return False
    return (outcome.name, outcome.occurrence) in kept_keys


def mail_of(dropped: Sequence[Outcome]) -> list[EventArrived | WebhookArrived]:
    """Mail that had been taken by waits which no longer count: it goes back into the run's mailbox."""
    return [outcome for outcome in dropped if isinstance(outcome, (EventArrived, WebhookArrived))]


def unfinished_children(dropped: Sequence[Outcome]) -> list[str]:
    """The ids of the children that ended otherwise than well, and whose ends no longer count."""
    ended = [outcome for outcome in dropped if isinstance(outcome, ChildEnded)]
    return [outcome.run_id for outcome in ended if outcome.status != RunStatus.COMPLETED]


def given_up_reason(parent_id: str) -> str:
    """Why a child was cancelled for which its parent no longer waits."""
    return f"its parent {parent_id!r} no longer waits for it"


def _was_given_up(outcome: Outcome) -> bool:
    """A child that was cancelled because the body had given up waiting: it goes on with its parent."""
    if not isinstance(outcome, ChildEnded) or outcome.status != RunStatus.CANCELLED or outcome.error is None:
        return False
    return outcome.error.message.endswith("no longer waits for it")


def _has_ended(outcome: Outcome) -> bool:
    """The outcome says how a step ended, and not that nobody knows."""
    return isinstance(outcome, StepFailed) and outcome.reason != "interrupted"


def prefix_before(outcomes: Sequence[Outcome], name: str, occurrence: int, run_id: str) -> list[Outcome]:
    """The outcomes that a fork copies: all in force before the first of the key `(name, occurrence)`, numbered anew.

    :raises LookupError: the journal has no outcome of that key
    :raises RunStateError: a box is open at that point; two runs would share it
    """
    copied: list[Outcome] = []
    open_boxes: dict[str, int] = {}
    for outcome in counting(outcomes):
        if (outcome.name, outcome.occurrence) == (name, occurrence):
            break
        if isinstance(outcome, StepDone):
            _follow_box(outcome.name, open_boxes)
        if not isinstance(outcome, RunResumed):
            copied.append(outcome)
    else:
        names = ", ".join(sorted({repr(outcome.name) for outcome in outcomes})) or "nothing"
        raise LookupError(
            f"run {run_id!r} has no outcome of {name!r} (occurrence {occurrence}); its journal has {names}"
        )
    still_open = [box for box, count in open_boxes.items() if count > 0]
    if still_open:
        raise RunStateError(
            f"run {run_id!r} cannot be forked before {name!r}: its box {still_open[0]!r} was open there, and two runs "
            f"cannot share one; fork before {still_open[0] + '.create'!r}"
        )
    return [msgspec.structs.replace(outcome, seq=seq) for seq, outcome in enumerate(copied, start=1)]


def ancestry(record: RunRecord, length: int) -> tuple[tuple[str, int], ...]:
    """Whose past a fork has that copies the first *length* outcomes of the run of *record*."""
    if not length:
        return ()
    before = tuple(entry for entry in record.forked if entry[1] < length)
    owner = next((run_id for run_id, upto in record.forked if upto >= length), record.run_id)
    return (*before, (owner, length))


def _follow_box(name: str, open_boxes: dict[str, int]) -> None:
    box, _, method = name.rpartition(".")
    if box and method == "create":
        open_boxes[box] = open_boxes.get(box, 0) + 1
    elif box and method == "delete" and box in open_boxes:
        open_boxes[box] -= 1
