"""Where does a local box keep its things?

<root>/<box id>/box.json      what it is: labels, variables, when it was made; there from the first moment on
<root>/<box id>/work/         the working directory
<root>/<box id>/home/         HOME of its commands
<root>/<box id>/tmp/          TMPDIR of its commands
<root>/<box id>/jobs/         BOXFLOW_JOBS of its commands
<root>/<box id>/paused        there while the box is paused
<root>/<box id>/leaders/      which process was started as which exec
<root>/<box id>/lock          held while the box changes its state
<root>/<box id>/holder.json   of an isolated box: the process that holds its namespaces
<root>/<box id>/gate/         of a box that reaches some hosts only: what it sees of the gate to them
<root>/<box id>/authority/    what it does not see of that gate
<root>/.new-<box id>~<hex>/   a box in the making
<root>/.gone-<box id>~<hex>/  a box, or a part of one, being removed
<root>/.snapshots/<id>/       a snapshot; in the making and going with the same names as boxes
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from functools import lru_cache
from pathlib import Path
from typing import Final

from boxflow.errors import ConfigurationError

WORK: Final = "work"
HOME: Final = "home"
TMP: Final = "tmp"
JOBS: Final = "jobs"
PLACES: Final = (WORK, HOME, TMP, JOBS)
"""The directories that are the box's own. Everything beside them is about the box, and no part of it."""

KEPT: Final = (WORK, HOME)
"""What a snapshot keeps of them."""

RECORD: Final = "box.json"
PAUSED: Final = "paused"
LEADERS: Final = "leaders"
LOCK: Final = "lock"
HOLDER: Final = "holder.json"
GATE: Final = "gate"
AUTHORITY: Final = "authority"

# No dot in front, and no "~": those names are for boxes in the making or going. 128 leaves room below NAME_MAX (255).
_BOX_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=@+-]{0,127}")


def default_root() -> Path:
    """`$XDG_STATE_HOME/boxflow/boxes`, by default below `~/.local/state` (XDG Base Directory Specification)."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # The specification tells to ignore a relative path.
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "boxflow" / "boxes"


class Layout:
    """The paths of the boxes below one root, and the marks that their processes carry."""

    def __init__(self, root: Path) -> None:
        # Real, so that what `pwd` prints in a box and what the files API takes are one and the same path.
        self.root = Path(os.path.realpath(root))

    def box(self, box_id: str) -> Path:
        """The directory of a box."""
        return _path(self.root, checked(box_id))

    def place(self, box_id: str, place: str) -> Path:
        """One of the directories that commands in the box may use."""
        return _path(self.root, checked(box_id), place)

    def record(self, box_id: str) -> Path:
        """The file that says what the box is; the box exists while it does."""
        return _path(self.root, checked(box_id), RECORD)

    def making(self, box_id: str) -> Path:
        """A new name for a box in the making."""
        return self.root / f".new-{checked(box_id)}~{secrets.token_hex(6)}"

    def going(self, box_id: str) -> Path:
        """A new name for something of the box that is being removed."""
        return self.root / f".gone-{checked(box_id)}~{secrets.token_hex(6)}"

    def leftovers(self, box_id: str) -> list[Path]:
        """What a making or a removal of the box has left that was interrupted, as by the death of the engine."""
        return sorted(path for what in ("new", "gone") for path in self.root.glob(f".{what}-{checked(box_id)}~*"))

    def mark(self, box_id: str) -> str:
        """What is in the environment of every process of the box, and of no other process of this machine.

        Derived, not stored: a box whose record was destroyed, or whose engine was killed, can still be cleaned up.
        """
        return _digest(str(self.root), checked(box_id))

    def exec_mark(self, box_id: str, exec_id: str) -> str:
        """What is, beside the box's mark, in the environment of every process that belongs to one exec."""
        return _digest(str(self.root), checked(box_id), exec_id)

    def leader(self, box_id: str, exec_mark: str) -> Path:
        """The file that says which process was started as that exec."""
        return self.box(box_id) / LEADERS / exec_mark

    @property
    def snapshots(self) -> Layout:
        """Where the snapshots are. They are made and removed under the same kinds of names as boxes."""
        return Layout(self.root / ".snapshots")


# Each exec asks for the same dozen paths of its box, and joining them takes a tenth of its time.
@lru_cache(maxsize=4096)
def _path(root: Path, *names: str) -> Path:
    return root.joinpath(*names)


@lru_cache(maxsize=1024)
def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode(errors="surrogateescape")).hexdigest()[:32]


def checked(box_id: str) -> str:
    """*box_id*, which names a directory.

    :raises ConfigurationError: it cannot
    """
    if not _BOX_ID.fullmatch(box_id):
        raise ConfigurationError(
            f"{box_id!r} cannot name a local box or snapshot; "
            "use up to 128 letters, digits and '._=@+-', no '.', '-' first"
        )
    return box_id
