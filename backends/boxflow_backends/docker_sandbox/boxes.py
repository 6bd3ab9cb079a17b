"""How are containers that are boxes made, found, paused, started again and removed?"""

from __future__ import annotations

import asyncio
import collections
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from boxflow.errors import BoxNotFoundError, BoxStateError, NotSupportedError, SandboxError, SandboxUnavailableError
from boxflow.ports import BoxInfo, BoxSpec, BoxStatus
from boxflow_backends.docker_sandbox.client import Daemon, RefusedError
from boxflow_backends.docker_sandbox.containers import Defaults, Gate, Machine, first_process, host_config, labels_of
from boxflow_backends.docker_sandbox.images import Images, ReadyImage
from boxflow_backends.docker_sandbox.record import (
    BOX_LABEL,
    NAMESPACE_LABEL,
    OWN_LABELS,
    SNAPSHOT_LABEL,
    BoxRecord,
    container_name,
    info_of,
    record_of,
)

_LOG: Final = logging.getLogger("boxflow.docker")

# Removing a container takes a tenth of a second, and many seconds while the disk is busy with fifty others.
_REMOVAL_S: Final = 90.0

# What another makes, or removes, under the same name is done some seconds later, one way or the other.
_OTHERS_S: Final = 60.0

_PAUSE_S: Final = 0.05

# Of the processes that a box may have: starting one more takes a dozen threads of the engine's own for a moment.
_FULL: Final = 0.5
_ATTEMPTS: Final = 5

# A record is about a kilobyte.
_KNOWN: Final = 2000


class DockerBoxes:
    """The containers of one namespace of one engine.

    :param namespace: boxes of another one are neither found nor in the way
    """

    def __init__(self, daemon: Daemon, images: Images, *, namespace: str, machine: Machine, defaults: Defaults) -> None:
        self._daemon = daemon
        self._images = images
        self._namespace = namespace
        self._machine = machine
        self._defaults = defaults
        #: Of running boxes: what a command needs to know of its box does not change while its container lives.
        self._known: collections.OrderedDict[str, BoxRecord] = collections.OrderedDict()

    # --- making ------------------------------------------------------------------------------------------------

    async def create(self, box_id: str, spec: BoxSpec, labels: Mapping[str, str], gate: Gate | None) -> BoxRecord:
        """Make the box and start it, or return the one that has this id; one that was never started is started.

        :raises NotSupportedError: *spec* asks for what cannot be enforced
        """
        self._machine.refuse_what_it_cannot(spec)
        until = time.monotonic() + _OTHERS_S
        while time.monotonic() < until:
            record = await self._find(box_id)
            if record is None:
                image = await self._images.ready(spec, self._namespace)
                # That may have been a pull, of minutes.
                until = time.monotonic() + _OTHERS_S
                if not await self._make(box_id, spec, labels, gate, image):
                    await asyncio.sleep(_PAUSE_S)
            elif record.started:
                return self._remember(record)
            else:
                await self._start(record)
        raise SandboxError(f"box {box_id!r} is being made or removed by somebody else, who does not get done")

    async def _make(
        self, box_id: str, spec: BoxSpec, labels: Mapping[str, str], gate: Gate | None, image: ReadyImage
    ) -> bool:
        """Make the container; False when its name is taken, or its image has gone meanwhile."""
        options = host_config(spec, image.user, self._machine, self._defaults, gate)
        egress = "" if gate is None else gate.policy

        def make(client: Any) -> None:
            client.create_container(
                image.reference,
                name=container_name(self._namespace, box_id),
                labels=labels_of(box_id, self._namespace, spec, labels, image.user, egress),
                host_config=client.create_host_config(**options),
                **first_process(spec),
            )

        try:
            # Tried again by our caller, who looks first: a call that was cut off may have done it.
            await self._daemon.work("create a container", make)
        except RefusedError as exc:
            if exc.status == 400 and "bind source path does not exist" in exc.words.lower():
                raise NotSupportedError(
                    "network=Egress(...) needs a Docker engine that sees this machine's files, since the gate's socket "
                    f"is mounted into the box; the engine said: {exc.words}"
                ) from exc
            if exc.status == 409 or (exc.status == 404 and "no such image" in exc.words.lower()):
                return False
            raise
        except SandboxUnavailableError:
            # The engine restarts: whether it did it will show. Looking waits for it, and has a deadline.
            await self._find(box_id)
            return False
        return True

    async def _start(self, record: BoxRecord) -> None:
        """Start a container; no error when it is gone, or runs."""
        try:
            await self._daemon.repeat("start", record.container_id)
        except RefusedError as exc:
            if exc.status in (404, 409):
                return
            if not record.started:
                # Nothing has run in it, and nothing will.
                await self._remove(record.container_id)
            raise SandboxError(
                f"box {record.box_id!r} cannot be started: {exc.words}; its image needs /bin/sh, date and sleep"
            ) from exc

    # --- finding -----------------------------------------------------------------------------------------------

    async def get(self, box_id: str) -> BoxRecord:
        """The box as it is now. :raises BoxNotFoundError: there is none"""
        record = await self._find(box_id)
        if record is None:
            self.forget(box_id)
            raise BoxNotFoundError(box_id)
        return self._remember(record)

    async def known(self, box_id: str) -> BoxRecord:
        """What was last known of the box, without asking anew where it is enough to know its container."""
        return self._known.get(box_id) or await self.get(box_id)

    def forget(self, box_id: str) -> None:
        """Ask anew the next time: what was known has turned out to be wrong."""
        self._known.pop(box_id, None)

    async def list(self, labels: Mapping[str, str]) -> Sequence[BoxInfo]:
        """The boxes that carry all of *labels*, oldest first."""
        filters = [f"{NAMESPACE_LABEL}={self._namespace}", BOX_LABEL]
        # Docker looks for the first "=". Whether they are really there is looked at below.
        filters += [f"{name}={value}" for name, value in labels.items() if "=" not in name and name not in OWN_LABELS]
        listed = await self._daemon.read("containers", all=True, filters={"label": filters})
        infos = [info for entry in listed if (info := info_of(entry)) is not None]
        found = [info for info in infos if labels.items() <= dict(info.labels).items()]
        return sorted(found, key=lambda info: (info.created_at, info.box_id))

    def _remember(self, record: BoxRecord) -> BoxRecord:
        self._known[record.box_id] = record
        self._known.move_to_end(record.box_id)
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        return record

    async def _find(self, box_id: str) -> BoxRecord | None:
        """The box as it is now; None when there is none, or soon will be none."""
        name = container_name(self._namespace, box_id)
        try:
            inspected: Mapping[str, Any] = await self._daemon.read("inspect_container", name)
        except RefusedError as exc:
            if exc.status == 404:
                return None
            raise
        # "dead" is what could not be removed whole.
        return None if inspected["State"]["Status"] in ("removing", "dead") else record_of(inspected)

    # --- pausing, removing -------------------------------------------------------------------------------------

    async def pause(self, box_id: str) -> None:
        """Freeze the box; no error when it is frozen."""
        record = await self.get(box_id)
        if record.status is BoxStatus.PAUSED:
            return
        try:
            await self._daemon.repeat("pause", record.container_id)
        except RefusedError as exc:
            now = await self.get(box_id)
            if now.status is BoxStatus.STOPPED:
                raise BoxStateError(f"box {box_id!r} is stopped; there is nothing to pause") from exc
            if now.status is not BoxStatus.PAUSED:
                raise

    async def resume(self, box_id: str) -> BoxRecord:
        """Let the box go on, or start it again; no error when it runs."""
        for _ in range(_ATTEMPTS):
            record = await self.get(box_id)
            if record.status is BoxStatus.RUNNING:
                return record
            if record.status is BoxStatus.STOPPED:
                await self._start(record)
            else:
                await self._unpause(record)
        return await self.get(box_id)

    async def start_over(self, record: BoxRecord) -> None:
        """End everything in a box that is full of processes by starting it anew, with its files.

        :raises SandboxError: it is not full; or its files are in memory, and would go too
        """
        stats = await self._daemon.read("stats", record.container_id, stream=False, one_shot=True)
        pids: Mapping[str, int] = stats.get("pids_stats") or {}
        if pids.get("current", 0) < _FULL * pids.get("limit", 1):
            raise SandboxError(f"nothing can be started in box {record.box_id!r}, although it has room; delete it")
        if record.limited:
            raise SandboxError(
                f"box {record.box_id!r} is full of processes: nothing that would end them can be started in it, and "
                "its files are in memory, so that it cannot be started anew; delete it"
            )
        _LOG.warning("box %r is full of processes, and none could be ended; it is started anew", record.box_id)
        try:
            await self._daemon.repeat("restart", record.container_id, timeout=0)
        except RefusedError as exc:
            if exc.status != 404:
                raise

    async def _unpause(self, record: BoxRecord) -> None:
        try:
            await self._daemon.repeat("unpause", record.container_id)
        except RefusedError as exc:
            # Not paused any more, or gone, by somebody else's hand: the next look tells.
            if exc.status not in (404, 409, 500):
                raise

    async def delete(self, box_id: str, *, before: Callable[[str], None]) -> BoxRecord | None:
        """End and remove the box; what it was, or None when there was none.

        :param before: told the id of the container that is about to go
        """
        self.forget(box_id)
        name = container_name(self._namespace, box_id)
        try:
            inspected: Mapping[str, Any] = await self._daemon.read("inspect_container", name)
        except RefusedError as exc:
            if exc.status == 404:
                return None
            raise
        before(str(inspected["Id"]))
        await self._remove(str(inspected["Id"]))
        await self._remove_image_of_deleted_snapshot(str(inspected["Image"]))
        return record_of(inspected)

    async def _remove(self, container_id: str) -> None:
        """Remove a container and its volume, and see that it is gone."""
        until = time.monotonic() + _REMOVAL_S
        refused: RefusedError | None = None
        while time.monotonic() < until:
            try:
                await self._daemon.repeat("remove_container", container_id, v=True, force=True)
            except RefusedError as exc:
                if exc.status == 404:
                    return
                # 409: somebody else is removing it. 500: something of it is busy still, which passes.
                refused = exc
            try:
                await self._daemon.read("inspect_container", container_id)
            except RefusedError as exc:
                if exc.status == 404:
                    return
                raise
            await asyncio.sleep(_PAUSE_S)
        raise SandboxError(f"container {container_id[:12]} cannot be removed: {refused}; look at the engine's log")

    async def _remove_image_of_deleted_snapshot(self, image_id: str) -> None:
        """A snapshot that was deleted while this box stood on it has lost its name; its layers go with the last box."""
        try:
            image = await self._daemon.read("inspect_image", image_id)
            if not image.get("RepoTags") and SNAPSHOT_LABEL in (image["Config"].get("Labels") or {}):
                await self._daemon.once("remove_image", image_id)
        except RefusedError as exc:
            # 409: another box stands on it too.
            if exc.status not in (404, 409):
                raise
