"""Reading runs and journals from their places: every function here blocks, and runs in a thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import islice
from pathlib import Path

import attrs

from boxflow.model import Head, Outcome, RunRecord
from boxflow.ports import RunQuery, StoredRun
from boxflow_backends.file_store.archive import Archive
from boxflow_backends.file_store.disk import Disk
from boxflow_backends.file_store.lines import (
    PLACE_BITS,
    PLACE_MASK,
    Files,
    Kind,
    Line,
    decode_outcomes,
    place,
)
from boxflow_backends.run_index import as_indexed, matches


@attrs.frozen(kw_only=True)
class Snapshot:
    """What a listing reads from: taken at one instant, so that a run which moves is seen once.

    :param live: `(created_at, run id, kept)` of the live runs that match, newest first
    :param hidden: archived runs that are live again
    """

    live: Sequence[tuple[float, str, int | StoredRun]]
    archives: tuple[Archive, ...]
    gone: set[tuple[int, str]]
    hidden: frozenset[str]


def may_be_archived(query: RunQuery) -> bool:
    """Whether a run that is over, and waits for nothing any more, can match."""
    is_final = query.statuses is None or any(status.is_final for status in query.statuses)
    return is_final and query.waiting_for is None and query.due_before is None


def read_run(disk: Disk, root: Path, kept: int) -> StoredRun:
    """The run that is kept at these places."""
    with Files(disk, root) as files:
        return _read_run(files, kept)


def read_outcomes(disk: Disk, root: Path, kept: int, after: int) -> list[Outcome]:
    """The outcomes behind position *after*, found by following the run's lines from the newest back."""
    first, where = kept >> PLACE_BITS, kept & PLACE_MASK
    with Files(disk, root) as files:
        begin = files.line(first)
        # By counting, not by meeting the first line: lines that it has taken in may be there still, or be gone.
        held = _head(begin).length
        parts: list[list[Outcome]] = []
        while where != first:
            line = files.line(where)
            parts.append(decode_outcomes(line.outcomes))
            if line.prev is None or _head(line).length - len(parts[-1]) <= max(after, held):
                break
            where = place(Kind.LOG, *line.prev)
        if after < held:
            parts.append(decode_outcomes(begin.outcomes))
    return [outcome for part in reversed(parts) for outcome in part if outcome.seq > after]


def list_runs(
    disk: Disk, root: Path, query: RunQuery, before: tuple[float, str] | None, snapshot: Snapshot
) -> list[StoredRun]:
    """The newest runs of *snapshot* that match."""
    with Files(disk, root) as files:
        archived = [_archived(files, archive, query, before, snapshot) for archive in snapshot.archives]
        newest = merge(snapshot.live, *archived, key=_age, reverse=True)
        return [
            found if isinstance(found, StoredRun) else _read_run(files, found)
            for _, _, found in islice(newest, query.limit)
        ]


def stored(line: Line) -> StoredRun:
    """A run whose record and head are in one line."""
    return StoredRun(record=_record(line), head=_head(line))


def _read_run(files: Files, kept: int) -> StoredRun:
    first, last = kept >> PLACE_BITS, kept & PLACE_MASK
    begin = files.line(first)
    return stored(begin) if first == last else StoredRun(record=_record(begin), head=_head(files.line(last)))


def _archived(
    files: Files, archive: Archive, query: RunQuery, before: tuple[float, str] | None, snapshot: Snapshot
) -> Iterator[tuple[float, str, int | StoredRun]]:
    for row in archive.index.newest_first(None if before is None else before[0]):
        if query.statuses is not None and row.status not in query.statuses:
            continue
        line = files.line(row.where)
        if line.run in snapshot.hidden or (archive.number, line.run) in snapshot.gone:
            continue
        found = stored(line)
        age = (row.created_at, line.run)
        if (before is None or age < before) and matches(as_indexed(found.record, found.head, 0), query):
            yield row.created_at, line.run, found


def _age(found: tuple[float, str, int | StoredRun]) -> tuple[float, str]:
    return found[:2]


def _record(line: Line) -> RunRecord:
    assert line.record is not None, "a run begins with its record"
    return line.record


def _head(line: Line) -> Head:
    assert line.head is not None, "every line of a run has its head"
    return line.head
