"""How are boxes made, found again and deleted? `Boxes`, as `engine.boxes` or alone."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, Unpack

import msgspec

from boxflow.agent_config import AgentConfig
from boxflow.boxes.box import Box
from boxflow.boxes.calls import call, durable_call
from boxflow.boxes.models import MemoryKeep, Models, with_way
from boxflow.boxes.options import BoxOptions, box_spec
from boxflow.boxes.orphans import DIES_AT_LABEL, OWNER_LABEL, delete_orphans, this_process
from boxflow.boxes.shielded import finish
from boxflow.boxes.snapshots import NAME_LABEL, Snapshot
from boxflow.errors import SandboxError
from boxflow.plugins import resolve_sandbox
from boxflow.ports import BoxInfo, BoxSpec, Egress, Network, Sandbox, SnapshotInfo

SPEC_LABEL: Final = "boxflow.spec"

# Labels that start so are boxflow's own (also an engine's and a run's), and no business of `box.labels`.
_OWN_LABELS: Final = "boxflow."

DELETE_TIMEOUT_S = 60.0
"""How long the end of an `async with boxes.create(...)` block may take."""

SWEEP_S = 30.0
"""How often boxes past their ttl are looked for, while `Boxes` alone has made some."""

# The mark is made last: a creator that died in the middle leaves none, and the next one runs the command again.
_INIT = '[ -e "$HOME/.boxflow-init" ] && exit 0; "$@" && : > "$HOME/.boxflow-init"'


class Boxes:
    """The boxes of one sandbox: `async with Boxes("local:") as boxes:`, or `engine.boxes`.

    Leaving the block disconnects; it deletes no box. Use `async with boxes.create(...)` for boxes that must not outlive
    a block. When the process is killed inside such a block, its box goes as soon as another `Boxes` or engine opens the
    sandbox on that machine.

    :param sandbox: a sandbox, or its URL: `"local:"`, `"local:/some/directory"`, `"docker:"`, `"docker:some-image"`
    :raises ConfigurationError: the URL stands for nothing known
    """

    def __init__(self, sandbox: Sandbox | str = "local:", *, models: Models | None = None) -> None:
        self.sandbox: Sandbox = resolve_sandbox(sandbox)
        self._models = models or Models(MemoryKeep(), secrets.token_bytes(32))
        self._sweeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect, and delete what nobody owns any more; :raises SandboxUnavailableError: it does not answer."""
        await self.sandbox.__aenter__()
        try:
            await delete_orphans(self.sandbox, time.time())
            self._sweeping = asyncio.create_task(self._sweep())
        except BaseException as error:
            await self.sandbox.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect. Boxes stay."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})
        await self._models.aclose()
        await self.sandbox.__aexit__(kind, error, traceback)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await delete_orphans(self.sandbox, time.time())
            except SandboxError:
                continue  # Away for the moment; whoever uses it is told.

    def create(self, name: str = "box", *, box_id: str | None = None, **options: Unpack[BoxOptions]) -> PendingBox:
        """A box that is about to be made: await it, or enter it.

        `box = await boxes.create("a")` leaves deleting to you. `async with boxes.create("a") as box:` deletes it at the
        end of the block, whatever ends it, unless `keep=True`.

        :param name: what people call it; several boxes may share one
        :param box_id: creating twice with one id gives the same box; a new one unless given
        :param options: see `BoxOptions`
        :raises ConfigurationError: *options* contradict each other
        :raises NotSupportedError: they ask for what this sandbox cannot do (on awaiting, as all that follow)
        :raises ImageNotFoundError: its image cannot be had
        :raises SnapshotNotFoundError: its snapshot is gone
        :raises CommandFailedError: its `init` failed
        """
        return PendingBox(self.sandbox, self._models, box_spec(options), box_id=box_id, name=name)

    async def get(self, box_id: str) -> Box:
        """The box of that id, whoever made it. :raises BoxNotFoundError: there is none"""
        info = await call("boxes.get", lambda: self.sandbox.attach(box_id), type=BoxInfo)
        return _handle(self.sandbox, self._models, info)

    async def list(self, labels: Mapping[str, str] | None = None) -> list[Box]:
        """The boxes that carry all of *labels*, oldest first; all boxes unless given."""

        async def find() -> Sequence[BoxInfo]:
            return tuple(await self.sandbox.list(labels or {}))

        infos = await call("boxes.list", find, type=tuple[BoxInfo, ...])
        return [_handle(self.sandbox, self._models, info) for info in infos]

    async def delete(self, box_id: str) -> None:
        """End every process of the box and remove it. No error when there is none."""
        await call("boxes.delete", lambda: self.sandbox.delete(box_id), type=type(None))

    async def list_snapshots(self, labels: Mapping[str, str] | None = None) -> _Snapshots:
        """The snapshots that carry all of *labels*, oldest first; all unless given."""

        async def find() -> Sequence[SnapshotInfo]:
            return tuple(await self.sandbox.list_snapshots(labels or {}))

        infos = await call("boxes.list_snapshots", find, type=tuple[SnapshotInfo, ...])
        return [Snapshot(self.sandbox, info) for info in infos]

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; boxes made from it stay. No error when there is none."""
        await call("boxes.delete_snapshot", lambda: self.sandbox.delete_snapshot(snapshot_id), type=type(None))


# Named outside the class, where `list` is still the builtin.
_Snapshots = list[Snapshot]


class PendingBox:
    """A box that is about to be made: await it, or enter it."""

    def __init__(self, sandbox: Sandbox, models: Models, spec: BoxSpec, *, box_id: str | None, name: str) -> None:
        self._sandbox = sandbox
        self._models = models
        self._spec = spec
        self._asked_id = box_id
        self._name = name
        self._box: Box | None = None

    def __await__(self) -> Generator[Any, None, Box]:
        # An id that the caller chose may be that of a box with work in it: what fails now is no reason to delete it.
        return self._create(delete_on_failure=self._asked_id is None, owned=False).__await__()

    async def __aenter__(self) -> Box:
        owned = not self._spec.keep
        self._box = await self._create(delete_on_failure=self._asked_id is None or owned, owned=owned)
        return self._box

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._box is not None and not self._spec.keep:
            box_id = self._box.id
            await call(f"{self._name}.delete", lambda: _delete(self._sandbox, box_id), type=type(None))

    async def _create(self, *, delete_on_failure: bool, owned: bool) -> Box:
        async def make() -> BoxInfo:
            # A block of a workflow body outlives the process: its box belongs to the run, and goes by the journal.
            labels = {OWNER_LABEL: this_process()} if owned and durable_call.get() is None else {}
            box_id = self._asked_id or _new_id(self._name)
            try:
                spec = await self._models.prepared(self._spec, self._sandbox)
                return await make_box(self._sandbox, spec, box_id=box_id, name=self._name, labels=labels)
            except BaseException:
                if delete_on_failure:
                    await _delete(self._sandbox, box_id)
                raise

        info = await call(f"{self._name}.create", make, type=BoxInfo)
        spec = with_way(self._spec, self._sandbox)
        return Box(self._sandbox, box_id=info.box_id, name=self._name, spec=spec, models=self._models)


async def make_box(
    sandbox: Sandbox, spec: BoxSpec, *, box_id: str, name: str, labels: Mapping[str, str] | None = None
) -> BoxInfo:
    """Make a box and run its `init` command, or find the box that has this id. Acts at once, wherever it is called.

    Safe to repeat after a crash at any point: the id decides, and `init` runs until it has succeeded once. When it
    fails the box is deleted.

    :param labels: on top of those of *spec*
    :raises CommandFailedError: `init` exited with another status than 0
    :raises CommandTimeoutError: `init` took longer than an hour
    """
    kept = {**spec.labels, **(labels or {}), NAME_LABEL: name, SPEC_LABEL: _spec_label(spec)}
    if spec.ttl_s is not None:
        kept[DIES_AT_LABEL] = f"{time.time() + spec.ttl_s:.3f}"
    info = await sandbox.create(box_id, spec, kept)
    if spec.init is None:
        return info
    # Here, because most programs make no box, and most boxes have no such command.
    from boxflow.boxes.command import Command, raise_for, run_command, shell_argv

    command = Command(argv=("sh", "-c", _INIT, "init", *shell_argv(spec.init)))
    result = await run_command(sandbox, box_id, command)
    try:
        raise_for(result, spec.init, timeout_s=command.timeout_s, check=True)
    except SandboxError:
        await _delete(sandbox, box_id)
        raise
    return info


async def _delete(sandbox: Sandbox, box_id: str) -> None:
    await finish(sandbox.delete(box_id), timeout_s=DELETE_TIMEOUT_S)


def _handle(sandbox: Sandbox, models: Models, info: BoxInfo) -> Box:
    labels = {key: value for key, value in info.labels.items() if not key.startswith(_OWN_LABELS)}
    spec = _spec_of(info.labels.get(SPEC_LABEL, "{}"), labels)
    name = info.labels.get(NAME_LABEL, info.box_id)
    return Box(sandbox, box_id=info.box_id, name=name, spec=spec, labels=labels, models=models)


class _KeptSpec(msgspec.Struct, omit_defaults=True):
    """What of a `BoxSpec` travels in a label: no `env`, since labels are shown to everybody and secrets live there."""

    image: str | None = None
    dockerfile: str | None = None
    snapshot: str | None = None
    init: str | None = None
    ttl_s: float | None = None
    keep: bool = False
    open_network: bool | None = None
    egress: Egress | None = None
    user: str | None = None
    cpus: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    max_processes: int | None = None
    agent: AgentConfig | None = None


_SAME = tuple(name for name in _KeptSpec.__struct_fields__ if name not in ("open_network", "egress"))


def _spec_label(spec: BoxSpec) -> str:
    network = spec.network
    kept = _KeptSpec(
        open_network=None if network is None else network == "open",
        egress=network if isinstance(network, Egress) else None,
        **{name: getattr(spec, name) for name in _SAME},
    )
    return msgspec.json.encode(kept).decode()


def _spec_of(label: str, labels: Mapping[str, str]) -> BoxSpec:
    kept = msgspec.json.decode(label, type=_KeptSpec)
    network: Network | None = kept.egress
    if network is None and kept.open_network is not None:
        network = "open" if kept.open_network else "none"
    return BoxSpec(network=network, labels=labels, **{name: getattr(kept, name) for name in _SAME})


def _new_id(name: str) -> str:
    """A new id that still shows the name: `"port to go"` becomes `"port-to-go-4f9a..."`.

    In a workflow body the same again after a crash, so that a box that was just made is found, and not made twice.
    """
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40] or "box"
    durable = durable_call.get()
    unique = secrets.token_hex(6) if durable is None else hashlib.sha256(durable.key.encode()).hexdigest()[:16]
    return f"{readable}-{unique}"
