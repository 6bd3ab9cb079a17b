"""Which boxes must be deleted, and who does it when their run cannot? The record that every box has, and the reaper.

A box is recorded before it is created and its record goes after it was deleted. So whatever dies in between, the next
start finds the record and deletes the box, whether it was made or not.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from boxflow.boxes import (
    ENGINE_LABEL,
    OWNER_LABEL,
    BoxInfo,
    BoxSpec,
    Egress,
    FileInfo,
    delete_orphans,
    make_box,
    this_process,
)
from boxflow.errors import BoxNotFoundError, SandboxError
from boxflow.model import Delete, Item, Put, Value
from boxflow.plugins import resolve_sandbox
from boxflow.ports import Capability, Clock, Process, ProcessSpec, Sandbox, SnapshotInfo, Store

if TYPE_CHECKING:
    from boxflow.boxes import AgentDelivery  # For agents only.

log = logging.getLogger("boxflow")

DEFAULT_SANDBOX = "local:"

RECORDS = "boxes"
"""The collection of box records, by box id."""

RUN_LABEL = "boxflow.run"


class _BoxRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the store knows of a box.

    :param served: it has a gate outside, which this engine must serve
    """

    name: str = ""
    run_id: str | None = None
    keep: bool = False
    dies_at: float | None = None
    served: bool = False


class RecordedSandbox:
    """A sandbox whose boxes are recorded in a store. Opened at its first use: an engine without boxes needs none.

    A `Sandbox` itself, so that every `Box` made with it keeps the records by merely being used.
    """

    def __init__(self, sandbox: Sandbox | str, store: Store, clock: Clock) -> None:
        self._given = sandbox
        if sandbox != DEFAULT_SANDBOX:
            _ = self._sandbox  # What is wrong with it is said at once.
        self._store = store
        self._clock = clock
        self._opening = asyncio.Lock()
        self._is_open = False
        #: Identifies this engine's store in the labels of its boxes; set when the engine starts.
        self.engine_id = ""
        #: Who tells the results of agents that nobody waits for; set by the engine.
        self.deliver: Callable[[AgentDelivery], Awaitable[None]] | None = None

    @cached_property
    def _sandbox(self) -> Sandbox:
        # The default is there for engines without boxes, too, which do without its modules.
        return resolve_sandbox(self._given)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the sandbox can do beyond the duties."""
        return self._sandbox.capabilities

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect, if ever connected. Boxes stay."""
        if self._is_open:
            self._is_open = False
            await self._sandbox.__aexit__(kind, error, traceback)

    async def _open(self) -> Sandbox:
        if not self._is_open:
            async with self._opening:
                if not self._is_open:
                    await self._sandbox.__aenter__()
                    self._is_open = True
                    await self._sweep()
        return self._sandbox

    async def _sweep(self) -> None:
        """Delete the boxes that no store knows, of processes that are dead."""
        try:
            await delete_orphans(self._sandbox, self._clock.now())
        except SandboxError as error:
            log.warning("boxes without an owner could not be looked for: %s", error)

    # --- boxes --------------------------------------------------------------------------------------------------------

    async def create_for_run(self, run_id: str, box_id: str, name: str, spec: BoxSpec) -> None:
        """Make a box of a run: the record first, then the box."""
        await self._record(box_id, spec, name, run_id)
        # Records that go with the process cannot tell the next one what to delete: the box itself says whose it is.
        owner = {} if self._store.outlives_process or spec.keep else {OWNER_LABEL: this_process()}
        await make_box(self, spec, box_id=box_id, name=name, labels={RUN_LABEL: run_id, **owner})

    async def create(self, box_id: str, spec: BoxSpec, labels: Mapping[str, str]) -> BoxInfo:
        """Make the box, recorded."""
        if await self._store.get_item(RECORDS, box_id) is None:
            await self._record(box_id, spec, box_id, None)
        sandbox = await self._open()
        return await sandbox.create(box_id, spec, {**labels, ENGINE_LABEL: self.engine_id})

    async def _record(self, box_id: str, spec: BoxSpec, name: str, run_id: str | None) -> None:
        record = _BoxRecord(
            name=name,
            run_id=run_id,
            keep=spec.keep or run_id is None,
            dies_at=None if spec.ttl_s is None else self._clock.now() + spec.ttl_s,
            served=isinstance(spec.network, Egress),
        )
        item = Item(collection=RECORDS, key=box_id, value=Value(msgspec.json.encode(record)))
        await self._store.change_items([Put(item)])

    async def get(self, box_id: str) -> BoxInfo:
        return await (await self._open()).get(box_id)

    async def attach(self, box_id: str) -> BoxInfo:
        return await (await self._open()).attach(box_id)

    async def list(self, labels: Mapping[str, str]) -> Sequence[BoxInfo]:
        return await (await self._open()).list({**labels, ENGINE_LABEL: self.engine_id})

    async def pause(self, box_id: str) -> None:
        await (await self._open()).pause(box_id)

    async def resume(self, box_id: str) -> None:
        await (await self._open()).resume(box_id)

    async def delete(self, box_id: str) -> None:
        """Delete the box, then its record."""
        await (await self._open()).delete(box_id)
        await self._store.change_items([Delete(RECORDS, box_id)])

    async def url(self, box_id: str, port: int) -> str:
        return await (await self._open()).url(box_id, port)

    # --- processes ----------------------------------------------------------------------------------------------------

    async def spawn(self, box_id: str, spec: ProcessSpec) -> Process:
        return await (await self._open()).spawn(box_id, spec)

    async def signal(self, box_id: str, exec_id: str, number: int, *, user: str | None = None) -> None:
        await (await self._open()).signal(box_id, exec_id, number, user=user)

    async def end(self, box_id: str, exec_id: str, *, user: str | None = None) -> None:
        await (await self._open()).end(box_id, exec_id, user=user)

    # --- files --------------------------------------------------------------------------------------------------------

    async def read_file(self, box_id: str, path: str, *, offset: int = 0, limit: int | None = None) -> bytes:
        return await (await self._open()).read_file(box_id, path, offset=offset, limit=limit)

    async def write_file(self, box_id: str, path: str, data: bytes, *, mode: int | None = None) -> None:
        await (await self._open()).write_file(box_id, path, data, mode=mode)

    async def list_files(self, box_id: str, path: str, *, recursive: bool = False) -> Sequence[FileInfo]:
        return await (await self._open()).list_files(box_id, path, recursive=recursive)

    async def stat_file(self, box_id: str, path: str) -> FileInfo:
        return await (await self._open()).stat_file(box_id, path)

    async def make_directory(self, box_id: str, path: str) -> None:
        await (await self._open()).make_directory(box_id, path)

    async def rename_file(self, box_id: str, path: str, to: str) -> None:
        await (await self._open()).rename_file(box_id, path, to)

    async def remove_file(self, box_id: str, path: str) -> None:
        await (await self._open()).remove_file(box_id, path)

    async def upload(self, box_id: str, source: Path, path: str) -> None:
        await (await self._open()).upload(box_id, source, path)

    async def download(self, box_id: str, path: str, target: Path) -> None:
        await (await self._open()).download(box_id, path, target)

    # --- snapshots ----------------------------------------------------------------------------------------------------

    async def snapshot(self, box_id: str, snapshot_id: str, labels: Mapping[str, str]) -> SnapshotInfo:
        sandbox = await self._open()
        return await sandbox.snapshot(box_id, snapshot_id, {**labels, ENGINE_LABEL: self.engine_id})

    async def list_snapshots(self, labels: Mapping[str, str]) -> Sequence[SnapshotInfo]:
        return await (await self._open()).list_snapshots({**labels, ENGINE_LABEL: self.engine_id})

    async def delete_snapshot(self, snapshot_id: str) -> None:
        await (await self._open()).delete_snapshot(snapshot_id)

    async def deliver_later(self, delivery: AgentDelivery) -> None:
        """Have the result of an agent's run told when there is one."""
        assert self.deliver is not None, "the engine sets it before anything runs"
        await self.deliver(delivery)

    # --- who looks after them -----------------------------------------------------------------------------------------

    async def attach_served(self) -> None:
        """Serve again the gates of boxes that an earlier life of this engine made."""
        for item in await self._store.list_items(RECORDS):
            record = msgspec.json.decode(item.value, type=_BoxRecord)
            if not record.served:
                continue
            try:
                await (await self._open()).attach(item.key)
            except BoxNotFoundError:
                continue  # Recorded, and not made: the reaper's business, or that of the step that makes it.
            except SandboxError as error:
                log.warning("the gate of box %r (%s) cannot be served: %s", item.key, record.name, error)

    async def reap(self) -> int:
        """Delete the boxes whose run is over, or gone, and those whose ttl is past. Returns how many went.

        A box that cannot be deleted now keeps its record, and is tried again by the next call.
        """
        gone = 0
        now = self._clock.now()
        for item in await self._store.list_items(RECORDS):
            record = msgspec.json.decode(item.value, type=_BoxRecord)
            if not await self._is_orphan(record, now):
                continue
            try:
                await self.delete(item.key)
            except Exception as error:  # noqa: BLE001 - one box that resists must not keep the others alive
                log.warning("box %r (%s) could not be deleted, will be tried again: %s", item.key, record.name, error)
            else:
                gone += 1
                log.info("deleted box %r (%s), which no run owned any more", item.key, record.name)
        return gone

    async def _is_orphan(self, record: _BoxRecord, now: float) -> bool:
        if record.dies_at is not None and record.dies_at <= now:
            return True
        if record.keep or record.run_id is None:
            return False
        stored = await self._store.get_run(record.run_id)
        return stored is None or stored.head.status.is_final


def box_id_for(run_id: str, name: str, occurrence: int) -> str:
    """The id of a run's box: the same after a crash, so that creating it twice creates it once."""
    # A hash, not a cleaned-up name: "a/b" and "a_b" must not share a box.
    digest = hashlib.sha256(f"{run_id}\0{name}\0{occurrence}".encode()).hexdigest()
    readable = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)[:24].strip("-")
    return f"{readable or 'box'}-{digest[:16]}"
