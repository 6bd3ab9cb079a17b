"""How are the files of a local box kept, and brought into another box? Blocking: called in threads.

<root>/.snapshots/<id>/snapshot.json   labels, the box, when it was made
<root>/.snapshots/<id>/files.tar       its working directory and HOME; not what is temporary, not its jobs
"""

# No pathlib: renames that must not replace, and descriptors.
# ruff: noqa: PTH104, PTH208

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from boxflow.errors import BoxNotFoundError, SandboxError, SnapshotNotFoundError
from boxflow.ports import SnapshotInfo
from boxflow_backends.archives import packed_chunks, unpack
from boxflow_backends.local_sandbox.layout import KEPT, Layout
from boxflow_backends.local_sandbox.removal import remove_tree
from boxflow_backends.local_sandbox.transfer import Stop, pieces

_ABOUT: Final = "snapshot.json"
_FILES: Final = "files.tar"


class Snapshots:
    """The snapshots of the boxes below one root."""

    def __init__(self, layout: Layout) -> None:
        self._boxes = layout
        self._layout = layout.snapshots

    def make(self, box_id: str, snapshot_id: str, labels: Mapping[str, str], stop: Stop) -> SnapshotInfo:
        """Keep a box's files, or return the snapshot that has this id. It appears whole.

        :raises SandboxError: a file cannot be read
        """
        with suppress(SnapshotNotFoundError):
            return self.read(snapshot_id)
        info = SnapshotInfo(snapshot_id=snapshot_id, box_id=box_id, labels=dict(labels), created_at=time.time())
        making = self._layout.making(snapshot_id)
        making.mkdir(mode=0o700, parents=True)
        try:
            self._pack(box_id, making / _FILES, stop)
            (making / _ABOUT).write_text(json.dumps({"format": 1, **attrs.asdict(info)}), encoding="utf-8")
            try:
                os.rename(making, self._layout.box(snapshot_id))
            except OSError:
                # Somebody else made it at the same time.
                return self.read(snapshot_id)
        finally:
            remove_tree(making)
        return info

    def read(self, snapshot_id: str) -> SnapshotInfo:
        """:raises SnapshotNotFoundError: no such snapshot."""
        try:
            data = json.loads((self._layout.box(snapshot_id) / _ABOUT).read_text(encoding="utf-8"))
            return SnapshotInfo(
                snapshot_id=str(data["snapshot_id"]),
                box_id=str(data["box_id"]),
                labels={str(key): str(value) for key, value in data["labels"].items()},
                created_at=float(data["created_at"]),
            )
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise SnapshotNotFoundError(snapshot_id) from exc
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise SandboxError(f"the record of snapshot {snapshot_id!r} is damaged; delete the snapshot") from exc

    def list(self, labels: Mapping[str, str]) -> Sequence[SnapshotInfo]:
        """Those that carry all of *labels*, oldest first."""
        if not self._layout.root.is_dir():
            return ()
        found: list[SnapshotInfo] = []
        for name in os.listdir(self._layout.root):
            if name.startswith("."):
                continue
            with suppress(SnapshotNotFoundError):
                info = self.read(name)
                if labels.items() <= info.labels.items():
                    found.append(info)
        return sorted(found, key=lambda info: (info.created_at, info.snapshot_id))

    def delete(self, snapshot_id: str) -> None:
        """Remove one. No error when there is none."""
        with suppress(FileNotFoundError):
            os.rename(self._layout.box(snapshot_id), self._layout.going(snapshot_id))
        for leftover in self._layout.leftovers(snapshot_id):
            remove_tree(leftover)

    def restoring(self, snapshot_id: str, stop: Stop) -> Callable[[Path], None]:
        """What brings its files into the directory of a box in the making.

        :raises SnapshotNotFoundError: no such snapshot
        """
        self.read(snapshot_id)

        def restore(making: Path) -> None:
            try:
                file = os.open(self._layout.box(snapshot_id) / _FILES, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError as exc:
                raise SnapshotNotFoundError(snapshot_id) from exc
            try:
                # As the box had them: its links lead where they led, and are its own affair.
                unpack(stop.readable(pieces(file)), making, links="all", mode_mask=0o777)
            finally:
                os.close(file)

        return restore

    def _pack(self, box_id: str, path: Path, stop: Stop) -> None:
        try:
            box = os.open(self._boxes.box(box_id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise BoxNotFoundError(box_id) from exc
        try:
            with path.open("xb") as file:
                file.writelines(stop.watched(packed_chunks(box, names=KEPT)))
        except OSError as exc:
            if isinstance(exc, SandboxError):
                raise
            raise SandboxError(f"cannot keep {exc.filename!r} of box {box_id!r}: {exc.strerror}") from exc
        finally:
            os.close(box)
