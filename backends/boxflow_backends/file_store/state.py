"""What the store knows in memory, and how each line of the log changes it."""

from __future__ import annotations

from pathlib import Path

import attrs

from boxflow_backends.file_store.archive import Archive, find
from boxflow_backends.file_store.disk import Disk
from boxflow_backends.file_store.lines import (
    PLACE_BITS,
    PLACE_MASK,
    Files,
    Line,
    as_changes,
    both,
    is_in_log,
    number_of,
)
from boxflow_backends.item_table import ItemTable
from boxflow_backends.run_index import IndexedRun, RunIndex


@attrs.define(kw_only=True)
class State:
    """The runs that are not archived, every item, and where the rest is.

    What the index keeps of a run is `both(first, last)`: the place of the line to read it from, which is the `create`
    line or one that holds everything up to a checkpoint, and the place of its newest line.

    :param gone: `(archive, run id)` of what is still in an archive, but was deleted or is live again
    :param revived: live runs whose first line is in an archive, with its number
    :param covered: up to which segment the checkpoint reaches; 0 without one
    """

    index: RunIndex[int] = attrs.field(factory=RunIndex[int])
    items: ItemTable = attrs.field(factory=ItemTable)
    archives: tuple[Archive, ...] = ()
    gone: set[tuple[int, str]] = attrs.field(factory=set[tuple[int, str]])
    revived: dict[str, int] = attrs.field(factory=dict[str, int])
    covered: int = 0
    checkpoint_bytes: int = 0

    def apply(self, line: Line, where: int, disk: Disk, root: Path) -> None:
        """Change the state as *line*, found at *where* in the log, says."""
        match line.op:
            case "create":
                assert line.record is not None and line.head is not None, "a create line has a record and a head"
                self.index.add(line.record, line.head, both(where, where))
            case "append":
                run = self.index.runs.get(line.run) or self._revive(line.run, disk, root)
                if run is not None and line.head is not None:
                    self.index.update(run, line.head)
                    run.kept = both(run.kept >> PLACE_BITS, where)
            case "delete":
                self._delete(line.run, disk, root)
            case _:
                pass
        if line.changes:
            self.items.apply(as_changes(line.changes))

    def revive(self, where: int, line: Line) -> IndexedRun[int]:
        """Take an archived run into memory again."""
        assert line.record is not None and line.head is not None, "a run line has a record and a head"
        self.revived[line.run] = number_of(where)
        return self.index.add(line.record, line.head, both(where, where))

    def remove(self, run: IndexedRun[int]) -> None:
        """The run is deleted."""
        self.index.remove(run)
        archive = self.revived.pop(run.run_id, None)
        if archive is not None:
            self.gone.add((archive, run.run_id))

    def _revive(self, run_id: str, disk: Disk, root: Path) -> IndexedRun[int] | None:
        with Files(disk, root) as files:
            found = find(self.archives, self.gone, files, run_id)
        return None if found is None else self.revive(*found)

    def _delete(self, run_id: str, disk: Disk, root: Path) -> None:
        run = self.index.runs.get(run_id)
        if run is not None:
            self.remove(run)
            return
        with Files(disk, root) as files:
            found = find(self.archives, self.gone, files, run_id)
        if found is not None:
            self.gone.add((number_of(found[0]), run_id))


def first_of(run: IndexedRun[int]) -> int:
    """The place of the line that a run is read from."""
    return run.kept >> PLACE_BITS


def last_of(run: IndexedRun[int]) -> int:
    """The place of a run's newest line."""
    return run.kept & PLACE_MASK


def is_in_log_after(where: int, number: int) -> bool:
    """Whether a place is in a segment behind *number*."""
    return is_in_log(where) and number_of(where) > number
