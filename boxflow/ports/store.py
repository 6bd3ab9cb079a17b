"""What does boxflow ask of where journals live? `Store`, and the data that it exchanges."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import attrs

from boxflow.model import Blob, Change, Head, Item, Outcome, RunRecord, RunStatus


@attrs.frozen
class Fence:
    """Proof of ownership, issued by `Store.claim`. A larger token is a later owner."""

    token: int


@attrs.frozen(kw_only=True)
class StoredRun:
    """A run as a store finds it."""

    record: RunRecord
    head: Head


@attrs.frozen(kw_only=True)
class RunQuery:
    """Which runs to find. Every condition that is given must hold; none given finds all.

    :param waiting_for: an entry of `Head.waiting`
    :param due_before: the head's `due` is set and at most this
    :param after: start behind this run id of the previous page
    """

    statuses: frozenset[RunStatus] | None = None
    workflow: str | None = None
    label: str | None = None
    parent: str | None = None
    waiting_for: str | None = None
    due_before: float | None = None
    after: str | None = None
    limit: int = 1000


class Store(Protocol):
    """Where journals live.

    Duties of every store:

    - An append that returned is durable, to the level that the store declares. One that raised, or was cancelled, has
      either happened whole or not at all.
    - Appends of one run are applied in the order in which they were called.
    - `append` is refused with `FenceError` when the fence is not the newest one issued for that run.
    - What is handed out is data, never a live object: changing nothing of it changes the store.
    - Blocking system calls never run on the event loop.
    - Before `__aenter__` and after `__aexit__` every call raises `StoreClosedError`; after a failed write or sync every
      call that would change something raises `StoreFailedError` until the store is opened again.
    """

    @property
    def outlives_process(self) -> bool:
        """Whether what is kept here can be opened again after the process has died."""
        ...

    async def __aenter__(self) -> Self:
        """Open the store: recover what was acknowledged, and become its owner where there can be only one.

        :raises StoreLockedError: another living process owns it
        :raises StoreCorruptError: acknowledged records are damaged; nothing was changed
        :raises StoreFormatError: written by a newer version
        """
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Make durable what was accepted, and give up ownership."""
        ...

    async def claim(self, run_id: str, owner: str) -> Fence:
        """Take the run for *owner* (an engine's id for this life). Fences issued before are stale from now on.

        A store that only one process can own gives the run to whoever asks; a shared one raises `FenceError` while
        another owner's lease is alive.

        :raises RunNotFoundError: no such run
        """
        ...

    async def create_run(self, record: RunRecord, head: Head, changes: Sequence[Change] = ()) -> StoredRun:
        """Create the run, or return the one that already has this id, untouched (then *changes* are not applied)."""
        ...

    async def append(
        self, run_id: str, outcomes: Sequence[Outcome], head: Head, fence: Fence, changes: Sequence[Change] = ()
    ) -> None:
        """Add *outcomes* to the journal, replace the head and apply *changes*: all of it, or nothing of it.

        `outcomes` continue the journal: the first has `seq` = the stored length + 1, and `head.length` is the last
        `seq`. Both may be checked. Durable on return.

        :raises FenceError: another owner has taken the run since *fence* was issued
        :raises RunNotFoundError: no such run
        :raises StoreFailedError: a write or sync failed; the store must be opened again
        """
        ...

    async def read_journal(self, run_id: str, *, after: int = 0) -> Sequence[Outcome]:
        """The outcomes with `seq` > *after*, in order.

        :raises RunNotFoundError: no such run
        """
        ...

    async def get_run(self, run_id: str) -> StoredRun | None:
        """The run of that id, or None."""
        ...

    async def find_runs(self, query: RunQuery) -> Sequence[StoredRun]:
        """The runs that match, newest first by `created_at` (then by id, descending), at most `query.limit`."""
        ...

    async def delete_run(self, run_id: str) -> None:
        """Remove a run with its journal, items and blobs. Unknown ids are no error."""
        ...

    async def change_items(self, changes: Sequence[Change]) -> None:
        """Apply *changes*, all or none; durable on return."""
        ...

    async def get_item(self, collection: str, key: str) -> Item | None:
        """One item, or None."""
        ...

    async def list_items(self, collection: str, *, prefix: str = "", limit: int | None = None) -> Sequence[Item]:
        """Items whose key starts with *prefix*, sorted by key as text."""
        ...

    async def put_blob(self, run_id: str, data: bytes) -> Blob:
        """Keep *data* for that run; durable on return. The same data twice is the same blob."""
        ...

    async def get_blob(self, run_id: str, blob: Blob) -> bytes:
        """The bytes of a blob.

        :raises StoreCorruptError: it is missing or not what was put
        """
        ...
