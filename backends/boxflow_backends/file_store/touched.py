"""Of which runs do the segments of a compaction say something, and where?"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from math import isnan, nan

from boxflow.model import RunStatus
from boxflow_backends.file_store.archive_index import STATUS_CODES, STATUSES

_NONE = -1


class Touched:
    """Runs, in the order in which the segments name them first, with the places of their lines.

    In flat sequences: an object for each of hundreds of thousands of runs would be work for the garbage collector, and
    would leave holes in the heap when it goes, between the store's own objects that came meanwhile.

    :param known: the id as the store has it already, so that it is not there twice
    """

    def __init__(self, known: Callable[[str], str]) -> None:
        self._known = known
        self._rows: dict[str, int] = {}
        # Of each row: its newest link and status; where it was kept before; when it was created, where that is known.
        self._newest = array("q")
        self._statuses = bytearray()
        self._bases = array("Q")
        self._created_at = array("d")
        # Of each link: the place of a line, and the link of the same run before it.
        self._places = array("Q")
        self._before = array("q")

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def create(self, run_id: str, where: int, status: RunStatus, created_at: float) -> None:
        """The line at *where* creates the run. One of that id that was before is none of its business."""
        self._rows.pop(run_id, None)
        self._new_row(run_id, created_at)
        self.add(run_id, where, status)

    def add(self, run_id: str, where: int, status: RunStatus) -> None:
        """The line at *where* is the run's newest."""
        row = self._rows.get(run_id)
        if row is None:
            row = self._new_row(run_id, nan)
        self._before.append(self._newest[row])
        self._newest[row] = len(self._places)
        self._statuses[row] = STATUS_CODES[status]
        self._places.append(where)

    def drop(self, run_id: str) -> None:
        """The run is deleted."""
        self._rows.pop(run_id, None)

    def lacks_base(self, run_id: str) -> bool:
        """Whether the run began before the segments, and it is not known yet where it was kept."""
        row = self._rows.get(run_id)
        return row is not None and isnan(self._created_at[row]) and not self._bases[row]

    def set_base(self, run_id: str, where: int) -> None:
        """All that happened to the run before the segments is kept at *where*."""
        self._bases[self._rows[run_id]] = where

    def status(self, run_id: str) -> RunStatus:
        """What the run's newest line says."""
        return STATUSES[self._statuses[self._rows[run_id]]]

    def created_at(self, run_id: str) -> float | None:
        """When the run was created; None where it was before the segments."""
        found = self._created_at[self._rows[run_id]]
        return None if isnan(found) else found

    def places(self, run_id: str) -> list[int]:
        """The places of all that is said of the run, oldest first."""
        row = self._rows[run_id]
        found: list[int] = []
        link = self._newest[row]
        while link != _NONE:
            found.append(self._places[link])
            link = self._before[link]
        # 0 is no place: files are numbered from 1.
        if self._bases[row]:
            found.append(self._bases[row])
        found.reverse()
        return found

    def _new_row(self, run_id: str, created_at: float) -> int:
        row = self._rows[self._known(run_id)] = len(self._newest)
        self._newest.append(_NONE)
        self._statuses.append(0)
        self._bases.append(0)
        self._created_at.append(created_at)
        return row
