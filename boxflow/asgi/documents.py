"""How do runs, outcomes, boxes and jobs look over HTTP? As these documents: answers are made of them, and the OpenAPI
document describes them, so that it cannot say anything else.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, TypeAlias, Union

import msgspec

from boxflow.box_keeper import RUN_LABEL
from boxflow.boxes import BoxInfo, ExecResult, JobInfo, JobStatus
from boxflow.boxes.command import DEFAULT_OUTPUT_BYTES
from boxflow.boxes.snapshots import NAME_LABEL
from boxflow.errors import CommandTimeoutError
from boxflow.mail import Notified
from boxflow.model import OUTCOME_TYPES, Failure, Outcome, RunStatus
from boxflow.ports import BoxStatus
from boxflow.runs import RunInfo, as_time

Time: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True, extra_json_schema={"format": "date-time"})]

# The fields of outcomes that are seconds since the epoch.
_TIMES: Final = frozenset({"at", "next_at", "due"})

# Of no meaning outside of the store: whoever reads an outcome gets its value.
_HIDDEN: Final = frozenset({"blob"})


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The server answers."""

    status: str = "ok"


class NotifiedDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an event, or of a webhook's call: the runs that it woke, or that it is kept for the next wait."""

    run_ids: tuple[str, ...]
    kept: bool


# --- runs -----------------------------------------------------------------------------------------------------------


class RunDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run. `result` is there once it has completed, and not in lists; `due` when it has something to do by itself."""

    id: str
    workflow: str
    version: str
    labels: tuple[str, ...]
    status: RunStatus
    created_at: Time
    updated_at: Time
    parent: str | None
    error: Failure | None
    reason: str | None
    waiting: tuple[str, ...]
    length: int
    due: Time | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class RunsDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A page of runs, newest first, and where the next one begins."""

    runs: tuple[RunDocument, ...]
    next_cursor: str | None


class PrunedDocument(msgspec.Struct, frozen=True, kw_only=True):
    """How many runs were forgotten."""

    pruned: int


def run_document(info: RunInfo, result: bytes | None = None) -> RunDocument:
    """A run as it stands.

    :param result: what it returned, encoded
    """
    return RunDocument(
        id=info.id,
        workflow=info.workflow,
        version=info.version,
        labels=info.labels,
        status=info.status,
        created_at=info.created_at,
        updated_at=info.updated_at,
        parent=info.parent,
        error=info.error,
        reason=info.reason,
        waiting=info.waiting,
        length=info.length,
        due=msgspec.UNSET if info.due is None else info.due,
        result=msgspec.UNSET if result is None else msgspec.Raw(result),
    )


def notified_document(notified: Notified) -> NotifiedDocument:
    """What became of an event."""
    return NotifiedDocument(run_ids=notified.run_ids, kept=notified.kept)


# --- outcomes -------------------------------------------------------------------------------------------------------


def _document_type(kind: type[Outcome]) -> type[msgspec.Struct]:
    """The document of one kind of outcome: the same members, all of them always there, and times as times."""
    fields = [
        (field.name, Time if field.name in _TIMES else field.type)
        for field in msgspec.structs.fields(kind)
        if field.name not in _HIDDEN
    ]
    return msgspec.defstruct(
        kind.__name__,
        fields,
        namespace={"__doc__": kind.__doc__},
        tag_field="kind",
        tag=kind.__struct_config__.tag,
        frozen=True,
        kw_only=True,
    )


_OUTCOMES: Final[dict[type[Outcome], type[msgspec.Struct]]] = {kind: _document_type(kind) for kind in OUTCOME_TYPES}

# Put together at run time, one member for each kind that there is.
OutcomeDocument: Any = Union[tuple(_OUTCOMES.values())]  # noqa: UP007  # of a tuple


# A page of a journal, and the position after which the next one begins.
HistoryDocument = msgspec.defstruct(
    "HistoryDocument", [("outcomes", list[OutcomeDocument]), ("next_after", int | None)], frozen=True, kw_only=True
)


def outcome_document(outcome: Outcome) -> msgspec.Struct:
    """An outcome, its value in it."""
    kind = _OUTCOMES[type(outcome)]
    values: dict[str, object] = {name: getattr(outcome, name) for name in kind.__struct_fields__}
    for name in _TIMES & values.keys():
        values[name] = as_time(getattr(outcome, name))
    return kind(**values)


# --- boxes ----------------------------------------------------------------------------------------------------------


class BoxDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A box; `run_id` is that of the run that owns it."""

    id: str
    name: str
    status: BoxStatus
    run_id: str | None
    labels: dict[str, str]
    created_at: Time


class BoxesDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Boxes, oldest first."""

    boxes: tuple[BoxDocument, ...]


class JobDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A job of a box; `exit_code` once it has exited."""

    id: str
    command: str
    status: JobStatus
    exit_code: int | None
    started_at: Time | None
    duration_s: float | None
    timed_out: bool


class JobsDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs of a box, in the order in which they began."""

    jobs: tuple[JobDocument, ...]


class OutputDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of what a job wrote, and where in its stream, `stdout` or `stderr`, it begins, in bytes."""

    stream: str
    offset: int
    text: str


class ExecDocument(msgspec.Struct, frozen=True, kw_only=True):
    """How a command in a box ended. With `timed_out` it was killed at its deadline, with 137 as its exit code."""

    exit_code: int
    stdout: str
    stderr: str
    duration_s: float
    truncated: bool
    timed_out: bool


def box_document(info: BoxInfo) -> BoxDocument:
    """A box as its sandbox reports it."""
    own = {name: value for name, value in info.labels.items() if not name.startswith("boxflow.")}
    return BoxDocument(
        id=info.box_id,
        name=info.labels.get(NAME_LABEL, info.box_id),
        status=info.status,
        run_id=info.labels.get(RUN_LABEL),
        labels=own,
        created_at=as_time(info.created_at),
    )


def exec_document(result: ExecResult) -> ExecDocument:
    """How a command ended by itself."""
    return ExecDocument(
        exit_code=result.exit_code,
        stdout=result.stdout,
        stderr=result.stderr,
        duration_s=result.duration_s,
        truncated=result.truncated,
        timed_out=False,
    )


def timed_out_document(error: CommandTimeoutError) -> ExecDocument:
    """How a command ended that was killed at its deadline."""
    return ExecDocument(
        exit_code=137,
        stdout=error.stdout,
        stderr=error.stderr,
        duration_s=error.timeout_s,
        truncated=max(len(error.stdout), len(error.stderr)) >= DEFAULT_OUTPUT_BYTES,
        timed_out=True,
    )


def job_document(info: JobInfo) -> JobDocument:
    """A job as it stands."""
    return JobDocument(
        id=info.job_id,
        command=info.command,
        status=info.status,
        exit_code=info.exit_code,
        started_at=None if info.started_at is None else as_time(info.started_at),
        duration_s=info.duration_s,
        timed_out=info.timed_out,
    )
