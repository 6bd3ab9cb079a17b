"""What makes boxes of directories and process groups of this machine?"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import parse_qsl

import anyio
import anyio.to_thread

from boxflow.errors import (
    ConfigurationError,
    NotSupportedError,
    SandboxUnavailableError,
)
from boxflow.ports import (
    BoxInfo,
    BoxSpec,
    BoxStatus,
    Capability,
    FileInfo,
    ProcessSpec,
    SnapshotInfo,
)
from boxflow_backends.local_sandbox.execs import Execs
from boxflow_backends.local_sandbox.files import LocalFiles
from boxflow_backends.local_sandbox.layout import Layout, default_root
from boxflow_backends.local_sandbox.lifecycle import Lifecycle, network_of
from boxflow_backends.local_sandbox.limits import ProcessLimits
from boxflow_backends.local_sandbox.process import LocalProcess
from boxflow_backends.local_sandbox.reach import Reach
from boxflow_backends.local_sandbox.records import Isolation, Record, Records
from boxflow_backends.local_sandbox.snapshots import Snapshots
from boxflow_backends.local_sandbox.transfer import Stop, Transfer
from boxflow_backends.uninterrupted import uninterrupted

T = TypeVar("T")

# Threads of its own: an app whose steps keep all shared threads busy must still be able to kill a process. And copies,
# which take minutes, have others than what is short.
_THREADS: Final = 16
_COPIES: Final = 8


class LocalSandbox:
    """Boxes that are directories and process groups of this machine.

    **There is no isolation** unless you ask for it. What runs in such a box is what you are: it can read and change
    your files, use your network, see and signal your processes, read your process's environment through `/proc`, and
    take all memory, processors and disk. The clean environment, the directories of its own and the killing of process
    trees are hygiene, for code you trust and for tests.

    What it does promise: commands get a clean environment with HOME and TMPDIR in the box; the files API does not leave
    the box; a timeout, a cancellation and `delete` end whole process trees, daemons too; boxes of a killed engine are
    found, and deleted with what runs in them, by the next one. It finds processes by their environment, their session
    and their parents. A daemon that has wiped the first, left the second and lost the third is not found, and outlives
    its box. Where there is no `/proc` (macOS), process groups of this engine's own processes are all that it ends.

    With `isolation="bubblewrap"`, on Linux, a box sees the machine's programs read-only and its own directories; no
    other files, processes or sockets, and no network unless it is given some. (An open one is this machine's: what
    listens on its loopback and on abstract sockets is reached through it.) Whatever runs in it ends with it, daemons
    of every kind too (with its own command only those that can be found, as above). It shares the kernel, and still
    takes memory, processors and disk as it likes. It is for code that may be wrong or curious. For code that may be an
    attack take `"docker:"`, or a machine of its own.

    :param root: where the boxes are kept; `$XDG_STATE_HOME/boxflow/boxes` unless given, for this user alone
    :param isolation: `"none"`, or `"bubblewrap"`, which has to be installed; also as
        `"local:/some/directory?isolation=bubblewrap"`
    :param limits: of each process by itself, since nothing here can bound a box as a whole
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        isolation: Isolation = "none",
        limits: ProcessLimits | None = None,
    ) -> None:
        if isolation not in ("none", "bubblewrap"):
            raise ConfigurationError(f"isolation={isolation!r} is not known; use 'none' or 'bubblewrap'")
        self._layout = Layout(default_root() if root is None else Path(root))
        self._isolation: Isolation = isolation
        self._threads = anyio.CapacityLimiter(_THREADS)
        self._copies = anyio.CapacityLimiter(_COPIES)
        self._records = Records(self._layout)
        self._execs = Execs(self._layout, self._records, isolation=isolation, limits=limits, threads=self._threads)
        self._reach = Reach(self._layout, self._execs.enclosures, self._threads)
        self._files = LocalFiles(self._layout)
        self._transfer = Transfer(self._layout, self._files)
        self._snapshots = Snapshots(self._layout)
        self._lifecycle = Lifecycle(self._layout, self._records, self._execs, self._snapshots)

    def __repr__(self) -> str:
        isolation = "" if self._isolation == "none" else f", isolation={self._isolation!r}"
        return f"LocalSandbox({str(self._layout.root)!r}{isolation})"

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`"local:"`, `"local:/some/directory"`, each with `"?isolation=bubblewrap"` behind it.

        :raises ConfigurationError: it asks for something else
        """
        path, _, query = url.partition(":")[2].removeprefix("//").partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        isolation = options.pop("isolation", "none")
        if options:
            raise ConfigurationError(f"sandbox {url!r} has an option {min(options)!r}; there is only 'isolation'")
        if isolation not in ("none", "bubblewrap"):
            raise ConfigurationError(f"sandbox {url!r}: isolation is 'none' or 'bubblewrap'")
        return cls(path or None, isolation="bubblewrap" if isolation == "bubblewrap" else "none")

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can do beyond the duties; isolation only where it was asked for."""
        found = {Capability.SNAPSHOT, Capability.TTY}
        if sys.platform == "linux":
            found.add(Capability.PAUSE)
        if self._isolation == "bubblewrap":
            found |= {Capability.ISOLATION, Capability.NETWORK_POLICY}
        return frozenset(found)

    async def __aenter__(self) -> Self:
        """Make the root, and see whether what was asked for can be had.

        :raises SandboxUnavailableError: the root cannot be made, or this system is not POSIX; or isolation is asked for
            and not installed, or not permitted
        """
        if os.name != "posix":
            raise SandboxUnavailableError(
                f"local boxes need a POSIX system, and this is {sys.platform!r}; use 'docker:'"
            )
        await self._in_thread(self._records.open)
        if self._isolation == "bubblewrap":
            if sys.platform != "linux":
                raise SandboxUnavailableError(f"isolation='bubblewrap' needs Linux, and this is {sys.platform!r}")
            with self._execs.starting():
                await uninterrupted(self._in_thread(self._execs.enclosures.probe))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Boxes stay, and what runs in them. Their way to allowed hosts is closed until a sandbox attaches to them."""
        await uninterrupted(self._reach.close_all())
        self._execs.settle()

    # --- boxes -------------------------------------------------------------------------------------------------

    async def create(self, box_id: str, spec: BoxSpec, labels: Mapping[str, str]) -> BoxInfo:
        """Make the box, or return the one that has this id."""
        record = Record(
            box_id=box_id,
            labels=dict(labels),
            env=dict(spec.env),
            created_at=time.time(),
            isolation=self._isolation,
            network=network_of(spec, self._isolation),
        )
        stop = Stop()

        async def create() -> BoxInfo:
            with self._execs.starting():
                made = await self._in_thread(lambda: self._lifecycle.create(record, spec.snapshot, stop), self._copies)
            await self._reach.open_gate(made)
            return await self._in_thread(lambda: self._lifecycle.info(made))

        return await uninterrupted(create(), when_cancelled=stop.ask)

    async def get(self, box_id: str) -> BoxInfo:
        """:raises BoxNotFoundError: no such box."""
        return await self._in_thread(lambda: self._lifecycle.info(self._records.read(box_id)))

    async def attach(self, box_id: str) -> BoxInfo:
        """Let the box reach the hosts that it may, through this engine. :raises BoxNotFoundError: no such box."""
        await self._reach.open_gate(await self._record(box_id))
        return await self.get(box_id)

    async def list(self, labels: Mapping[str, str]) -> Sequence[BoxInfo]:
        """The boxes that carry all of *labels*, oldest first."""
        return await self._in_thread(lambda: [self._lifecycle.info(record) for record in self._records.list(labels)])

    async def pause(self, box_id: str) -> None:
        """Stop every process of the box, as SIGSTOP does."""
        self._need(Capability.PAUSE, "cannot pause a box")
        await uninterrupted(self._in_thread(lambda: self._lifecycle.pause(box_id)))

    async def resume(self, box_id: str) -> None:
        """Let a paused box go on; start an isolated one again that stopped."""
        self._need(Capability.PAUSE, "cannot resume a box")

        async def resume() -> None:
            with self._execs.starting():
                was = await self._in_thread(lambda: self._lifecycle.resume(box_id))
            if was is BoxStatus.STOPPED:
                await self._reach.close(box_id)
            await self._reach.open_gate(await self._record(box_id))

        await uninterrupted(resume())

    async def delete(self, box_id: str) -> None:
        """End and remove the box. No error when there is none. Cancelling does not leave half of it running."""

        async def delete() -> None:
            await self._reach.close(box_id)
            await self._in_thread(lambda: self._lifecycle.delete(box_id))

        await uninterrupted(delete())

    async def url(self, box_id: str, port: int) -> str:
        """Where this machine reaches *port* of the box: the port itself, unless the box has a network of its own."""
        return await self._reach.url(await self._record(box_id), port)

    # --- processes ---------------------------------------------------------------------------------------------

    async def spawn(self, box_id: str, spec: ProcessSpec) -> LocalProcess:
        """Start a process in the box. Cancelling leaves none behind.

        What it starts is found by `kill` and `end` as this class says. A terminal is hung up when its process ends.
        """
        return await self._execs.spawn(box_id, spec)

    async def signal(self, box_id: str, exec_id: str, number: int, *, user: str | None = None) -> None:
        """Send a signal to the process started as *exec_id*; no error when it has ended."""
        await self._execs.signal(box_id, exec_id, number)

    async def end(self, box_id: str, exec_id: str, *, user: str | None = None) -> None:
        """End the process started as *exec_id* with everything it started."""
        await self._execs.end(box_id, exec_id)

    # --- files -------------------------------------------------------------------------------------------------

    async def read_file(self, box_id: str, path: str, *, offset: int = 0, limit: int | None = None) -> bytes:
        """Bytes of a file."""
        return await self._in_thread(lambda: self._files.read(box_id, path, offset, limit))

    async def write_file(self, box_id: str, path: str, data: bytes, *, mode: int | None = None) -> None:
        """Write a file whole."""
        await self._in_thread(lambda: self._files.write(box_id, path, data, mode))

    async def list_files(self, box_id: str, path: str, *, recursive: bool = False) -> Sequence[FileInfo]:
        """Entries of a directory."""
        return await self._in_thread(lambda: self._files.list(box_id, path, recursive))

    async def stat_file(self, box_id: str, path: str) -> FileInfo:
        """What is at *path*; a link is described, not followed."""
        return await self._in_thread(lambda: self._files.stat(box_id, path))

    async def make_directory(self, box_id: str, path: str) -> None:
        """Make a directory and those above it."""
        await self._in_thread(lambda: self._files.make_directory(box_id, path))

    async def rename_file(self, box_id: str, path: str, to: str) -> None:
        """Move a file or directory."""
        await self._in_thread(lambda: self._files.rename(box_id, path, to))

    async def remove_file(self, box_id: str, path: str) -> None:
        """Remove a file, a link, or a whole directory."""
        await self._in_thread(lambda: self._files.remove(box_id, path))

    async def upload(self, box_id: str, source: Path, path: str) -> None:
        """Copy a file or directory of this machine into the box, with flat memory."""
        await self._copying(lambda stop: self._transfer.upload(box_id, source, path, stop))

    async def download(self, box_id: str, path: str, target: Path) -> None:
        """Copy a file or directory of the box to this machine, with flat memory; nothing outside of *target*."""
        await self._copying(lambda stop: self._transfer.download(box_id, path, target, stop))

    # --- snapshots ---------------------------------------------------------------------------------------------

    async def snapshot(self, box_id: str, snapshot_id: str, labels: Mapping[str, str]) -> SnapshotInfo:
        """Keep the working directory and HOME; or return the snapshot that has this id.

        What a process is writing meanwhile may be caught half written: pause the box before, if that matters.
        """
        return await self._copying(lambda stop: self._snapshots.make(box_id, snapshot_id, labels, stop))

    async def list_snapshots(self, labels: Mapping[str, str]) -> Sequence[SnapshotInfo]:
        """The snapshots that carry all of *labels*, oldest first."""
        return await self._in_thread(lambda: self._snapshots.list(labels))

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot. No error when there is none."""
        await uninterrupted(self._in_thread(lambda: self._snapshots.delete(snapshot_id)))

    # --- in threads --------------------------------------------------------------------------------------------

    async def _in_thread(self, fn: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> T:
        return await anyio.to_thread.run_sync(fn, limiter=limiter or self._threads)

    async def _copying(self, copy: Callable[[Stop], T]) -> T:
        """What *copy* returns. Cancelling makes it end early, and returns when it has."""
        stop = Stop()
        return await uninterrupted(self._in_thread(lambda: copy(stop), self._copies), when_cancelled=stop.ask)

    async def _record(self, box_id: str) -> Record:
        return await self._in_thread(lambda: self._records.read(box_id))

    def _need(self, capability: Capability, cannot: str) -> None:
        if capability not in self.capabilities:
            raise NotSupportedError(f"the local sandbox {cannot} on {sys.platform!r}; use 'docker:'")
