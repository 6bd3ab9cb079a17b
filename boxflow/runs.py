"""A run as its user holds it: ask how it stands, wait for its result, follow it, steer it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Generic, Protocol, TypeVar, cast

from boxflow.boxes import AGENT_STEP, RunRecord, RunUsage
from boxflow.codec import decode_value
from boxflow.errors import RunCancelledError, RunDivergedError, RunFailedError, RunNotFoundError, RunTimeoutError
from boxflow.model import Duration, Head, Outcome, RunStatus, StepDone, seconds
from boxflow.model import RunRecord as StoredRecord
from boxflow.ports import StoredRun

# Covariant: a run that results in a text is a run that results in an object.
O_co = TypeVar("O_co", covariant=True)


class Hub(Protocol):
    """What a run's handle asks of its engine."""

    async def find(self, run_id: str) -> StoredRun | None: ...

    def live_status(self, run_id: str, stored: Head) -> RunStatus: ...

    async def read(self, run_id: str, after: int = 0) -> list[Outcome]: ...

    async def children_of(self, run_id: str) -> list[StoredRun]: ...

    def follow(self, run_id: str, *, until_end: bool = False) -> asyncio.Event: ...

    def unfollow(self, run_id: str, change: asyncio.Event) -> None: ...

    def result_type(self, record: StoredRecord) -> object: ...

    async def result_bytes(self, run_id: str, head: Head) -> bytes: ...

    async def cancel_run(self, run_id: str, reason: str | None) -> None: ...

    async def resume_run(self, run_id: str, *, accept_divergence: bool) -> None: ...

    async def restart_run(self, run_id: str) -> Run[Any]: ...

    async def fork_run(self, run_id: str, *, before: str, occurrence: int) -> Run[Any]: ...


class Run(Generic[O_co]):
    """One execution of a workflow. Only a handle: two of them may stand for the same run.

    :ivar id: unique in the store
    :ivar workflow: the workflow's name
    :ivar labels: as given to `Engine.start`
    """

    def __init__(self, hub: Hub, record: StoredRecord) -> None:
        self.id = record.run_id
        self.workflow = record.workflow
        self.labels = record.labels
        self._record = record
        self._hub = hub

    def __repr__(self) -> str:
        return f"<Run {self.id!r} of {self.workflow!r}>"

    async def status(self) -> RunStatus:
        """Where it stands now.

        :raises RunNotFoundError: it was pruned meanwhile
        """
        return self._hub.live_status(self.id, (await self._find()).head)

    async def result(self, *, timeout: Duration | None = None) -> O_co:
        """What the workflow returned, once it has: decoded to its return annotation.

        :raises RunFailedError: an exception left the body
        :raises RunCancelledError: it was cancelled (`RunTimeoutError`: by the workflow's own timeout)
        :raises RunDivergedError: the code no longer matches its journal
        :raises TimeoutError: it did not end within *timeout*; the run goes on
        """
        if timeout is None:
            head = await self._ended()
        else:
            async with asyncio.timeout(seconds(timeout)):
                head = await self._ended()
        if head.status is RunStatus.COMPLETED:
            data = await self._hub.result_bytes(self.id, head)
            return cast(O_co, decode_value(data, self._hub.result_type(self._record)))
        raise self._error(head)

    async def history(self) -> list[Outcome]:
        """Its journal, in order."""
        return await self._hub.read(self.id)

    async def watch(self) -> AsyncIterator[Outcome]:
        """Its outcomes from the first one on, then live; ends with the run (or its divergence).

        Leaving the loop early costs nothing and changes nothing.
        """
        seen = 0
        change = self._hub.follow(self.id)
        try:
            while True:
                change.clear()
                head = (await self._find()).head
                if head.length > seen:
                    for outcome in await self._hub.read(self.id, seen):
                        seen = outcome.seq
                        yield outcome
                    continue
                if head.status.is_final or head.status is RunStatus.DIVERGED:
                    return
                await change.wait()  # No deadline: it is the run's own, and the caller can leave at any time.
        finally:
            self._hub.unfollow(self.id, change)

    async def usage(self) -> RunUsage:
        """What its agents have used so far, those of its children included: tokens, and what they cost where known."""
        total = RunUsage()
        waiting = [self.id]
        while waiting:
            run_id = waiting.pop()
            for outcome in await self._hub.read(run_id):
                if isinstance(outcome, StepDone) and outcome.name.endswith(AGENT_STEP):
                    total += decode_value(outcome.value, RunRecord).used()
            waiting += [child.record.run_id for child in await self._hub.children_of(run_id)]
        return total

    async def cancel(self, reason: str | None = None) -> None:
        """Ask it to end: `CancelledError` reaches the body, its children and boxes go. No error when it is over.

        Returns when the request is durable; `result()` waits for the end.
        """
        await self._hub.cancel_run(self.id, reason)

    async def resume(self, *, accept_divergence: bool = False) -> None:
        """Go on from what failed, with the code that is deployed now: what had succeeded is not done again.

        :param accept_divergence: skip recorded outcomes that no longer have a place
        :raises RunStateError: it has neither failed nor diverged
        """
        await self._hub.resume_run(self.id, accept_divergence=accept_divergence)

    async def restart(self) -> Run[O_co]:
        """Begin anew, as a new run with the same payload and labels."""
        return cast("Run[O_co]", await self._hub.restart_run(self.id))

    async def fork(self, *, before: str, occurrence: int = 1) -> Run[O_co]:
        """A new run that shares this one's past up to the call *before*, and makes that call again.

        :raises LookupError: the journal has no outcome of that call
        :raises RunStateError: a box was open at that point
        """
        return cast("Run[O_co]", await self._hub.fork_run(self.id, before=before, occurrence=occurrence))

    async def _find(self) -> StoredRun:
        stored = await self._hub.find(self.id)
        if stored is None:
            raise RunNotFoundError(self.id)
        return stored

    async def _ended(self) -> Head:
        change = self._hub.follow(self.id, until_end=True)
        try:
            while True:
                change.clear()
                head = (await self._find()).head
                if head.status.is_final or head.status is RunStatus.DIVERGED:
                    return head
                await change.wait()  # No deadline: `result(timeout=...)` sets one.
        finally:
            self._hub.unfollow(self.id, change)

    def _error(self, head: Head) -> Exception:
        error = head.error
        match head.status:
            case RunStatus.DIVERGED:
                return RunDivergedError(
                    f"run {self.id!r} of {self.workflow!r} diverged: {error.message if error else ''}",
                    run_id=self.id,
                    error=error,
                )
            case RunStatus.CANCELLED:
                kind = RunTimeoutError if head.timed_out else RunCancelledError
                why = f": {head.reason}" if head.reason else ""
                return kind(
                    f"run {self.id!r} of {self.workflow!r} was cancelled{why}",
                    run_id=self.id,
                    error=error,
                    reason=head.reason,
                )
            case _:
                return RunFailedError(
                    f"run {self.id!r} of {self.workflow!r} failed: {error}; "
                    "mend the cause and `resume()`, or `restart()`",
                    run_id=self.id,
                    error=error,
                )
