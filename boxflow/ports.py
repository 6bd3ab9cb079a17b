"""What boxflow asks of others: the Protocols `Clock`, `Store` and `Sandbox`, and the data they exchange.

A backend imports this module, `boxflow.model` and `boxflow.errors`, and nothing else of boxflow. The duties are written
as prose here and as tests in `boxflow.testing.StoreContract`.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import attrs

from boxflow.agent_config import AgentConfig
from boxflow.errors import ConfigurationError
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

    @property
    def outlives_process(self) -> bool:
        """Whether what is kept here can be opened again after the process has died."""
        ...

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
    """What a sandbox can do beyond the duties of every sandbox. What it lacks it refuses with `NotSupportedError`."""

    ISOLATION = "isolation"
    """What runs in a box sees neither the files, nor the processes, nor the network of the machine or another box."""

    SNAPSHOT = "snapshot"
    PAUSE = "pause"
    TTY = "tty"

    NETWORK_POLICY = "network-policy"
    """`BoxSpec.network` is enforced."""

    RESOURCE_LIMITS = "resource-limits"
    """`cpus`, `memory_bytes`, `max_processes` and `disk_bytes` bind the box as a whole."""

    IMAGES = "images"
    """`image` and `dockerfile` say what the box is made from."""

    USERS = "users"
    """A process may be started as another user of the box, `"root"` among them."""


class BoxStatus(enum.StrEnum):
    """Where a box stands."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    DELETED = "deleted"


def _names(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ConfigurationError(f"Egress(allow={names!r}) is one text; give a list of host names, [{names!r}]")
    return tuple(names)


@attrs.frozen(kw_only=True)
class Egress:
    """Where a box may connect to: nowhere but to these hosts, through a gate outside of the box.

    Nothing else leaves the box, DNS queries included: the gate looks names up itself, and refuses those that lead to
    addresses that are not public. The box reaches the gate as its HTTP proxy (`HTTP_PROXY`, `HTTPS_PROXY`).

    :param allow: host names, `"api.example.org"` or `"*.example.org"` (its subdomains), for ports 443 and 80; with
        `":8443"` behind it for that port only. Addresses match nothing
    :param headers: for a host (or pattern) of *allow*, headers that the gate sets on each request to it. A `$NAME` or
        `${NAME}` in a value is a secret: it is replaced by the engine's variable of that name, at the gate, at each
        request. So the box never sees it, and neither does any record: write no secret itself. `$$` is a dollar sign
    :param resolve: for `"host"` or `"host:port"`, the `"address"` or `"address:port"` to connect to instead of asking
        DNS. It may be private: whoever writes it here means it
    """

    allow: Sequence[str] = attrs.field(converter=_names)
    headers: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict[str, Mapping[str, str]])
    resolve: Mapping[str, str] = attrs.field(factory=dict[str, str])


Network = Literal["none", "open"] | Egress
"""What a box may connect to: nothing, everything that the machine can reach, or some hosts."""


@attrs.frozen(kw_only=True)
class BoxSpec:
    """How a box is made.

    :param image: what it is made from, by name; the local sandbox has only the host and ignores it
    :param dockerfile: text from which an image is built, once, instead of *image*
    :param snapshot: id of the snapshot it begins with, instead of *image*
    :param env: environment of every command in the box
    :param init: a command run once, right after creation; the box is deleted when it fails
    :param ttl_s: a reaper deletes the box this long after its creation, whatever its run does
    :param keep: the box outlives its run
    :param network: what it may connect to; the sandbox's default when None
    :param user: who runs its commands; the sandbox's default (never root) when None
    :param cpus: processors it may use at once, as in `1.5`
    :param memory_bytes: of all its processes together
    :param disk_bytes: of all its files together
    :param max_processes: at once, threads included
    :param agent: what `box.agent` is, unless a call says otherwise; no sandbox's business
    """

    image: str | None = None
    dockerfile: str | None = None
    snapshot: str | None = None
    env: Mapping[str, str] = attrs.field(factory=dict[str, str])
    init: str | None = None
    labels: Mapping[str, str] = attrs.field(factory=dict[str, str])
    ttl_s: float | None = None
    keep: bool = False
    network: Network | None = None
    user: str | None = None
    cpus: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    max_processes: int | None = None
    agent: AgentConfig | None = None


@attrs.frozen(kw_only=True)
class BoxInfo:
    """A box as its sandbox reports it."""

    box_id: str
    status: BoxStatus
    labels: Mapping[str, str]
    created_at: float


@attrs.frozen(kw_only=True)
class SnapshotInfo:
    """A snapshot as its sandbox reports it.

    :param box_id: the box it was made of
    """

    snapshot_id: str
    box_id: str
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


@attrs.frozen(kw_only=True)
class TerminalSize:
    """How large a terminal is, in characters."""

    columns: int = 80
    rows: int = 24


@attrs.frozen(kw_only=True)
class ProcessSpec:
    """What to start in a box, and how.

    :param argv: the program and its arguments; no shell
    :param cwd: relative to the box's working directory, which is the default; or absolute in the box
    :param env: variables on top of the box's
    :param user: who runs it; the box's user when None
    :param stdin: whether its input stays open for `Process.write`; closed from the start unless so
    :param tty: give it a terminal of this size: both streams arrive as stdout, and *stdin* is open
    :param exec_id: a name, unique in the box, by which `signal` and `end` find its process tree later, from another
        engine too; one is made when None
    """

    argv: Sequence[str]
    cwd: str | None = None
    env: Mapping[str, str] = attrs.field(factory=dict[str, str])
    user: str | None = None
    stdin: bool = False
    tty: TerminalSize | None = None
    exec_id: str | None = None


class Process(Protocol):
    """A process in a box, with separate streams. Losing the handle does not end the process."""

    async def write(self, data: bytes) -> None:
        """Send *data* to its standard input. :raises SandboxError: it has closed it"""
        ...

    async def close_stdin(self) -> None:
        """End its standard input."""
        ...

    def read(self) -> AsyncIterator[tuple[str, bytes]]:
        """Chunks as `("stdout" | "stderr", bytes)`, until both streams have ended.

        It ends shortly after the process itself has, even when something that the process left behind holds a stream.
        While nobody reads, the process waits: memory stays bounded.
        """
        ...

    async def wait(self) -> int:
        """Its exit status once it ended; `128 + n` (as a shell says it) when signal *n* killed it.

        :raises SandboxUnavailableError: the sandbox went away, and how the process ended is not known
        """
        ...

    async def signal(self, number: int) -> None:
        """Send a signal to the process itself; no error when it has ended."""
        ...

    async def resize(self, size: TerminalSize) -> None:
        """Tell it that its terminal has a new size; nothing without a terminal."""
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
    - A process of a box finds in its environment, beside what was asked for: `HOME` and a place for temporary files
      (`TMPDIR`, else `/tmp`), both of the box and writable; `BOXFLOW_BOX`, the box's id; and `BOXFLOW_JOBS`, a
      directory of the box, made and writable by the box's user, that lasts as long as the box and that `snapshot`
      leaves out. Nothing of the caller's environment but `PATH`.
    - Every box has a POSIX shell as `sh` and the usual small programs (`cat`, `dd`, `head`, `ln`, `mkdir`, `mkfifo`,
      `mv`, `rm`, `sleep`, `tail`, `wc`): `boxflow.boxes` builds jobs from them. Where a program that is put before a
      command (as `tini -s --`) makes daemons stay below it, its words stand in `BOXFLOW_REAPER`.
    - Paths are relative to the box's working directory, or absolute in the box; none leads out of it. What the engine
      does to files, it does with no more rights than the box's user has.
    - What a spec asks for and the sandbox cannot enforce is refused with `NotSupportedError`, never passed over:
      a `network` above all. `image` and `dockerfile` are ignored by a sandbox without images.
    - No call hangs: what can take long takes a deadline from its caller, all else has one of its own. While the sandbox
      does not answer, calls raise `SandboxUnavailableError`, after having been tried again where that is safe.
    - Blocking system calls never run on the event loop.
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
        """Disconnect. Boxes stay, and what runs in them."""
        ...

    # --- boxes

    async def create(self, box_id: str, spec: BoxSpec, labels: Mapping[str, str]) -> BoxInfo:
        """Make the box, or return the one that has this id. *labels* are kept with it and found by `list`.

        :raises NotSupportedError: *spec* asks for what this sandbox cannot do
        :raises SnapshotNotFoundError: no such snapshot
        :raises ImageNotFoundError: the image is not there and cannot be had, or cannot be built
        """
        ...

    async def get(self, box_id: str) -> BoxInfo:
        """:raises BoxNotFoundError: no such box."""
        ...

    async def attach(self, box_id: str) -> BoxInfo:
        """Take care of a box that somebody else made: what serves it from outside (its gate) is served from here on.

        :raises BoxNotFoundError: no such box
        """
        ...

    async def list(self, labels: Mapping[str, str]) -> Sequence[BoxInfo]:
        """The boxes that carry all of *labels*, oldest first."""
        ...

    async def pause(self, box_id: str) -> None:
        """Freeze every process of the box; files stay. Nothing can be started until `resume`. Twice is no error."""
        ...

    async def resume(self, box_id: str) -> None:
        """Let a paused box go on; start a stopped one again, with its files. No error when it runs."""
        ...

    async def delete(self, box_id: str) -> None:
        """End and remove the box. No error when there is none."""
        ...

    async def url(self, box_id: str, port: int) -> str:
        """`http://127.0.0.1:N`, from which this machine reaches what listens on *port* in the box.

        Valid until the sandbox is left. Whether anything listens there shows when it is used.
        """
        ...

    # --- processes

    async def spawn(self, box_id: str, spec: ProcessSpec) -> Process:
        """Start a process in the box. Cancelling leaves none behind.

        :raises BoxNotFoundError: no such box
        :raises BoxStateError: it is paused or stopped
        :raises SandboxError: the program, its directory or its user is not there
        """
        ...

    async def signal(self, box_id: str, exec_id: str, number: int, *, user: str | None = None) -> None:
        """Send a signal to the process started as *exec_id*, by whoever; no error when it has ended.

        :param user: as whom it was started
        """
        ...

    async def end(self, box_id: str, exec_id: str, *, user: str | None = None) -> None:
        """End the process started as *exec_id* with everything it started, as `Process.kill` does."""
        ...

    # --- files

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

    async def upload(self, box_id: str, source: Path, path: str) -> None:
        """Copy the file or directory *source* of this machine to *path* in the box, with flat memory.

        A directory's content is added to what is at *path*. Directories above are made; permission bits are kept,
        owners are not; symbolic links are copied as links, pipes, sockets and devices are left out.

        :raises FileNotFoundError: *source* is not there
        """
        ...

    async def download(self, box_id: str, path: str, target: Path) -> None:
        """Copy the file or directory *path* of the box to *target* on this machine, with flat memory.

        What comes out of a box is not trusted: nothing is written outside of *target*, whatever the box does. Of
        permission bits `0o755` at most is kept; symbolic links are copied as links if they are relative and stay within
        *target*, and left out otherwise; hard links become files; pipes, sockets and devices are left out. A file
        appears whole or not at all.

        :raises BoxFileNotFoundError: nothing is at *path*
        """
        ...

    # --- snapshots

    async def snapshot(self, box_id: str, snapshot_id: str, labels: Mapping[str, str]) -> SnapshotInfo:
        """Keep the box's files as they are, or return the snapshot that has this id. Processes are no part of it."""
        ...

    async def list_snapshots(self, labels: Mapping[str, str]) -> Sequence[SnapshotInfo]:
        """The snapshots that carry all of *labels*, oldest first."""
        ...

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; boxes made from it stay. No error when there is none."""
        ...
