"""What crosses borders: runs, outcomes, heads, boxes and durations as plain frozen data.

Journal entries are `msgspec.Struct`s, because they are built, encoded and decoded once for every step, and untracked by
the garbage collector (`gc=False`): they refer to nothing that could refer back, and there are millions; the rest is
`attrs`. Values of users stay encoded (`msgspec.Raw`, JSON bytes) until the body asks for them with a type.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias, get_args

import msgspec

Duration: TypeAlias = float | int | timedelta | str
"""Seconds, a `timedelta`, or text such as `"30s"`, `"5m"`, `"2h"`, `"1d"`, `"1h30m"`."""

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")


def seconds(duration: Duration) -> float:
    """*duration* in seconds.

    :raises ValueError: it is negative, not finite, or text of another form than `"30s"`, `"5m"`, `"2h"`, `"1d"`
    """
    match duration:
        case timedelta():
            value = duration.total_seconds()
        case str():
            text = duration.strip().replace(" ", "")
            parts = _PART.findall(text)
            if not parts or "".join(number + unit for number, unit in parts) != text:
                raise ValueError(f'duration {duration!r} is not understood; write seconds or "30s", "5m", "2h", "1d"')
            value = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
        case bool():
            raise ValueError(f'duration {duration!r} is not understood; write seconds or "30s", "5m", "2h", "1d"')
        case _:
            value = float(duration)
    if not 0 <= value < float("inf"):
        raise ValueError(f"duration {duration!r} must be finite and not negative")
    return value


def microseconds(timestamp: float) -> float:
    """*timestamp* to the microsecond, which has a short form in JSON. Ten times as fast as `round(timestamp, 6)`."""
    return round(timestamp * 1e6) / 1e6


def utc(timestamp: float) -> datetime:
    """Seconds since the epoch as an aware UTC time."""
    return datetime.fromtimestamp(timestamp, UTC)


class RunStatus(enum.StrEnum):
    """Where a run stands. `completed`, `failed` and `cancelled` are final; `diverged` waits for fixing code."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DIVERGED = "diverged"

    @property
    def is_final(self) -> bool:
        """Whether the run is over: it executes nothing more and owns no box."""
        return self in _FINAL

    @property
    def is_driven(self) -> bool:
        """Whether an engine has, or will have, something to do for the run."""
        return self in _DRIVEN


_FINAL = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})
_DRIVEN = frozenset({RunStatus.PENDING, RunStatus.RUNNING, RunStatus.WAITING})


class Failure(msgspec.Struct, gc=False, frozen=True, kw_only=True, omit_defaults=True):
    """An exception as the journal keeps it: never the object, always enough to understand it."""

    type: str
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class Blob(msgspec.Struct, gc=False, frozen=True):
    """A reference to a value that was too large for the journal."""

    blob: str
    size_bytes: int


Value: TypeAlias = msgspec.Raw
"""A user's value, encoded: JSON bytes."""

NULL = msgspec.Raw(b"null")


# --- outcomes ----------------------------------------------------------------------------------------------------


class _Entry(msgspec.Struct, gc=False, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    seq: int
    at: float

    @property
    def time(self) -> datetime:
        """When it was recorded, as an aware UTC time."""
        return utc(self.at)

    @property
    def kind(self) -> str:
        """What happened, in one word: the tag under which it is stored."""
        return str(self.__struct_config__.tag)


class _Keyed(_Entry, gc=False, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    occurrence: int = 1


class StepDone(_Keyed, gc=False, frozen=True, kw_only=True, omit_defaults=True, tag="step_done"):
    """A step returned *value*."""

    value: Value = NULL
    blob: Blob | None = None
    attempt: int = 1

    @property
    def data(self) -> Any:
        """The value as JSON data (None when it lies in a blob)."""
        return msgspec.json.decode(self.value)


class StepFailed(_Keyed, gc=False, frozen=True, kw_only=True, omit_defaults=True, tag="step_failed"):
    """A step failed for good."""

    error: Failure
    attempt: int = 1
    reason: Literal["error", "timeout", "interrupted"] = "error"


class StepRetrying(_Keyed, gc=False, frozen=True, kw_only=True, omit_defaults=True, tag="step_retrying"):
    """Attempt number *attempt* failed; the next one starts at *next_at*."""

    error: Failure
    attempt: int
    next_at: float


class StepStarted(_Keyed, gc=False, frozen=True, kw_only=True, omit_defaults=True, tag="step_started"):
    """An `at_most_once` step is about to run."""

    attempt: int = 1


class TimerFired(_Keyed, gc=False, frozen=True, kw_only=True, omit_defaults=True, tag="timer_fired"):
    """The instant *due* came: every timer set for it fired, in the order they were set; the key is the first one's."""

    due: float


class EventArrived(_Keyed, gc=False, frozen=True, kw_only=True, omit_defaults=True, tag="event_arrived"):
    """An event reached a wait. *source* identifies the sending, where that is known, so that it counts once."""

    event_id: str
    value: Value = NULL
    blob: Blob | None = None
    source: str | None = None

    @property
    def data(self) -> Any:
        """The event's data as JSON data (None when it lies in a blob)."""
        return msgspec.json.decode(self.value)


class WebhookArrived(_Keyed, gc=False, frozen=True, kw_only=True, omit_defaults=True, tag="webhook_arrived"):
    """A call of a webhook reached a wait; *value* is an encoded `WebhookCall`."""

    webhook: str
    value: Value = NULL
    blob: Blob | None = None

    @property
    def data(self) -> Any:
        """The call as JSON data: method, headers, query, and the body in base64 (None when it lies in a blob)."""
        return msgspec.json.decode(self.value)


class ChildEnded(_Keyed, gc=False, frozen=True, kw_only=True, omit_defaults=True, tag="child_ended"):
    """A child run reached a final status."""

    run_id: str
    status: str
    value: Value = NULL
    blob: Blob | None = None
    error: Failure | None = None

    @property
    def data(self) -> Any:
        """What it returned, as JSON data (None when it returned nothing, or it lies in a blob)."""
        return msgspec.json.decode(self.value)


class CancelAsked(_Entry, gc=False, frozen=True, kw_only=True, omit_defaults=True, tag="cancel_asked"):
    """Somebody asked for the run to be cancelled."""

    reason: str | None = None
    name: str = "cancel"
    occurrence: int = 1


class ChangePatched(_Entry, gc=False, frozen=True, kw_only=True, omit_defaults=True, tag="change_patched"):
    """`ctx.patched(change_id)` answered True, and will from now on."""

    name: str
    occurrence: int = 1


class RunResumed(_Entry, gc=False, frozen=True, kw_only=True, omit_defaults=True, tag="run_resumed"):
    """The run goes on after a failure or a divergence.

    *dropped* are the positions whose outcomes no longer count: the failure that is tried again, and what followed from
    it. With *accept_divergence* earlier outcomes that no longer have a place are skipped.
    """

    dropped: tuple[int, ...] = ()
    accept_divergence: bool = False
    name: str = "resume"
    occurrence: int = 1


Outcome: TypeAlias = (
    StepDone
    | StepFailed
    | StepRetrying
    | StepStarted
    | TimerFired
    | EventArrived
    | WebhookArrived
    | ChildEnded
    | CancelAsked
    | ChangePatched
    | RunResumed
)
"""One journal entry. `seq` counts from 1 without gaps, `at` is seconds since the epoch and never decreases."""

OUTCOME_TYPES: tuple[type[Outcome], ...] = get_args(Outcome)


# --- runs --------------------------------------------------------------------------------------------------------


class RunRecord(msgspec.Struct, gc=False, frozen=True, kw_only=True, omit_defaults=True):
    """What never changes about a run."""

    run_id: str
    workflow: str
    version: str = ""
    payload: Value = NULL
    payload_blob: Blob | None = None
    labels: tuple[str, ...] = ()
    created_at: float
    start_at: float
    parent: str | None = None
    #: Whose past a fork has: each run's id, and how many outcomes come from it. Their random numbers come along.
    forked: tuple[tuple[str, int], ...] = ()


class Head(msgspec.Struct, gc=False, frozen=True, kw_only=True, omit_defaults=True):
    """What changes about a run, replaced with every append.

    :param length: how many outcomes the journal has
    :param waiting: what the run waits for, as `"event:<id>"`, `"webhook:<name>"` (own mailbox),
        `"child:<run id>"` or `"job:<step>"`
    :param due: the earliest instant at which the run has something to do by itself
    :param body_ended: after how many outcomes the body ended, once it has
    :param causes: positions of the failed outcomes that ended the body
    """

    status: RunStatus = RunStatus.PENDING
    length: int = 0
    waiting: tuple[str, ...] = ()
    due: float | None = None
    result: Value = NULL
    result_blob: Blob | None = None
    error: Failure | None = None
    reason: str | None = None
    timed_out: bool = False
    body_ended: int | None = None
    causes: tuple[int, ...] = ()
    updated_at: float = 0.0


class Item(msgspec.Struct, gc=False, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of a store's small collections (kept events, boxes, settings).

    Keys sort as text within a collection. *run_id* ties the item to a run: it goes when the run is pruned.
    """

    collection: str
    key: str
    value: Value = NULL
    run_id: str | None = None


class Put(msgspec.Struct, gc=False, frozen=True):
    """Store *item*, replacing one of the same collection and key."""

    item: Item


class Delete(msgspec.Struct, gc=False, frozen=True):
    """Remove an item; no error where there is none."""

    collection: str
    key: str


Change: TypeAlias = Put | Delete


def describe(name: str, occurrence: int) -> str:
    """A key as people read it: `'fetch'`, or `'fetch' #2` for the second of that name."""
    return repr(name) if occurrence == 1 else f"{name!r} #{occurrence}"


def unique(texts: Iterable[str]) -> tuple[str, ...]:
    """*texts* without repetitions, in their first order."""
    return tuple(dict.fromkeys(texts))
