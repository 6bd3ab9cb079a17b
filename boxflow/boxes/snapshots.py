"""What is a snapshot to its user? The files of a box as they were, from which other boxes can be made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from boxflow.boxes.calls import call
from boxflow.ports import Sandbox, SnapshotInfo

NAME_LABEL: Final = "boxflow.name"


class Snapshot:
    """The files of a box as they were: `boxes.create("again", snapshot=snapshot)`.

    It outlives its box and its run, until it is deleted.

    :ivar id: unique in its sandbox
    :ivar name: what people call it
    :ivar box_id: the box it was made of
    :ivar created_at: seconds since the epoch
    """

    def __init__(self, sandbox: Sandbox, info: SnapshotInfo) -> None:
        self.id = info.snapshot_id
        self.name = info.labels.get(NAME_LABEL, info.snapshot_id)
        self.box_id = info.box_id
        self.created_at = info.created_at
        self.labels: Mapping[str, str] = {
            key: value for key, value in info.labels.items() if not key.startswith("boxflow.")
        }
        self._sandbox = sandbox

    def __repr__(self) -> str:
        return f"<Snapshot {self.name!r} id={self.id!r}>"

    async def delete(self) -> None:
        """Remove it; boxes made from it stay. Deleting twice is no error."""
        await call(f"{self.name}.delete_snapshot", lambda: self._sandbox.delete_snapshot(self.id), type=type(None))
