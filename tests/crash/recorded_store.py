"""What did a store hold after each of its writes? A memory store that keeps every write, and watches promises.

A crash after write number n is a new store to which the first n writes are applied. The promises that can be judged
write by write are judged here, so that a broken one is found where it breaks:

- every call of a body gets at most one outcome;
- mail leaves its box only into a journal, by the same write, or with its run, or as a repetition of what that run has
  had;
- no run receives one sending twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import attrs
import msgspec

from boxflow.codec import decode_value
from boxflow.mail import WebhookRequest
from boxflow.model import (
    Change,
    ChildEnded,
    Delete,
    EventArrived,
    Head,
    Outcome,
    Put,
    RunRecord,
    StepDone,
    StepFailed,
    TimerFired,
    WebhookArrived,
)
from boxflow.ports import Fence, StoredRun
from boxflow_backends.memory_store import MemoryStore

KEPT = "mail"


class BrokenPromise(AssertionError):
    """Something happened that must never happen."""


@attrs.frozen
class Created:
    """A `create_run` that created."""

    record: RunRecord
    head: Head
    changes: tuple[Change, ...]


@attrs.frozen
class Appended:
    """An `append`."""

    run_id: str
    outcomes: tuple[Outcome, ...]
    head: Head
    changes: tuple[Change, ...]


@attrs.frozen
class Changed:
    """A `change_items`."""

    changes: tuple[Change, ...]


Write: TypeAlias = Created | Appended | Changed

CallKey: TypeAlias = tuple[str, str, int]
"""A call of a body: run, name, occurrence."""


async def at_once() -> None:
    """A disk that takes no time."""


class RecordedStore(MemoryStore):
    """A memory store with a memory of its writes.

    :param disk: awaited after each write was applied, before its caller hears of it
    """

    def __init__(self, disk: Callable[[], Awaitable[None]] = at_once) -> None:
        super().__init__()
        self._disk = disk
        self.writes: list[Write] = []
        #: Calls that have their outcome.
        self.settled: set[CallKey] = set()
        self._fired: set[CallKey] = set()
        #: Which sendings each run has had, by the id in their data.
        self.received: dict[str, set[str]] = {}
        #: The id of each sending that is kept, by the key of its item.
        self.kept: dict[str, str] = {}
        self.ever_kept: set[str] = set()

    @classmethod
    async def after(cls, writes: Sequence[Write], disk: Callable[[], Awaitable[None]] = at_once) -> RecordedStore:
        """The store as it is after *writes*, closed."""
        store = cls()
        async with store:
            for write in writes:
                match write:
                    case Created(record, head, changes):
                        await store.create_run(record, head, changes)
                    case Appended(run_id, outcomes, head, changes):
                        await store.append(run_id, outcomes, head, await store.claim(run_id, "before"), changes)
                    case Changed(changes):
                        await store.change_items(changes)
        store._disk = disk
        return store

    async def create_run(self, record: RunRecord, head: Head, changes: Sequence[Change] = ()) -> StoredRun:
        is_new = await self.get_run(record.run_id) is None
        stored = await super().create_run(record, head, changes)
        if is_new:
            self.writes.append(Created(record, head, tuple(changes)))
            self._note_mail(changes, ())
            await self._disk()
        return stored

    async def append(
        self, run_id: str, outcomes: Sequence[Outcome], head: Head, fence: Fence, changes: Sequence[Change] = ()
    ) -> None:
        await super().append(run_id, outcomes, head, fence, changes)
        self.writes.append(Appended(run_id, tuple(outcomes), head, tuple(changes)))
        for outcome in outcomes:
            self._note(run_id, outcome)
        self._note_mail(changes, outcomes)
        await self._disk()

    async def change_items(self, changes: Sequence[Change]) -> None:
        await super().change_items(changes)
        self.writes.append(Changed(tuple(changes)))
        self._note_mail(changes, ())
        await self._disk()

    def _note(self, run_id: str, outcome: Outcome) -> None:
        key = (run_id, outcome.name, outcome.occurrence)
        match outcome:
            case StepDone() | StepFailed() | ChildEnded() | EventArrived() | WebhookArrived():
                if key in self.settled:
                    raise BrokenPromise(f"{key} was settled twice, the second time by {outcome}")
                self.settled.add(key)
            case TimerFired():
                if key in self._fired:
                    raise BrokenPromise(f"the timer {key} fired twice")
                self._fired.add(key)
            case _:
                pass
        sending = sending_in(outcome)
        if sending is not None:
            received = self.received.setdefault(run_id, set())
            if sending in received:
                raise BrokenPromise(f"run {run_id!r} received {sending!r} twice")
            received.add(sending)

    def _note_mail(self, changes: Sequence[Change], outcomes: Sequence[Outcome]) -> None:
        arriving = {sending_in(outcome) for outcome in outcomes}
        for change in changes:
            match change:
                case Put(item) if item.collection == KEPT:
                    sending = self.kept[item.key] = sending_in_mail(item.value)
                    self.ever_kept.add(sending)
                case Delete(collection, key) if collection == KEPT:
                    gone = self.kept.pop(key)
                    had = any(gone in received for received in self.received.values())
                    # Mail of a run that is over goes with it; a sender that hears of the end was not acknowledged.
                    if gone not in arriving and not had and not self._is_over(key):
                        raise BrokenPromise(f"the kept sending {gone!r} was thrown away")
                case _:
                    pass

    def _is_over(self, key: str) -> bool:
        length, _, rest = key.partition(":")
        run = self._index.runs.get(rest[: int(length)])
        return run is not None and run.kept.head.status.is_final


def sending_in(outcome: Outcome) -> str | None:
    """The id of the sending that *outcome* brings, when it brings one."""
    match outcome:
        case EventArrived():
            return str(outcome.data["id"])
        case WebhookArrived():
            return _webhook_sending(bytes(outcome.value))
        case _:
            return None


class _Kept(msgspec.Struct):
    kind: str
    data: msgspec.Raw


def sending_in_mail(value: bytes | msgspec.Raw) -> str:
    """The id of the sending that an item of kept mail holds."""
    kept = msgspec.json.decode(value, type=_Kept)
    if kept.kind == "webhook":
        return _webhook_sending(bytes(kept.data))
    data: Any = msgspec.json.decode(kept.data)
    return str(data["id"])


def _webhook_sending(encoded: bytes) -> str:
    request: WebhookRequest = decode_value(encoded, WebhookRequest)
    return str(request.json()["id"])
