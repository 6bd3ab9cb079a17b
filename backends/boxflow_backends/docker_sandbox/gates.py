"""How does a box with an `Egress` get its way out? A gate that is served here, and a forwarder that runs in the box.

The box has no network at all. A directory of this machine is mounted into it, with the gate's socket. Where that
directory is, and what the gate allows, is kept in a label of the container: so whoever attaches to the box, after an
engine has died, serves the same gate in the same place.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import attrs

from boxflow.errors import NotSupportedError, SandboxError, SandboxUnavailableError
from boxflow.ports import BoxStatus, Egress, ProcessSpec
from boxflow_backends.docker_sandbox.containers import Gate
from boxflow_backends.docker_sandbox.process import DockerProcess
from boxflow_backends.docker_sandbox.record import BoxRecord, digest
from boxflow_backends.egress_gate import EgressGate, box_environment, check_policy, forwarder_argv

Spawn = Callable[[str, ProcessSpec], Awaitable[DockerProcess]]

# In the box. A mount point of its own, below what every image may lack.
_TARGET: Final = "/run/boxflow"

_FORWARDER: Final = "boxflow forwarder"

# Its start, with its interpreter's; the machine may be starting fifty others.
_READY_S: Final = 60.0

# What the forwarder's exit status means: see `forwarder_argv`.
_PORT_TAKEN: Final = 1
_NO_INTERPRETER: Final = 69


class Gates:
    """The gates of the boxes of one sandbox.

    :param spawn: how a program is started in a box
    :param local: whether the engine sees this machine's files
    :param upstream_ca: certificates that gates trust beside the usual ones
    """

    def __init__(self, spawn: Spawn, *, namespace: str, local: bool, upstream_ca: Path | None) -> None:
        self._spawn = spawn
        self._namespace = namespace
        self._local = local
        self._upstream_ca = upstream_ca
        self._open: dict[str, EgressGate] = {}
        self._opening = asyncio.Lock()

    async def plan(self, box_id: str, policy: Egress) -> Gate:
        """Where the gate of a box to be made will be; the directory is there on return.

        :raises ConfigurationError: *policy* cannot work
        :raises NotSupportedError: the engine is on another machine
        """
        check_policy(policy)
        if not self._local:
            raise NotSupportedError(
                "network=Egress(...) needs a Docker engine on this machine: its gate is a socket that is mounted into "
                'the box; use network="none" or "open", or run this program where the engine is'
            )
        door = self._place(box_id) / "door"
        await anyio.to_thread.run_sync(_make, door)
        described = {**attrs.asdict(policy), "directory": str(door)}
        return Gate(directory=str(door), target=_TARGET, policy=json.dumps(described))

    def environment(self, record: BoxRecord) -> Mapping[str, str]:
        """What its commands must know of the way out."""
        return box_environment(_TARGET) if record.egress else {}

    async def prepare(self, record: BoxRecord) -> None:
        """Make what a box needs of this machine to be started: a reboot removes it with other temporary files."""
        if record.egress:
            await anyio.to_thread.run_sync(_make, _kept(record)[1])

    async def attend(self, record: BoxRecord) -> None:
        """Serve the gate of a box, if it has one, from here on, and see that its forwarder runs.

        :raises SandboxError: the forwarder cannot run: the image lacks what it needs
        """
        if not record.egress:
            return
        async with self._opening:
            if record.box_id not in self._open:
                policy, door = _kept(record)
                await anyio.to_thread.run_sync(_make, door)
                gate = EgressGate(
                    policy,
                    directory=door,
                    name=record.box_id,
                    private_directory=door.parent / "private",
                    upstream_ca=self._upstream_ca,
                )
                await gate.open()
                self._open[record.box_id] = gate
        if record.status is BoxStatus.RUNNING:
            await self._forward(record.box_id)

    async def _forward(self, box_id: str) -> None:
        argv = forwarder_argv(f"{_TARGET}/gate.sock")
        process = await self._spawn(box_id, ProcessSpec(argv=argv, cwd="/", exec_id=_FORWARDER))
        said = {"stdout": b"", "stderr": b""}
        try:
            async with asyncio.timeout(_READY_S):
                async for stream, data in process.read():
                    said[stream] += data
                    if b"ready" in said["stdout"]:
                        process.detach()
                        return
                code = await process.wait()
        except TimeoutError:
            await process.kill()
            raise SandboxUnavailableError(
                f"the forwarder of box {box_id!r} did not start within {_READY_S:g} s"
            ) from None
        if code == _PORT_TAKEN:
            # It runs already: somebody else has served this box before.
            return
        complaint = said["stderr"].decode(errors="replace").strip()
        if code == _NO_INTERPRETER:
            raise NotSupportedError(f"box {box_id!r} can have no Egress: {complaint}")
        raise SandboxError(f"the forwarder of box {box_id!r} ended with status {code}: {complaint}")

    async def close(self, box_id: str) -> None:
        """Stop serving a box."""
        gate = self._open.pop(box_id, None)
        if gate is not None:
            await gate.close()

    async def remove(self, box_id: str, record: BoxRecord | None) -> None:
        """Remove what is left of the gate of a box that is gone."""
        places = {self._place(box_id)}
        if record is not None and record.egress:
            kept = _kept(record)[1].parent
            # Of the box's own name only, whatever a label may say.
            places |= {kept} if kept.name == self._place(box_id).name else set()
        for place in places:
            await anyio.to_thread.run_sync(_remove, place)

    async def close_all(self) -> None:
        """Stop serving. Boxes keep their directories, for the next who attaches."""
        while self._open:
            _, gate = self._open.popitem()
            await gate.close()

    def _place(self, box_id: str) -> Path:
        return _root() / digest("gate", self._namespace, box_id)


def _root() -> Path:
    """Short, since a socket's path has 107 bytes at most; and nobody else's."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_absolute() and os.access(runtime, os.W_OK):
        return Path(runtime, "boxflow")
    return Path(tempfile.gettempdir(), f"boxflow-{os.geteuid()}")


def _make(door: Path) -> None:
    """Make the door's directory, below one that only we may enter. The box comes in through its mount."""
    root = door.parent.parent
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise SandboxError(f"{str(root)!r} is not a directory of this user; gates cannot be kept there, remove it")
    if stat.S_IMODE(status.st_mode) & 0o077:
        root.chmod(0o700)
    door.mkdir(parents=True, exist_ok=True)
    # Whatever the umask is: the box's user is another one.
    door.chmod(0o755)


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)


def _kept(record: BoxRecord) -> tuple[Egress, Path]:
    try:
        told = json.loads(record.egress)
        policy = Egress(allow=told["allow"], headers=told["headers"], resolve=told["resolve"])
        return policy, Path(told["directory"])
    except (ValueError, KeyError, TypeError) as exc:
        raise SandboxError(f"box {record.box_id!r} does not tell what its gate allows; delete it") from exc
