"""What do tables take from the documents of runs, outcomes and boxes?"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from boxflow.cli.failures import UNREACHABLE, CommandError

V = TypeVar("V")


class ErrorView(msgspec.Struct):
    """Why a run or a step failed."""

    type: str = ""
    message: str = ""
    traceback: str | None = None

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class RunView(msgspec.Struct):
    """A run."""

    id: str
    workflow: str
    status: str
    version: str = ""
    labels: list[str] = []
    created_at: str = ""
    updated_at: str = ""
    parent: str | None = None
    result: object = None
    error: ErrorView | None = None
    reason: str | None = None
    waiting: list[str] = []
    length: int = 0
    due: str | None = None


class RunsView(msgspec.Struct):
    """A page of runs."""

    runs: list[RunView]
    next_cursor: str | None = None


class OutcomeView(msgspec.Struct):
    """An outcome, of any kind."""

    seq: int
    at: str
    kind: str
    name: str = ""
    occurrence: int = 1
    error: ErrorView | None = None
    attempt: int = 1
    next_at: str | None = None
    event_id: str | None = None
    run_id: str | None = None
    status: str | None = None
    reason: str | None = None


class OutcomesView(msgspec.Struct):
    """A page of outcomes."""

    outcomes: list[OutcomeView]
    next_after: int | None = None


class NotifiedView(msgspec.Struct):
    """Where an event went."""

    run_ids: list[str]
    kept: bool


class BoxView(msgspec.Struct):
    """A box."""

    id: str
    name: str = ""
    status: str = ""
    run_id: str | None = None
    labels: dict[str, str] = {}
    created_at: str | None = None


class BoxesView(msgspec.Struct):
    """Boxes."""

    boxes: list[BoxView]


class JobView(msgspec.Struct):
    """A job of a box."""

    id: str
    command: str = ""
    status: str = ""
    exit_code: int | None = None
    started_at: str | None = None
    duration_s: float | None = None


class JobsView(msgspec.Struct):
    """Jobs of a box."""

    jobs: list[JobView]


class ExecView(msgspec.Struct):
    """How a command in a box ended."""

    exit_code: int
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    timed_out: bool = False


def view(document: object, kind: type[V]) -> V:
    """*document* as a *kind*; what it has besides is passed over.

    :raises CommandError: it is something else, so that what answered is no boxflow, or of another version
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise CommandError(
            f"the answer is not what boxflow gives: {error}; is that another version?", UNREACHABLE
        ) from None
