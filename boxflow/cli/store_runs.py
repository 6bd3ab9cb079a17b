"""The runs of a store: read beside its owner; changed by an engine of this process, where no other owns the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final, NoReturn

import msgspec

from boxflow import Engine, Run, RunStatus
from boxflow.asgi.documents import outcome_document
from boxflow.cli.clients import Document, Ended, Happened, RunsWanted
from boxflow.cli.documents import as_document, stored_document
from boxflow.cli.failures import CommandError
from boxflow.cli.printing import say
from boxflow.errors import BoxflowError, RunNotFoundError
from boxflow.history_file import dump_history, read_history
from boxflow.model import Outcome, Value, seconds
from boxflow.ports import RunQuery, Store, StoredRun

_FINAL: Final = frozenset(status for status in RunStatus if status.is_final)

# How often a store that another process writes is looked at: each look reads what is new since its last checkpoint.
_LOOK_S: Final = 0.5
# How often a run of an engine of this process is asked whether it still has something to do.
_ASK_S: Final = 0.05
_PAGE: Final = 500

OpenStore = Callable[[], AbstractAsyncContextManager[Store]]


def always(store: Store) -> OpenStore:
    """*store*, which is open already."""
    return lambda: nullcontext(store)


class StoreRuns:
    """Runs in a store.

    :param open_store: the store as it stands now
    :param engine: what changes runs; None refuses changes
    """

    def __init__(self, open_store: OpenStore, engine: Engine | None = None) -> None:
        self._open = open_store
        self._engine = engine

    # --- reading ------------------------------------------------------------------------------------------------------

    async def list_runs(self, wanted: RunsWanted) -> Document:
        statuses = frozenset(RunStatus(one) for one in wanted.statuses) or None
        # One more than is shown tells whether there are more.
        query = RunQuery(
            statuses=statuses,
            workflow=wanted.workflow,
            label=wanted.label,
            after=wanted.cursor,
            limit=wanted.limit + 1,
        )
        async with self._open() as store:
            found = await store.find_runs(query)
            shown = found[: wanted.limit]
            runs = [stored_document(one) for one in shown]
        return {"runs": runs, "next_cursor": shown[-1].record.run_id if len(found) > len(shown) else None}

    async def run(self, run_id: str) -> Document:
        async with self._open() as store:
            return await _document(store, await _stored(store, run_id))

    async def history(self, run_id: str, *, after: int, limit: int) -> Document:
        async with self._open() as store:
            outcomes = await store.read_journal(run_id, after=after)
            shown = outcomes[:limit]
            documents = await _outcomes(store, run_id, shown)
        return {"outcomes": documents, "next_after": shown[-1].seq if len(outcomes) > len(shown) else None}

    async def watch(self, run_id: str, *, after: int) -> AsyncGenerator[Happened | Ended]:
        while True:
            async with self._open() as store:
                # The head first: what is appended behind it is seen by the next look.
                stored = await _stored(store, run_id)
                new = (await store.read_journal(run_id, after=after)) if stored.head.length > after else ()
                documents = await _outcomes(store, run_id, new)
                run = await _document(store, stored)
            for document in documents:
                yield Happened(document)
            after = new[-1].seq if new else after
            status = stored.head.status
            if (status.is_final or status is RunStatus.DIVERGED) and after >= stored.head.length:
                yield Ended(run)
                return
            await asyncio.sleep(_LOOK_S)

    async def export(self, run_id: str) -> bytes:
        async with self._open() as store:
            return dump_history(await read_history(store, run_id))

    # --- changing -----------------------------------------------------------------------------------------------------

    async def cancel(self, run_id: str, reason: str | None) -> Document:
        run = await self._changeable("cancelled", run_id)
        await run.cancel(reason)
        return await self._settled(run)

    async def resume(self, run_id: str, *, accept_divergence: bool) -> Document:
        run = await self._changeable("resumed", run_id)
        await run.resume(accept_divergence=accept_divergence)
        return await self._settled(run)

    async def restart(self, run_id: str) -> Document:
        run = await self._changeable("restarted", run_id)
        return await self._settled(await run.restart())

    async def fork(self, run_id: str, *, before: str, occurrence: int) -> Document:
        run = await self._changeable("forked", run_id)
        try:
            forked = await run.fork(before=before, occurrence=occurrence)
        except BoxflowError:
            raise
        except LookupError as error:
            raise CommandError(str(error)) from error
        return await self._settled(forked)

    async def notify(self, event_id: str, data: object, *, run_id: str | None) -> Document:
        if self._engine is None:
            _refuse("events are sent")
        notified = await self._engine.notify(event_id, data, run_id=run_id)
        for woken in notified.run_ids:
            await self._settled(await self._engine.get(woken))
        return {"run_ids": list(notified.run_ids), "kept": notified.kept}

    async def prune(self, older_than: str) -> Document:
        before = time.time() - seconds(older_than)
        async with self._open() as store:
            over = [run_id async for run_id in _over_before(store, before)]
            for run_id in over:
                await store.delete_run(run_id)
        return {"pruned": len(over)}

    async def _changeable(self, how: str, run_id: str) -> Run[object]:
        if self._engine is None:
            _refuse(f"runs are {how}")
        return await self._engine.get(run_id)

    async def _settled(self, run: Run[object]) -> Document:
        """Drive the run until it is over, or only waits for what comes from outside.

        This process is the engine now: nobody else would go on with it.
        """
        assert self._engine is not None
        # No deadline: it takes as long as the run's steps do. Ctrl-C leaves earlier, and what was recorded stays.
        while not await _is_settled(self._engine, run):  # noqa: ASYNC110  # nothing tells that a run settles
            await asyncio.sleep(_ASK_S)
        document = await self.run(run.id)
        if document["status"] == RunStatus.WAITING:
            say(f"run {run.id} waits, and goes on when an engine runs: `boxflow serve`, or your app")
        return document


async def _is_settled(engine: Engine, run: Run[object]) -> bool:
    status = await run.status()
    if status is not RunStatus.WAITING:
        return status.is_final or status is RunStatus.DIVERGED
    stored = await _stored(engine.store, run.id)
    for token in stored.head.waiting:
        kind, _, child_id = token.partition(":")
        if kind == "child" and not await _is_settled(engine, await engine.get(child_id)):
            return False
    return True


def _refuse(what: str) -> NoReturn:
    raise CommandError(
        f"{what} by an engine, which has the code: name it with --app module:engine, "
        "or give the address of the one that runs with --url"
    )


async def _stored(store: Store, run_id: str) -> StoredRun:
    stored = await store.get_run(run_id)
    if stored is None:
        raise RunNotFoundError(run_id)
    return stored


async def _document(store: Store, stored: StoredRun) -> Document:
    head = stored.head
    if head.status is not RunStatus.COMPLETED:
        return stored_document(stored)
    blob = head.result_blob
    return stored_document(
        stored, bytes(head.result) if blob is None else await store.get_blob(stored.record.run_id, blob)
    )


async def _outcomes(store: Store, run_id: str, outcomes: Sequence[Outcome]) -> list[Document]:
    documents: list[Document] = []
    for outcome in outcomes:
        blob = getattr(outcome, "blob", None)
        if blob is not None:
            value = Value(await store.get_blob(run_id, blob))
            documents.append(as_document(outcome_document(msgspec.structs.replace(outcome, value=value))))
        else:
            documents.append(as_document(outcome_document(outcome)))
    return documents


async def _over_before(store: Store, before: float) -> AsyncGenerator[str]:
    """The finished runs that have not changed since, children only when their parent will ask for them no more."""
    query = RunQuery(statuses=_FINAL, limit=_PAGE)
    while found := await store.find_runs(query):
        for one in found:
            if one.head.updated_at <= before and await _is_nobodys_child(store, one.record.parent):
                yield one.record.run_id
        if len(found) < _PAGE:
            return
        query = RunQuery(statuses=_FINAL, limit=_PAGE, after=found[-1].record.run_id)


async def _is_nobodys_child(store: Store, parent_id: str | None) -> bool:
    if parent_id is None:
        return True
    parent = await store.get_run(parent_id)
    return parent is None or parent.head.status.is_final
