"""The runs that were written or read last: who asks for one of them again needs neither its file nor a thread."""

from __future__ import annotations

from boxflow.model import Head, RunRecord
from boxflow.ports import StoredRun

_RUNS = 1024
# A large payload or result is worth reading again.
_BYTES = 4096


class Recent:
    """A run is created, brought into memory, and asked for its result: always soon after it was written or read.

    What is held counts for one value of `IndexedRun.kept` only, so that nothing here has to be told when a run is
    deleted, moved by compaction, or revived. Used under the store's lock.
    """

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: dict[str, tuple[int, RunRecord, Head]] = {}

    def hold(self, record: RunRecord, head: Head, kept: int) -> None:
        """Remember a run, instead of the one that has been held for longest."""
        runs = self._runs
        runs.pop(record.run_id, None)
        if len(bytes(record.payload)) + len(bytes(head.result)) > _BYTES:
            return
        if len(runs) >= _RUNS:
            del runs[next(iter(runs))]
        runs[record.run_id] = (kept, record, head)

    def changed(self, run_id: str, before: int, head: Head, kept: int) -> None:
        """The run, kept at *before*, has a new head. One that is not held stays unknown: its record is on disk."""
        held = self._runs.get(run_id)
        if held is not None:
            if held[0] != before or len(bytes(head.result)) > _BYTES:
                del self._runs[run_id]
            else:
                self._runs[run_id] = (kept, held[1], head)

    def find(self, run_id: str, kept: int) -> StoredRun | None:
        """The run that is kept at these places, when it is held."""
        held = self._runs.get(run_id)
        if held is None or held[0] != kept:
            return None
        return StoredRun(record=held[1], head=held[2])
