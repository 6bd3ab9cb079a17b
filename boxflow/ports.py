"""What boxflow asks of others: the Protocols `Clock`, `Store` and `Sandbox`, and the data they exchange.

A backend imports this module, `boxflow.model` and `boxflow.errors`, and nothing else of boxflow. The duties are written
as prose here and as tests in `boxflow.testing.StoreContract`.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

import attrs

from boxflow.model import Blob, Change, Head, Item, Outcome, RunRecord, RunStatus


class Clock(Protocol):
    """Where an engine gets its time from."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    async def sleep_until(self, when: float) -> None:
        """Return once `now()` is at least *when*; cancelling ends the sleep at once."""
        ...


# --- stores ------------------------------------------------------------------------------------------------------


@attrs.frozen
class Fence:
    """Proof of ownership, issued by `Store.claim`. A larger token is a later owner."""

    token: int


@attrs.frozen(kw_only=True)
class StoredRun:
    """A run as a store finds it."""

    record: RunRecord
    head: Head


@attrs.frozen(kw_only=True)
class RunQuery:
    """Which runs to find. Every condition that is given must hold; none given finds all.

    :param waiting_for: an entry of `Head.waiting`
    :param due_before: the head's `due` is set and at most this
    :param after: start behind this run id of the previous page
    """

    statuses: frozenset[RunStatus] | None = None
    workflow: str | None = None
    label: str | None = None
    parent: str | None = None
    waiting_for: str | None = None
    due_before: float | None = None
    after: str | None = None
    limit: int = 1000


class Store(Protocol):
    """Where journals live.

    Duties of every store:

    - An append that returned is durable, to the level that the store declares. One that raised, or was cancelled, has
      either happened whole or not at all.
    - Appends of one run are applied in the order in which they were called.
    - `append` is refused with `FenceError` when the fence is not the newest one issued for that run.
    - What is handed out is data, never a live object: changing nothing of it changes the store.
    - Blocking system calls never run on the event loop.
    - Before `__aenter__` and after `__aexit__` every call raises `StoreClosedError`; after a failed write or sync every
      call that would change something raises `StoreFailedError` until the store is opened again.
    """

    async def __aenter__(self) -> Self:
        """Open the store: recover what was acknowledged, and become its owner where there can be only one.

        :raises StoreLockedError: another living process owns it
        :raises StoreCorruptError: acknowledged records are damaged; nothing was changed
        :raises StoreFormatError: written by a newer version
        """
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Make durable what was accepted, and give up ownership."""
        ...

    async def claim(self, run_id: str, owner: str) -> Fence:
        """Take the run for *owner* (an engine's id for this life). Fences issued before are stale from now on.

        A store that only one process can own gives the run to whoever asks; a shared one raises `FenceError` while
        another owner's lease is alive.

        :raises RunNotFoundError: no such run
        """
        ...

    async def create_run(self, record: RunRecord, head: Head, changes: Sequence[Change] = ()) -> StoredRun:
        """Create the run, or return the one that already has this id, untouched (then *changes* are not applied)."""
        ...

    async def append(
        self, run_id: str, outcomes: Sequence[Outcome], head: Head, fence: Fence, changes: Sequence[Change] = ()
    ) -> None:
        """Add *outcomes* to the journal, replace the head and apply *changes*: all of it, or nothing of it.

        `outcomes` continue the journal: the first has `seq` = the stored length + 1, and `head.length` is the last
        `seq`. Both may be checked. Durable on return.

        :raises FenceError: another owner has taken the run since *fence* was issued
        :raises RunNotFoundError: no such run
        :raises StoreFailedError: a write or sync failed; the store must be opened again
        """
        ...

    async def read_journal(self, run_id: str, *, after: int = 0) -> Sequence[Outcome]:
        """The outcomes with `seq` > *after*, in order.

        :raises RunNotFoundError: no such run
        """
        ...

    async def get_run(self, run_id: str) -> StoredRun | None:
        """The run of that id, or None."""
        ...

    async def find_runs(self, query: RunQuery) -> Sequence[StoredRun]:
        """The runs that match, newest first by `created_at` (then by id, descending), at most `query.limit`."""
        ...

    async def delete_run(self, run_id: str) -> None:
        """Remove a run with its journal, items and blobs. Unknown ids are no error."""
        ...

    async def change_items(self, changes: Sequence[Change]) -> None:
        """Apply *changes*, all or none; durable on return."""
        ...

    async def get_item(self, collection: str, key: str) -> Item | None:
        """One item, or None."""
        ...

    async def list_items(self, collection: str, *, prefix: str = "", limit: int | None = None) -> Sequence[Item]:
        """Items whose key starts with *prefix*, sorted by key as text."""
        ...

    async def put_blob(self, run_id: str, data: bytes) -> Blob:
        """Keep *data* for that run; durable on return. The same data twice is the same blob."""
        ...

    async def get_blob(self, run_id: str, blob: Blob) -> bytes:
        """The bytes of a blob.

        :raises StoreCorruptError: it is missing or not what was put
        """
        ...


# --- sandboxes ---------------------------------------------------------------------------------------------------


class Capability(enum.StrEnum):
    """What a sandbox can do beyond the duties of every sandbox."""

    ISOLATION = "isolation"
    SNAPSHOT = "snapshot"
    PAUSE = "pause"
    NETWORK_POLICY = "network-policy"
    RESOURCE_LIMITS = "resource-limits"
    TTY = "tty"


class BoxStatus(enum.StrEnum):
    """Where a box stands."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    DELETED = "deleted"


@attrs.frozen(kw_only=True)
class BoxSpec:
    """How a box is made.

    :param image: what it is made from; the local sandbox has only the host and ignores it
    :param env: environment of every command in the box
    :param init: a command run once, right after creation; the box is deleted when it fails
    :param ttl_s: a reaper deletes the box this long after its creation, whatever its run does
    :param keep: the box outlives its run
    """

    image: str | None = None
    env: Mapping[str, str] = attrs.field(factory=dict[str, str])
    init: str | None = None
    labels: Mapping[str, str] = attrs.field(factory=dict[str, str])
    ttl_s: float | None = None
    keep: bool = False


@attrs.frozen(kw_only=True)
class BoxInfo:
    """A box as its sandbox reports it."""

    box_id: str
    status: BoxStatus
    labels: Mapping[str, str]
    created_at: float


@attrs.frozen(kw_only=True)
class FileInfo:
    """One entry of a box's file tree; *path* is relative to the directory that was asked for."""

    path: str
    kind: str
    size_bytes: int
    mode: int
    modified_at: float


class Process(Protocol):
    """A process in a box, with separate streams."""

    async def write(self, data: bytes) -> None:
        """Send *data* to its standard input."""
        ...

    async def close_stdin(self) -> None:
        """End its standard input."""
        ...

    def read(self) -> AsyncIterator[tuple[str, bytes]]:
        """Chunks as `("stdout" | "stderr", bytes)`, until both streams have ended.

        It ends shortly after the process itself has, even when something that the process left behind holds a stream.
        """
        ...

    async def wait(self) -> int:
        """Its exit status once it ended; `128 + n` (as a shell says it) when signal *n* killed it."""
        ...

    async def kill(self) -> None:
        """End it and everything it started. Returns when all of it is gone; no error when it already is.

        Cancelling the caller does not stop the killing.

        :raises SandboxError: something of it cannot be ended
        """
        ...


class Sandbox(Protocol):
    """What makes boxes.

    Duties of every sandbox:

    - `create` is idempotent by id; a crash between the caller's record and the box leaves either no box or that box.
    - `delete` ends every process of the box and removes it; deleting twice, or what never was, is no error. An error
      other than absence is raised, never taken for success.
    - Paths are relative to the box's working directory, or absolute in the box; none leads out of it.
    - No call hangs: what can take long takes a deadline from its caller.
    """

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can do beyond the duties."""
        ...

    async def __aenter__(self) -> Self:
        """Connect; :raises SandboxUnavailableError: it does not answer."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect. Boxes stay."""
        ...

    async def create(self, box_id: str, spec: BoxSpec, labels: Mapping[str, str]) -> BoxInfo:
        """Make the box, or return the one that has this id. *labels* are kept with it and found by `list`."""
        ...

    async def get(self, box_id: str) -> BoxInfo:
        """:raises BoxNotFoundError: no such box."""
        ...

    async def list(self, labels: Mapping[str, str]) -> Sequence[BoxInfo]:
        """The boxes that carry all of *labels*."""
        ...

    async def delete(self, box_id: str) -> None:
        """End and remove the box. No error when there is none."""
        ...

    async def spawn(
        self, box_id: str, argv: Sequence[str], *, cwd: str | None, env: Mapping[str, str], stdin: bool
    ) -> Process:
        """Start *argv* in the box, in *cwd* (the box's working directory by default), its input closed unless *stdin*.

        :raises BoxNotFoundError: no such box
        :raises SandboxError: the program cannot be started
        """
        ...

    async def read_file(self, box_id: str, path: str, *, offset: int = 0, limit: int | None = None) -> bytes:
        """Bytes of a file.

        :raises BoxFileNotFoundError: no such file
        :raises BoxPathError: the path leads out of the box
        """
        ...

    async def write_file(self, box_id: str, path: str, data: bytes, *, mode: int | None = None) -> None:
        """Write a file whole, making the directories above it; the old content or the new, never a mixture."""
        ...

    async def list_files(self, box_id: str, path: str, *, recursive: bool = False) -> Sequence[FileInfo]:
        """Entries of a directory, sorted by path. Symbolic links are listed, not followed."""
        ...

    async def stat_file(self, box_id: str, path: str) -> FileInfo:
        """What *path* is; a link is described, not followed. :raises BoxFileNotFoundError: nothing is there."""
        ...

    async def make_directory(self, box_id: str, path: str) -> None:
        """Make the directory and those above it. One that is already there is no error."""
        ...

    async def rename_file(self, box_id: str, path: str, to: str) -> None:
        """Move a file or directory, replacing a file. :raises BoxFileNotFoundError: nothing is at *path*"""
        ...

    async def remove_file(self, box_id: str, path: str) -> None:
        """Remove a file or a whole directory. :raises BoxFileNotFoundError: nothing is there"""
        ...
