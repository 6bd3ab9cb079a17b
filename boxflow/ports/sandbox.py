"""What does boxflow ask of what makes boxes? `Sandbox`, and `Process`, what it starts in them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from boxflow.ports.box import BoxInfo, BoxSpec, Capability, FileInfo, ProcessSpec, SnapshotInfo, TerminalSize


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
