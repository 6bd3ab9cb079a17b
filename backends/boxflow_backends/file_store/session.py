"""A file store between opening and closing: its state, its log, and the compaction that runs beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import msgspec

from boxflow.errors import StoreClosedError, StoreCorruptError, StoreError, StoreFailedError
from boxflow_backends.file_store.archive import Archive
from boxflow_backends.file_store.blobs import Blobs
from boxflow_backends.file_store.compaction import Compacted, Compaction, Plan
from boxflow_backends.file_store.disk import Disk
from boxflow_backends.file_store.lines import FOLDERS, Kind, Line, as_lines, both, encode, kind_of, number_of
from boxflow_backends.file_store.log import Log
from boxflow_backends.file_store.recovery import Recovered, recover, repair
from boxflow_backends.file_store.state import State, first_of, is_in_log_after, last_of
from boxflow_backends.file_store.writer import Durability, say

# Few enough that applying one portion of a compaction is not felt by the event loop.
_SWITCHED_AT_ONCE = 200
# Opening reads all segments since the checkpoint, and each opening adds one.
_MANY_SEGMENTS = 16
# On closing, less than this is left for the next opening to read.
_LITTLE_BYTES = 1 << 20
# How many fences of archived runs are remembered: their engines may still append, as when a failed run is resumed.
_PAST_FENCES = 10_000


@attrs.frozen(kw_only=True)
class Settings:
    """How a store was set up."""

    root: Path
    disk: Disk
    durability: Durability
    interval_s: float
    segment_bytes: int
    retention_s: float | None
    now: Callable[[], float]


class Session:
    """One opening. What is not said to block does not; whoever uses `state` or `log` holds `lock`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.disk = settings.disk
        self.root = settings.root
        self.lock = threading.Lock()
        self.blobs = Blobs(self.disk, self.root)
        self.past_tokens: dict[str, int] = {}
        self._failure: str | None = None
        self._closing = False
        self._compacting = threading.Lock()
        self._compactor: threading.Thread | None = None
        self._abandon = self._open()

    def _open(self) -> Callable[[], None]:
        """Become the owner, recover, and begin a segment. Blocks."""
        _make_directories(self.disk, self.root)
        abandon = self.disk.own(self.root)
        try:
            found = recover(self.disk, self.root)
            repair(self.disk, self.root, found)
            for run_id in found.deleted:
                if run_id not in found.state.index.runs:
                    self.blobs.remove(run_id)
            self.state: State = found.state
            self.log = self._begin_log(found)
        except BaseException:
            abandon()
            raise
        self._compact_if_due()
        return abandon

    def _begin_log(self, found: Recovered) -> Log:
        settings = self._settings
        log = Log(
            self.disk,
            self.root,
            number=found.segment + 1,
            crc=found.crc,
            epoch=found.epoch + 1,
            segment_bytes=settings.segment_bytes,
            durability=settings.durability,
            interval_s=settings.interval_s,
            rolled=self._compact_if_due,
            failed=self.fail,
        )
        log.sealed.update(found.sealed)
        return log

    def check_open(self) -> None:
        """Refuse what comes after a failure."""
        if self._failure is not None:
            raise StoreFailedError(self._failure)

    def fail(self, why: str) -> None:
        """Accept nothing more. Called from any thread."""
        with self.lock:
            if self._failure is None:
                self._failure = why

    def close(self) -> None:
        """Make durable what was accepted, and give up ownership. Blocks."""
        try:
            self._closing = True
            compactor = self._compactor
            if compactor is not None:
                compactor.join()
            if self._failure is None and self._is_worth_it(_LITTLE_BYTES):
                self.compact(is_last=True)
            with self.lock:
                if self._failure is None:
                    self.log.close()
            self.log.writer.stop()
        finally:
            self._abandon()

    # --- compaction ----------------------------------------------------------------------------------------------

    def compact(self, *, is_last: bool = False) -> None:
        """Compact everything written so far. Blocks."""
        with self.lock:
            self.check_open()
            upto = self.log.number
            self.log.roll()
        self.log.writer.wait_for(upto + 1)
        self.check_open()
        self._compact(stopped=(lambda: False) if is_last else (lambda: self._closing))

    def _is_worth_it(self, little_bytes: int) -> bool:
        """Whether the log has grown as much as the checkpoint: then rewriting costs each record little, however many."""
        with self.lock:
            return self.log.since_checkpoint_bytes() >= max(little_bytes, self.state.checkpoint_bytes)

    def _compact_if_due(self) -> None:
        """Start compacting in the background where enough is sealed. Called when a segment was begun."""
        with self.lock:
            sealed = self.log.sealed
            enough = sum(sealed.values()) >= max(self._settings.segment_bytes, self.state.checkpoint_bytes)
            before = self._ended_before()
            over = before is not None and any(archive.newest_ended_at < before for archive in self.state.archives)
            running = self._compactor is not None and self._compactor.is_alive()
            if running or self._closing or not sealed or not (enough or over or len(sealed) >= _MANY_SEGMENTS):
                return
            self._compactor = threading.Thread(
                target=self._compact_aside, name="boxflow-file-store-compaction", daemon=True
            )
            self._compactor.start()

    def _compact_aside(self) -> None:
        try:
            self._compact(stopped=lambda: self._closing)
        except StoreFailedError:
            # Whoever calls next is told.
            return

    def _compact(self, *, stopped: Callable[[], bool]) -> None:
        with self._compacting:
            try:
                with self.lock:
                    plan = self._plan()
                if plan is None:
                    return
                compaction = Compaction(self.disk, self.root, plan, forget=self._forget, stopped=stopped)
                done = compaction.run()
                if done is None:
                    return
                self._switch(done)
                compaction.remove_old()
            except OSError as error:
                self.fail(say(error))
                raise StoreFailedError(say(error)) from error
            except (StoreCorruptError, msgspec.DecodeError) as error:
                why = f"compaction stopped: {error}"
                self.fail(why)
                raise StoreFailedError(why) from error

    def _plan(self) -> Plan | None:
        synced_number, _ = self.log.writer.synced
        upto = max((number for number in self.log.sealed if number < synced_number), default=0)
        if upto <= self.state.covered:
            return None
        return Plan(
            upto=upto,
            covered=self.state.covered,
            epoch=self.log.epoch,
            archives=self.state.archives,
            pinned=frozenset(self.state.revived.values()),
            ended_before=self._ended_before(),
        )

    def _ended_before(self) -> float | None:
        retention_s = self._settings.retention_s
        return None if retention_s is None else self._settings.now() - retention_s

    def _forget(self, archive: Archive, run_ids: Sequence[str]) -> bool:
        """Drop the runs of an archive with what belongs to them; False when one of them came back to life."""
        with self.lock:
            self.check_open()
            if archive.number in self.state.revived.values():
                return False
            state = self.state
            state.archives = tuple(other for other in state.archives if other is not archive)
            dropped = [
                run_id for run_id in run_ids if run_id not in state.index.runs and (archive.number, run_id) not in state.gone
            ]
            changes = [change for run_id in dropped for change in state.items.of_run(run_id)]
            if changes:
                state.items.apply(changes)
                self.log.add(encode(Line(op="change", epoch=self.log.epoch, changes=as_lines(changes))), None)
        for run_id in dropped:
            self.blobs.remove(run_id)
        return True

    def _switch(self, done: Compacted) -> None:
        """Look for runs where they are now. Old and new places are both good until the old files are removed."""
        with self.lock:
            # First the archives, so that no run is in neither place; a run in both is told apart by `gone`.
            known = {(archive, run_id) for archive, run_id in self.state.gone if archive in _numbers(done.archives)}
            self.state.gone = known | done.gone
            hidden = {run_id: number_of(where) for run_id, where in done.archived if run_id in self.state.index.runs}
            self.state.revived = {
                run_id: hidden.get(run_id, number) for run_id, number in self.state.revived.items()
            }
            self.state.archives = done.archives
            self.state.covered = done.upto
            self.state.checkpoint_bytes = done.checkpoint_bytes
            for number in [number for number in self.log.sealed if number <= done.upto]:
                del self.log.sealed[number]
        for begin in range(0, len(done.carried), _SWITCHED_AT_ONCE):
            with self.lock:
                for run_id, where in done.carried[begin : begin + _SWITCHED_AT_ONCE]:
                    self._switch_carried(run_id, where, done.upto)
            time.sleep(0.0002)
