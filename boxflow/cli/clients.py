"""What do commands ask of where the runs and the boxes are? The same, whether that is a server, a store or a sandbox.

What comes back are the documents of docs/http.md, as JSON objects: `--json` shows them as they are, and tables take
from them what `views.py` reads.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol, TypeAlias

import attrs

Document: TypeAlias = Mapping[str, object]
"""A JSON object."""


@attrs.frozen(kw_only=True)
class RunsWanted:
    """Which runs to list; all conditions that are given hold.

    :param cursor: where an earlier page ended
    """

    statuses: tuple[str, ...] = ()
    workflow: str | None = None
    label: str | None = None
    limit: int = 50
    cursor: str | None = None


@attrs.frozen
class Happened:
    """One outcome of a run that is watched."""

    outcome: Document


@attrs.frozen
class Ended:
    """A run that is watched is over, or has diverged."""

    run: Document


@attrs.frozen(kw_only=True)
class ExecWanted:
    """What to run in a box; a text is for its shell."""

    command: str | Sequence[str]
    cwd: str | None = None
    env: Mapping[str, str] = attrs.field(factory=dict[str, str])
    timeout: str
    user: str | None = None


class RunsClient(Protocol):
    """Where runs are. Whatever is not there raises an error that `failures.py` knows, or a `CommandError`."""

    async def list_runs(self, wanted: RunsWanted) -> Document:
        """`{"runs": [...], "next_cursor": ...}`, newest first."""
        ...

    async def run(self, run_id: str) -> Document:
        """One run."""
        ...

    async def history(self, run_id: str, *, after: int, limit: int) -> Document:
        """`{"outcomes": [...], "next_after": ...}`: those behind position *after*."""
        ...

    def watch(self, run_id: str, *, after: int) -> AsyncGenerator[Happened | Ended]:
        """The outcomes behind position *after*, then live ones, and the end."""
        ...

    async def export(self, run_id: str) -> bytes:
        """The run's history file."""
        ...

    async def cancel(self, run_id: str, reason: str | None) -> Document:
        """The run, whose cancel is recorded."""
        ...

    async def resume(self, run_id: str, *, accept_divergence: bool) -> Document:
        """The run, which goes on."""
        ...

    async def restart(self, run_id: str) -> Document:
        """The new run."""
        ...

    async def fork(self, run_id: str, *, before: str, occurrence: int) -> Document:
        """The new run."""
        ...

    async def prune(self, older_than: str) -> Document:
        """What was forgotten: finished runs that have not changed for *older_than*."""
        ...

    async def notify(self, event_id: str, data: object, *, run_id: str | None) -> Document:
        """`{"run_ids": [...], "kept": ...}`."""
        ...


class BoxesClient(Protocol):
    """Where boxes are."""

    async def list_boxes(self, *, run_id: str | None, labels: Mapping[str, str]) -> Document:
        """`{"boxes": [...]}`, oldest first."""
        ...

    async def box(self, box_id: str) -> Document:
        """One box."""
        ...

    async def jobs(self, box_id: str) -> Document:
        """`{"jobs": [...]}` of a box, oldest first."""
        ...

    async def execute(self, box_id: str, wanted: ExecWanted) -> Document:
        """`{"exit_code", "stdout", "stderr", "duration_s", "truncated"}`."""
        ...

    def logs(self, box_id: str, *, job: str | None, offset: int, follow: bool) -> AsyncGenerator[bytes]:
        """What a job wrote, the newest one unless named."""
        ...

    async def delete(self, box_id: str) -> None:
        """End and remove a box."""
        ...
