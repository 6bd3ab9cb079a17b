"""How is a local box made, paused, resumed and deleted, and what may be asked of it? Blocking: called in threads."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from boxflow.errors import NotSupportedError
from boxflow.ports import BoxInfo, BoxSpec, BoxStatus, Egress, Network
from boxflow_backends.egress_gate import check_policy
from boxflow_backends.local_sandbox.execs import Execs
from boxflow_backends.local_sandbox.layout import GATE, Layout
from boxflow_backends.local_sandbox.records import Isolation, Record, Records
from boxflow_backends.local_sandbox.snapshots import Snapshots
from boxflow_backends.local_sandbox.transfer import Stop
from boxflow_backends.local_sandbox.trees import freeze_marked, thaw_marked
from boxflow_backends.local_sandbox.users import check_user, current_user, isolated_user

_BOX_WIDE: Final = ("cpus", "memory_bytes", "disk_bytes", "max_processes")


class Lifecycle:
    """What happens to the boxes below one root as a whole."""

    def __init__(self, layout: Layout, records: Records, execs: Execs, snapshots: Snapshots) -> None:
        self._layout = layout
        self._records = records
        self._execs = execs
        self._snapshots = snapshots

    def info(self, record: Record) -> BoxInfo:
        """As the sandbox reports it."""
        if self._records.is_paused(record.box_id):
            return record.info(BoxStatus.PAUSED)
        if record.isolation == "bubblewrap":
            return record.info(self._execs.enclosures.status(record.box_id))
        return record.info(BoxStatus.RUNNING)

    def create(self, record: Record, snapshot_id: str | None, stop: Stop) -> Record:
        """Make the box, or return the one that has this id; then what is asked for here plays no part.

        :raises SnapshotNotFoundError: no such snapshot
        """
        restore = None if snapshot_id is None else self._snapshots.restoring(snapshot_id, stop)

        def fill(making: Path) -> None:
            if isinstance(record.network, Egress):
                (making / GATE).mkdir()
            if restore is not None:
                restore(making)

        found, is_new = self._records.create(record, fill)
        if found.isolation == "bubblewrap":
            try:
                with self._records.locked(found.box_id):
                    if not self._records.is_paused(found.box_id):
                        self._execs.enclosures.ensure(found)
            except BaseException:
                if is_new:
                    self.delete(found.box_id)
                raise
        return found

    def pause(self, box_id: str) -> None:
        """Stop everything in it. :raises BoxNotFoundError: no such box."""
        record = self._records.read(box_id)
        with self._records.locked(box_id):
            # First, so that whoever is starting a process sees it afterwards, if we do not see the process.
            self._records.set_paused(box_id, True)
            freeze_marked(self._layout.mark(box_id), namespace=self._namespace(record))

    def resume(self, box_id: str) -> BoxStatus:
        """Let it go on; what it was before. :raises BoxNotFoundError: no such box."""
        record = self._records.read(box_id)
        with self._records.locked(box_id):
            status = self.info(record).status
            if record.isolation == "bubblewrap":
                if self._namespace(record) is None:
                    status = BoxStatus.STOPPED
                self._execs.enclosures.ensure(record)
            if self._records.is_paused(box_id):
                thaw_marked(self._layout.mark(box_id), namespace=self._namespace(record))
                self._records.set_paused(box_id, False)
        return status

    def delete(self, box_id: str) -> None:
        """End everything in it and remove it. No error when there is none."""
        mark = self._layout.mark(box_id)
        self._execs.enclosures.end(box_id)
        self._records.take_away(box_id)
        # Again, for what was being started: from here on nothing can start.
        self._execs.end_marked(mark)
        self._records.clear(box_id)

    def _namespace(self, record: Record) -> int | None:
        return self._execs.enclosures.namespace(record.box_id) if record.isolation == "bubblewrap" else None


def network_of(spec: BoxSpec, isolation: Isolation) -> Network:
    """What a box made of *spec* may connect to.

    :raises NotSupportedError: *spec* asks for what a box of this isolation cannot do
    """
    asked = [name for name in _BOX_WIDE if getattr(spec, name) is not None]
    if asked:
        raise NotSupportedError(
            f"local boxes cannot bound {', '.join(asked)} of a box as a whole; use 'docker:', "
            "or LocalSandbox(limits=ProcessLimits(...)) for each process by itself"
        )
    check_user(spec.user, isolated_user() if isolation == "bubblewrap" else current_user())
    if isolation == "bubblewrap":
        if isinstance(spec.network, Egress):
            check_policy(spec.network)
        return spec.network or "none"
    if spec.network not in (None, "open"):
        raise NotSupportedError(
            f"network={spec.network!r} does not hold in a local box without isolation, which reaches what this "
            "machine does; use isolation='bubblewrap', or 'docker:'"
        )
    return "open"
