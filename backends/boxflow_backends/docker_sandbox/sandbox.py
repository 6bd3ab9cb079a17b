"""What makes boxes of containers of a Docker engine?"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import attrs

from boxflow.errors import BoxNotFoundError, NotSupportedError, SandboxUnavailableError
from boxflow.ports import BoxInfo, BoxSpec, Capability, FileInfo, ProcessSpec, SnapshotInfo
from boxflow_backends.docker_sandbox.boxes import DockerBoxes
from boxflow_backends.docker_sandbox.client import Daemon
from boxflow_backends.docker_sandbox.containers import Defaults, Machine, network_of
from boxflow_backends.docker_sandbox.endings import Endings
from boxflow_backends.docker_sandbox.exec_calls import ExecCalls
from boxflow_backends.docker_sandbox.execs import Execs
from boxflow_backends.docker_sandbox.files import DockerFiles
from boxflow_backends.docker_sandbox.gates import Gates
from boxflow_backends.docker_sandbox.images import Images
from boxflow_backends.docker_sandbox.killing import mark_of
from boxflow_backends.docker_sandbox.process import DockerProcess
from boxflow_backends.docker_sandbox.record import BoxRecord
from boxflow_backends.docker_sandbox.snapshots import DockerSnapshots
from boxflow_backends.docker_sandbox.transfer import Transfers
from boxflow_backends.docker_sandbox.tunnel import Tunnels
from boxflow_backends.uninterrupted import uninterrupted

_DEFAULT_IMAGE: Final = "python:3.12"


class DockerSandbox:
    """Boxes that are containers of a Docker engine, hardened by default.

    What runs in a box is no root, has no capability and gets none, sees no network unless its spec says so, and is
    bound in processes, memory, processors and, with `disk_bytes`, in files. Not held are: attacks on the machine's
    kernel (which boxes share), and processes of one box spying on each other (a secret given to one command can be read
    by all commands of the same user in that box).

    Whoever reaches Docker's socket is root on its machine: so is this process, and no box ever sees that socket.

    - `disk_bytes` puts the working directory, the home, `/tmp` and the jobs in memory, a share of it to each, and makes
      everything else read-only. Such files count as memory, go when the box is stopped, and have no snapshots. Without
      it the machine's disk is the bound.
    - A box that has filled itself with processes, so that not even what should end them can be started in it, is
      started anew when some of them are to be ended: its files stay, and everything that ran in it ends.
    - Root is allowed (`user="root"`), and has no capabilities either: it owns what root owns, and may do little else.
    - Variables of `BoxSpec.env` are kept as a label of the container: who may ask Docker may read them.

    :param image: what a box is made from when its spec does not say. It needs `/bin/sh`, and the usual small programs
    :param host: URL of the engine, `"unix:///..."` or `"tcp://..."`; `DOCKER_HOST` unless given
    :param namespace: boxes and snapshots of another one, on the same engine, are neither found nor in the way
    :param cpus: of a box whose spec does not say
    :param memory_bytes: as *cpus*
    :param max_processes: as *cpus*
    :param egress_ca: a file of certificates (PEM) that the gates of `Egress` trust beside the usual ones
    """

    def __init__(
        self,
        image: str = _DEFAULT_IMAGE,
        *,
        host: str | None = None,
        namespace: str = "default",
        cpus: float = 2.0,
        memory_bytes: int = 2 * 1024**3,
        max_processes: int = 512,
        egress_ca: str | os.PathLike[str] | None = None,
    ) -> None:
        self._image = image
        self._host = host
        self._namespace = namespace
        self._defaults = Defaults(cpus=cpus, memory_bytes=memory_bytes, max_processes=max_processes)
        self._egress_ca = None if egress_ca is None else Path(egress_ca)
        self._open: _Parts | None = None

    def __repr__(self) -> str:
        return f"DockerSandbox({self._image!r})"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """All there are."""
        return frozenset(Capability)

    async def __aenter__(self) -> Self:
        """Connect; :raises SandboxUnavailableError: the engine does not answer, or is of a kind we cannot use."""
        daemon = Daemon(self._host)
        await daemon.open()
        try:
            self._open = self._parts(daemon, Machine.of(await daemon.read("info")))
        except BaseException:
            await daemon.close()
            raise
        return self

    def _parts(self, daemon: Daemon, machine: Machine) -> _Parts:
        images = Images(daemon, default=self._image)
        calls = ExecCalls(daemon)
        endings = Endings(calls, self._start_over)
        files = DockerFiles(self.spawn)
        return _Parts(
            daemon=daemon,
            boxes=DockerBoxes(daemon, images, namespace=self._namespace, machine=machine, defaults=self._defaults),
            calls=calls,
            endings=endings,
            execs=Execs(calls, endings),
            files=files,
            transfers=Transfers(files),
            snapshots=DockerSnapshots(daemon, images, namespace=self._namespace),
            tunnels=Tunnels(self.spawn),
            gates=Gates(
                self.spawn,
                namespace=self._namespace,
                local=daemon.endpoint().path is not None,
                upstream_ca=self._egress_ca,
            ),
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect. Boxes stay, and what runs in them."""
        parts, self._open = self._open, None
        if parts is not None:
            await uninterrupted(parts.close())

    @property
    def _with(self) -> _Parts:
        if self._open is None:
            raise SandboxUnavailableError(
                "the Docker sandbox is not open; use it in `async with DockerSandbox() as sandbox:`"
            )
        return self._open

    # --- boxes -------------------------------------------------------------------------------------------------

    async def create(self, box_id: str, spec: BoxSpec, labels: Mapping[str, str]) -> BoxInfo:
        """Make the box, or return the one that has this id."""
        parts, policy = self._with, network_of(spec)
        gate = None if policy is None else await parts.gates.plan(box_id, policy)
        record = await parts.boxes.create(box_id, spec, labels, gate)
        try:
            await parts.gates.attend(record)
        except NotSupportedError:
            # What its image lacks it will always lack: a box that says it has a way out, and has none, helps nobody.
            await self.delete(box_id)
            raise
        return record.info()

    async def get(self, box_id: str) -> BoxInfo:
        """:raises BoxNotFoundError: no such box."""
        return (await self._with.boxes.get(box_id)).info()

    async def attach(self, box_id: str) -> BoxInfo:
        """Take care of a box that somebody else made: its gate is served from here on."""
        record = await self._with.boxes.get(box_id)
        await self._with.gates.attend(record)
        return record.info()

    async def list(self, labels: Mapping[str, str]) -> Sequence[BoxInfo]:
        """The boxes that carry all of *labels*, oldest first."""
        return await self._with.boxes.list(labels)

    async def pause(self, box_id: str) -> None:
        """Freeze every process of the box."""
        await self._with.boxes.pause(box_id)

    async def resume(self, box_id: str) -> None:
        """Let a paused box go on; start a stopped one again, with its files."""
        parts = self._with
        await parts.gates.prepare(await parts.boxes.get(box_id))
        await parts.gates.attend(await parts.boxes.resume(box_id))

    async def delete(self, box_id: str) -> None:
        """End and remove the box. No error when there is none."""
        parts = self._with
        await uninterrupted(self._delete(parts, box_id))

    @staticmethod
    async def _delete(parts: _Parts, box_id: str) -> None:
        await parts.tunnels.close(box_id)
        await parts.gates.close(box_id)
        record = await parts.boxes.delete(box_id, before=parts.calls.release)
        if record is not None:
            parts.calls.abandon(record.container_id)
        await parts.gates.remove(box_id, record)

    async def url(self, box_id: str, port: int) -> str:
        """`http://127.0.0.1:N`, from which this machine reaches what listens on *port* in the box."""
        await self._with.boxes.get(box_id)
        return await self._with.tunnels.url(box_id, port)

    # --- processes ---------------------------------------------------------------------------------------------

    async def spawn(self, box_id: str, spec: ProcessSpec) -> DockerProcess:
        """Start a process in the box. Cancelling leaves none behind."""
        parts = self._with
        record = await parts.boxes.known(box_id)
        try:
            return await parts.execs.spawn(record, spec, parts.gates.environment(record))
        except BoxNotFoundError:
            # What we knew may be another box's, of the same id, that was deleted and made anew.
            parts.boxes.forget(box_id)
            renewed = await parts.boxes.get(box_id)
            if renewed.container_id == record.container_id:
                raise
            return await parts.execs.spawn(renewed, spec, parts.gates.environment(renewed))

    async def _start_over(self, record: BoxRecord) -> None:
        await self._with.boxes.start_over(record)
        await self._with.gates.attend(record)

    async def signal(self, box_id: str, exec_id: str, number: int, *, user: str | None = None) -> None:
        """Send a signal to the process started as *exec_id*; no error when it has ended."""
        record = await self._with.boxes.get(box_id)
        await self._with.endings.signal(record, mark_of(box_id, exec_id), number, user)

    async def end(self, box_id: str, exec_id: str, *, user: str | None = None) -> None:
        """End the process started as *exec_id* with everything it started."""
        record = await self._with.boxes.get(box_id)
        await self._with.endings.end(record, mark_of(box_id, exec_id), user)

    # --- files -------------------------------------------------------------------------------------------------

    async def read_file(self, box_id: str, path: str, *, offset: int = 0, limit: int | None = None) -> bytes:
        """Bytes of a file."""
        return await self._with.files.read(box_id, path, offset, limit)

    async def write_file(self, box_id: str, path: str, data: bytes, *, mode: int | None = None) -> None:
        """Write a file whole."""
        await self._with.files.write(box_id, path, data, mode)

    async def list_files(self, box_id: str, path: str, *, recursive: bool = False) -> Sequence[FileInfo]:
        """Entries of a directory."""
        return await self._with.files.list(box_id, path, recursive)

    async def stat_file(self, box_id: str, path: str) -> FileInfo:
        """What is at *path*; a link is described, not followed."""
        return await self._with.files.stat(box_id, path)

    async def make_directory(self, box_id: str, path: str) -> None:
        """Make a directory and those above it."""
        await self._with.files.make_directory(box_id, path)

    async def rename_file(self, box_id: str, path: str, to: str) -> None:
        """Move a file or directory."""
        await self._with.files.rename(box_id, path, to)

    async def remove_file(self, box_id: str, path: str) -> None:
        """Remove a file, a link, or a whole directory."""
        await self._with.files.remove(box_id, path)

    async def upload(self, box_id: str, source: Path, path: str) -> None:
        """Copy a file or directory of this machine to *path* in the box."""
        await self._with.transfers.upload(box_id, source, path)

    async def download(self, box_id: str, path: str, target: Path) -> None:
        """Copy a file or directory of the box to *target* on this machine."""
        await self._with.transfers.download(box_id, path, target)

    # --- snapshots ---------------------------------------------------------------------------------------------

    async def snapshot(self, box_id: str, snapshot_id: str, labels: Mapping[str, str]) -> SnapshotInfo:
        """Keep the box's files as they are, or return the snapshot that has this id."""
        record = await self._with.boxes.get(box_id)
        return await self._with.snapshots.make(record, snapshot_id, labels)

    async def list_snapshots(self, labels: Mapping[str, str]) -> Sequence[SnapshotInfo]:
        """The snapshots that carry all of *labels*, oldest first."""
        return await self._with.snapshots.list(labels)

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; boxes made from it stay. No error when there is none."""
        await self._with.snapshots.delete(snapshot_id)


@attrs.frozen(kw_only=True)
class _Parts:
    """What an open sandbox consists of."""

    daemon: Daemon
    boxes: DockerBoxes
    calls: ExecCalls
    endings: Endings
    execs: Execs
    files: DockerFiles
    transfers: Transfers
    snapshots: DockerSnapshots
    tunnels: Tunnels
    gates: Gates

    async def close(self) -> None:
        await self.gates.close_all()
        await self.tunnels.close_all()
        self.calls.close()
        await self.daemon.close()
