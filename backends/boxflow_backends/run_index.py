"""Which runs match a query, answered without looking at all of them.

Both the memory store and the file store keep one `RunIndex` over the runs they hold in memory. It is sized for a
million runs that wait: one small untracked struct a run, indexes only over what is rare or selective.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Generic, TypeVar

import msgspec

from boxflow.model import Head, RunRecord, RunStatus
from boxflow.ports import Fence, RunQuery

T = TypeVar("T")

_BUCKET_S = 64.0
_FAMILIES = 10_000
# Almost every unfinished run waits: an index over them would cost memory and select nothing.
_RARE = frozenset({RunStatus.PENDING, RunStatus.RUNNING, RunStatus.DIVERGED})
_FINAL = frozenset(status for status in RunStatus if status.is_final)


class Family(msgspec.Struct, gc=False, frozen=True):
    """What a million runs have in common, but for a handful of differences: one object for all that are alike."""

    workflow: str
    labels: tuple[str, ...]


class IndexedRun(msgspec.Struct, Generic[T], gc=False, eq=False, kw_only=True):
    """What the index knows of one run, what its store *kept* of it, and by which *token* it was claimed last.

    Untracked by the garbage collector: it refers to no container that could refer back, and a million tracked objects
    would make every full collection a pause that callers feel.

    :param token: 0 until then; it is part of what `fence_token` says
    """

    run_id: str
    created_at: float
    family: Family
    parent: str | None
    status: RunStatus
    waiting: str | tuple[str, ...]
    due: float | None
    length: int
    token: int
    kept: T


class _Several(dict[IndexedRun[T], None]):
    """More than one run under a key; a key with one run holds it bare, which is a third of the memory."""

    __slots__ = ()


class _Keyed(Generic[T]):
    """Runs by a key of which most belong to one run only."""

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: dict[str | int, IndexedRun[T] | _Several[T]] = {}

    def add(self, key: str | int, run: IndexedRun[T]) -> None:
        found = self._runs.setdefault(key, run)
        if found is run:
            return
        if not isinstance(found, _Several):
            several = _Several[T]()
            several[found] = None
            self._runs[key] = found = several
        found[run] = None

    def discard(self, key: str | int, run: IndexedRun[T]) -> None:
        found = self._runs.get(key)
        if found is run:
            del self._runs[key]
        elif isinstance(found, _Several):
            found.pop(run, None)
            if not found:
                del self._runs[key]

    def get(self, key: str | int) -> Iterable[IndexedRun[T]]:
        found = self._runs.get(key)
        if found is None:
            return ()
        return list(found) if isinstance(found, _Several) else (found,)

    def keys_where(self, holds: Callable[[str | int], bool]) -> list[str | int]:
        return [key for key in self._runs if holds(key)]


def _age(run: IndexedRun[T]) -> tuple[float, str]:
    return (run.created_at, run.run_id)


class _Order(Generic[T]):
    """Runs by age. Removal only marks: what no longer belongs is skipped, and swept once it is half of the list."""

    __slots__ = ("_final", "_list", "_stale")

    def __init__(self, *, final: bool) -> None:
        self._list: list[IndexedRun[T]] = []
        self._final = final
        self._stale = 0

    def add(self, run: IndexedRun[T]) -> None:
        if self._list and _age(self._list[-1]) > _age(run):
            insort(self._list, run, key=_age)
        else:
            self._list.append(run)

    def left(self, index: RunIndex[T]) -> None:
        """One of the runs no longer belongs here."""
        self._stale += 1
        if self._stale > 64 and self._stale * 2 > len(self._list):
            self._list = list(dict.fromkeys(run for run in self._list if self._belongs(run, index)))
            self._stale = 0

    def newest_first(self, before: tuple[float, str] | None, index: RunIndex[T]) -> Iterator[IndexedRun[T]]:
        runs = self._list
        end = len(runs) if before is None else bisect_left(runs, before, key=_age)
        last: IndexedRun[T] | None = None
        for position in range(end - 1, -1, -1):
            run = runs[position]
            # A run that came back lies here twice, side by side.
            if run is not last and self._belongs(run, index):
                yield run
            last = run

    def _belongs(self, run: IndexedRun[T], index: RunIndex[T]) -> bool:
        return (run.status in _FINAL) is self._final and index.runs.get(run.run_id) is run


class RunIndex(Generic[T]):
    """The runs of a store, by id, by age, and by what engines ask for."""

    def __init__(self) -> None:
        self.runs: dict[str, IndexedRun[T]] = {}
        self._unfinished = _Order[T](final=False)
        self._finished = _Order[T](final=True)
        self._rare: dict[RunStatus, dict[IndexedRun[T], None]] = {status: {} for status in _RARE}
        self._waiting = _Keyed[T]()
        self._children = _Keyed[T]()
        self._due = _Keyed[T]()
        self._families: dict[Family, Family] = {}
        self._first_token = 1

    def add(self, record: RunRecord, head: Head, kept: T) -> IndexedRun[T]:
        """Take in a run that is not there yet."""
        run = as_indexed(record, head, kept)
        if len(self._families) > _FAMILIES:
            self._families.clear()  # Where each run has a label of its own there is nothing to share.
        run.family = self._families.setdefault(run.family, run.family)
        self.runs[run.run_id] = run
        (self._finished if run.status in _FINAL else self._unfinished).add(run)
        if run.status in _RARE:
            self._rare[run.status][run] = None
        self._add_waiting(run)
        if run.parent is not None:
            self._children.add(run.parent, run)
        if run.due is not None:
            self._due.add(int(run.due // _BUCKET_S), run)
        return run

    def claim(self, run: IndexedRun[T], epoch: int) -> Fence:
        """Give the run to a new owner; fences of earlier ones, also of a run of this id that is gone, become stale."""
        # Most runs that wait have been claimed once, and share this integer. A count over all runs would give each of
        # them an object.
        run.token = self._first_token if run.token < self._first_token else run.token + 1
        return Fence(fence_token(run, epoch))

    def update(self, run: IndexedRun[T], head: Head) -> None:
        """The run has a new head."""
        run.length = head.length
        if head.status is not run.status:
            self._change_status(run, head.status)
        waiting = head.waiting[0] if len(head.waiting) == 1 else head.waiting
        if waiting != run.waiting:
            self._discard_waiting(run)
            run.waiting = waiting
            self._add_waiting(run)
        if head.due != run.due:
            if run.due is not None:
                self._due.discard(int(run.due // _BUCKET_S), run)
            if head.due is not None:
                self._due.add(int(head.due // _BUCKET_S), run)
            run.due = head.due

    def remove(self, run: IndexedRun[T]) -> None:
        """The run is gone."""
        del self.runs[run.run_id]
        # It may come back, or another of its id: whoever owned this one must not be taken for the owner of that.
        self._first_token = max(self._first_token, run.token + 1)
        if run.status in _RARE:
            self._rare[run.status].pop(run, None)
        self._discard_waiting(run)
        if run.parent is not None:
            self._children.discard(run.parent, run)
        if run.due is not None:
            self._due.discard(int(run.due // _BUCKET_S), run)
        (self._finished if run.status in _FINAL else self._unfinished).left(self)

    def find(self, query: RunQuery, *, before: tuple[float, str] | None = None) -> list[IndexedRun[T]]:
        """The newest `query.limit` runs that match and are older than *before*, newest first.

        *before* stands for `query.after`, which is not looked at: the run of that id may be kept elsewhere.
        """
        few = self._candidates(query)
        if few is not None:
            matching = [run for run in few if matches(run, query) and (before is None or _age(run) < before)]
            return heapq.nlargest(query.limit, matching, key=_age) if len(matching) > 1 else matching[: query.limit]
        found: list[IndexedRun[T]] = []
        for run in self._newest_first(query, before):
            if len(found) >= query.limit:
                break
            if matches(run, query):
                found.append(run)
        return found

    def _candidates(self, query: RunQuery) -> Iterable[IndexedRun[T]] | None:
        """Runs among which all that match are found, where an index selects; None where none does."""
        if query.waiting_for is not None:
            return self._waiting.get(query.waiting_for)
        if query.parent is not None:
            return self._children.get(query.parent)
        if query.due_before is not None:
            last = int(query.due_before // _BUCKET_S)
            buckets = self._due.keys_where(lambda key: isinstance(key, int) and key <= last)
            return chain.from_iterable(self._due.get(key) for key in buckets)
        if query.statuses is not None and query.statuses <= _RARE:
            return list(chain.from_iterable(self._rare[status] for status in query.statuses))
        return None

    def _newest_first(self, query: RunQuery, before: tuple[float, str] | None) -> Iterator[IndexedRun[T]]:
        statuses = query.statuses
        unfinished = self._unfinished.newest_first(before, self)
        finished = self._finished.newest_first(before, self)
        if statuses is not None and not statuses & _FINAL:
            return unfinished
        if statuses is not None and statuses <= _FINAL:
            return finished
        return heapq.merge(unfinished, finished, key=_age, reverse=True)

    def _add_waiting(self, run: IndexedRun[T]) -> None:
        for key in (run.waiting,) if isinstance(run.waiting, str) else run.waiting:
            self._waiting.add(key, run)

    def _discard_waiting(self, run: IndexedRun[T]) -> None:
        for key in (run.waiting,) if isinstance(run.waiting, str) else run.waiting:
            self._waiting.discard(key, run)

    def _change_status(self, run: IndexedRun[T], status: RunStatus) -> None:
        old = run.status
        run.status = status
        if old in _RARE:
            self._rare[old].pop(run, None)
        if status in _RARE:
            self._rare[status][run] = None
        if (old in _FINAL) is not (status in _FINAL):
            finished, unfinished = self._finished, self._unfinished
            (finished if status in _FINAL else unfinished).add(run)
            (unfinished if status in _FINAL else finished).left(self)


def fence_token(run: IndexedRun[T], epoch: int) -> int:
    """The token of the only fence that is good for the run.

    Its hash makes that good for no other run: by chance once in 2**61, and only for an engine that takes the wrong one.

    :param epoch: counts the openings of the store, so that no token of an earlier one is issued again
    """
    return (epoch << 64) + hash(run.run_id) + run.token


def as_indexed(record: RunRecord, head: Head, kept: T) -> IndexedRun[T]:
    """What an index knows of a run."""
    return IndexedRun(
        run_id=record.run_id,
        created_at=record.created_at,
        family=Family(record.workflow, record.labels),
        parent=record.parent,
        status=head.status,
        waiting=head.waiting[0] if len(head.waiting) == 1 else head.waiting,
        due=head.due,
        length=head.length,
        token=0,
        kept=kept,
    )


def matches(run: IndexedRun[T], query: RunQuery) -> bool:
    """Whether every condition of *query* holds for the run; `after` and `limit` are not conditions."""
    return (
        (query.statuses is None or run.status in query.statuses)
        and (query.workflow is None or run.family.workflow == query.workflow)
        and (query.label is None or query.label in run.family.labels)
        and (query.parent is None or run.parent == query.parent)
        and (query.waiting_for is None or _waits(run, query.waiting_for))
        and (query.due_before is None or (run.due is not None and run.due <= query.due_before))
    )


def _waits(run: IndexedRun[T], key: str) -> bool:
    # Almost every run waits for one thing, and a tuple around it would be a tenth of what the run costs.
    return run.waiting == key if isinstance(run.waiting, str) else key in run.waiting
