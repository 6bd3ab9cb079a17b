"""What is known of a local box, and how does it appear and disappear whole?"""

# No pathlib: renames that must not replace, and descriptors.
# ruff: noqa: PTH104, PTH123, PTH208

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, cast

import attrs

from boxflow.errors import BoxNotFoundError, SandboxError, SandboxUnavailableError
from boxflow.ports import BoxInfo, BoxStatus, Egress, Network
from boxflow_backends.local_sandbox.layout import LEADERS, LOCK, PAUSED, PLACES, RECORD, Layout
from boxflow_backends.local_sandbox.removal import remove_tree

Isolation = Literal["none", "bubblewrap"]

# A box in the making is a few directories and what a snapshot brought; one older than this belongs to a program that
# died.
_ABANDONED_S: Final = 3600.0

# Whoever holds the lock of a box starts a process, or stops a few thousand.
_LOCK_S: Final = 30.0
_LOCK_PAUSE_S: Final = 0.005


@attrs.frozen(kw_only=True)
class Record:
    """What `box.json` says.

    :param network: what an isolated box may connect to; a plain one reaches what this machine does
    """

    box_id: str
    labels: dict[str, str]
    env: dict[str, str]
    created_at: float
    isolation: Isolation = "none"
    network: Network = "open"

    def info(self, status: BoxStatus) -> BoxInfo:
        """As the sandbox reports it."""
        return BoxInfo(box_id=self.box_id, status=status, labels=dict(self.labels), created_at=self.created_at)

    def to_json(self) -> str:
        """The content of the file."""
        return json.dumps({"format": 1, **attrs.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Record:
        """:raises ValueError, KeyError, TypeError, AttributeError: it is no record."""
        data = json.loads(text)
        return cls(
            box_id=str(data["box_id"]),
            labels=_texts(data["labels"]),
            env=_texts(data["env"]),
            created_at=float(data["created_at"]),
            isolation="bubblewrap" if data.get("isolation") == "bubblewrap" else "none",
            network=_network(data.get("network", "open")),
        )


class Records:
    """The boxes below one root, as they are on disk. Blocking: called in threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def open(self) -> None:
        """Make the root, and remove what dead programs had begun to make.

        :raises SandboxUnavailableError: it cannot be made
        """
        root = self._layout.root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for made in (root, self._layout.snapshots.root):
                for abandoned in made.glob(".new-*~*"):
                    with suppress(FileNotFoundError):
                        if time.time() - abandoned.stat().st_mtime > _ABANDONED_S:
                            remove_tree(abandoned)
        except OSError as exc:
            if isinstance(exc, SandboxError):
                raise
            raise SandboxUnavailableError(f"local boxes cannot be kept in {str(root)!r}: {exc.strerror}") from exc

    def create(self, record: Record, fill: Callable[[Path], None]) -> tuple[Record, bool]:
        """Make the box, or return the one that has this id; and whether it was made now. It appears whole.

        :param fill: puts what the box begins with into the directory that will be the box
        """
        box_id = record.box_id
        making = self._layout.making(box_id)
        try:
            return self.read(box_id), False
        except BoxNotFoundError:
            making.mkdir(mode=0o700, parents=True)
        try:
            for place in (*PLACES, LEADERS):
                (making / place).mkdir()
            fill(making)
            # Readable by this user only: `env` is where secrets are passed.
            fd = os.open(making / RECORD, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(fd, "w", encoding="utf-8") as file:
                file.write(record.to_json())
            try:
                # Of two that make it at once, one finds the place taken.
                os.rename(making, self._layout.box(box_id))
            except OSError:
                return self.read(box_id), False
        except OSError as exc:
            if isinstance(exc, SandboxError):
                raise
            # What is being made is removed when the box is deleted meanwhile.
            raise SandboxError(f"box {box_id!r} cannot be made, or was deleted meanwhile: {exc.strerror}") from exc
        finally:
            remove_tree(making)
        return record, True

    def read(self, box_id: str) -> Record:
        """:raises BoxNotFoundError: no such box."""
        try:
            text = self._layout.record(box_id).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise BoxNotFoundError(box_id) from exc
        try:
            return Record.from_json(text)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise SandboxError(f"the record of box {box_id!r} is damaged; delete the box") from exc

    def list(self, labels: Mapping[str, str]) -> Sequence[Record]:
        """The boxes that carry all of *labels*, oldest first."""
        found: list[Record] = []
        if not self._layout.root.is_dir():
            return ()
        for name in os.listdir(self._layout.root):
            if name.startswith("."):
                continue
            with suppress(BoxNotFoundError):
                record = self.read(name)
                if labels.items() <= record.labels.items():
                    found.append(record)
        return sorted(found, key=lambda record: (record.created_at, record.box_id))

    def take_away(self, box_id: str) -> None:
        """Make the box disappear, whole. Its files are still there, under another name, until `clear`."""
        with suppress(FileNotFoundError):
            os.rename(self._layout.box(box_id), self._layout.going(box_id))

    def clear(self, box_id: str) -> None:
        """Remove what `take_away`, or the making of the box, has left."""
        for leftover in self._layout.leftovers(box_id):
            remove_tree(leftover)

    # --- paused ------------------------------------------------------------------------------------------------

    def is_paused(self, box_id: str) -> bool:
        """Whether nothing may be started in the box."""
        return (self._layout.box(box_id) / PAUSED).exists()

    def set_paused(self, box_id: str, paused: bool) -> None:
        """Note it for every engine. :raises BoxNotFoundError: no such box."""
        flag = self._layout.box(box_id) / PAUSED
        if not paused:
            flag.unlink(missing_ok=True)
            return
        try:
            flag.touch(mode=0o600)
        except FileNotFoundError as exc:
            raise BoxNotFoundError(box_id) from exc

    @contextmanager
    def locked(self, box_id: str) -> Generator[None, None, None]:
        """Within the block nobody else changes the state of the box, in no process.

        :raises BoxNotFoundError: no such box
        :raises SandboxError: somebody has held it for half a minute
        """
        try:
            fd = os.open(self._layout.box(box_id) / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise BoxNotFoundError(box_id) from exc
        try:
            deadline = time.monotonic() + _LOCK_S
            while not _try_lock(fd):
                if time.monotonic() > deadline:
                    raise SandboxError(f"somebody has been changing box {box_id!r} for {_LOCK_S:g} s; try again")
                time.sleep(_LOCK_PAUSE_S)
            yield
        finally:
            os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _texts(data: dict[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in data.items()}


def _network(data: Any) -> Network:
    if isinstance(data, dict):
        return Egress(**cast("dict[str, Any]", data))
    # What is not understood opens nothing.
    return "open" if data == "open" else "none"
