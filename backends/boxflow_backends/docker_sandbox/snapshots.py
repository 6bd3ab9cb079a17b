"""How are a box's files kept as a snapshot? As an image of its container."""

from __future__ import annotations

import asyncio
import collections
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from boxflow.errors import BoxNotFoundError, NotSupportedError
from boxflow.ports import SnapshotInfo
from boxflow_backends.docker_sandbox.client import Daemon, RefusedError
from boxflow_backends.docker_sandbox.images import SNAPSHOT, Images, snapshot_reference
from boxflow_backends.docker_sandbox.record import (
    BOX_LABEL,
    CREATED_LABEL,
    DISK_LABEL,
    EGRESS_LABEL,
    ENV_LABEL,
    LABELS_LABEL,
    NAMESPACE_LABEL,
    SNAPSHOT_LABEL,
    USER_LABEL,
    BoxRecord,
)
from boxflow_backends.uninterrupted import uninterrupted


class DockerSnapshots:
    """The snapshots of one namespace of one engine."""

    def __init__(self, daemon: Daemon, images: Images, *, namespace: str) -> None:
        self._daemon = daemon
        self._images = images
        self._namespace = namespace
        self._locks: collections.defaultdict[str, asyncio.Lock] = collections.defaultdict(asyncio.Lock)

    async def make(self, record: BoxRecord, snapshot_id: str, labels: Mapping[str, str]) -> SnapshotInfo:
        """Keep the files of a box, or return the snapshot that has this id.

        :raises NotSupportedError: the box keeps its files in memory
        """
        reference = snapshot_reference(self._namespace, snapshot_id)
        async with self._locks[snapshot_id]:
            if (found := await self._images.find(reference)) is not None:
                return _info(found["Config"]["Labels"])
            if record.limited:
                raise NotSupportedError(
                    f"box {record.box_id!r} was made with `disk_bytes`: its files are in memory, where Docker cannot "
                    "keep them; download them, or make the box without `disk_bytes`"
                )
            await uninterrupted(self._commit(record, snapshot_id, labels))
            found = await self._images.find(reference)
        assert found is not None, "its name was given in the same call that made it"
        return _info(found["Config"]["Labels"])

    async def _commit(self, record: BoxRecord, snapshot_id: str, labels: Mapping[str, str]) -> None:
        # All labels of a container become its image's, unless they are given here. What the box was made with (its
        # environment, which may hold secrets) is no business of the snapshot.
        own = {
            SNAPSHOT_LABEL: snapshot_id,
            BOX_LABEL: record.box_id,
            NAMESPACE_LABEL: self._namespace,
            LABELS_LABEL: json.dumps(dict(labels)),
            CREATED_LABEL: repr(time.time()),
            USER_LABEL: record.user.to_json(),
            ENV_LABEL: "{}",
            EGRESS_LABEL: "",
            DISK_LABEL: "",
        }
        reference = snapshot_reference(self._namespace, snapshot_id)
        try:
            await self._daemon.slow_work(
                "keep a snapshot",
                # Paused meanwhile: files as they were at one moment.
                lambda client: client.commit(
                    record.container_id,
                    repository=SNAPSHOT,
                    tag=reference.partition(":")[2],
                    pause=True,
                    conf={"Labels": {**labels, **own}},
                ),
            )
        except RefusedError as exc:
            if exc.status == 404:
                raise BoxNotFoundError(record.box_id) from exc
            raise

    async def list(self, labels: Mapping[str, str]) -> Sequence[SnapshotInfo]:
        """The snapshots that carry all of *labels*, oldest first."""
        filters = {"label": [SNAPSHOT_LABEL, f"{NAMESPACE_LABEL}={self._namespace}"]}
        listed: Sequence[Mapping[str, Any]] = await self._daemon.read("images", filters=filters)
        # Without a name: deleted, and kept by Docker for a box that stands on it.
        named = [entry for entry in listed if _is_named(entry)]
        infos = [_info(entry["Labels"]) for entry in named]
        found = [info for info in infos if labels.items() <= dict(info.labels).items()]
        return sorted(found, key=lambda info: (info.created_at, info.snapshot_id))

    async def delete(self, snapshot_id: str) -> None:
        """Remove a snapshot; no error when there is none. Boxes made from it keep what they stand on."""
        reference = snapshot_reference(self._namespace, snapshot_id)
        async with self._locks[snapshot_id]:
            try:
                await self._daemon.repeat("remove_image", reference, force=True)
            except RefusedError as exc:
                if exc.status != 404:
                    raise


def _is_named(listed: Mapping[str, Any]) -> bool:
    return any(str(tag).startswith(f"{SNAPSHOT}:") for tag in listed.get("RepoTags") or ())


def _info(labels: Mapping[str, str]) -> SnapshotInfo:
    return SnapshotInfo(
        snapshot_id=labels[SNAPSHOT_LABEL],
        box_id=labels[BOX_LABEL],
        labels=json.loads(labels[LABELS_LABEL]),
        created_at=float(labels[CREATED_LABEL]),
    )
