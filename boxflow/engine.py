"""Who owns a store and a sandbox, and drives runs? `Engine`, an async context manager to embed in any asyncio app."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast, overload

import attrs

# By their whole names: what they have of boxes is loaded when it is first used, and `Engine.boxes` is something else.
import boxflow.boxes
import boxflow.ports
from boxflow.codec import encode_loose, encode_value
from boxflow.errors import (
    ConfigurationError,
    RunNotFoundError,
    RunStateError,
    StoreError,
    WebhookTokenError,
)
from boxflow.mail import Notified, WebhookRequest, read_token
from boxflow.model import (
    Duration,
    RunStatus,
    seconds,
)
from boxflow.ports import Clock, RunQuery, Store
from boxflow.runs import Run, RunInfo, run_info
from boxflow.webhook_checks import check_call
from boxflow.workflow import I, O, Version, Workflow, encode_payload

if TYPE_CHECKING:
    from boxflow.hub import Hub

MAX_ID_CHARS = 400
"""Ids of runs and events: long enough for children of children, short enough for an index and a URL."""

PAGE = 200
"""How many runs are asked of the store at once."""


class Engine:
    """Drives the runs of some workflows. Use it as `async with Engine([...]) as engine:`, one for each store.

    :param workflows: all that it may run; several versions of one name stand side by side
    :param store: a `Store`, or its URL: `"memory:"`, `"file:state"`
    :param sandbox: a `Sandbox`, or its URL: `"local:"`, `"docker:"`; connected when the first box is used
    :param base_url: where the ASGI routes are reachable from outside, for webhook URLs: `"https://example.org/flow"`
    :param secret: signs webhook tokens; one is made and kept in the store unless given
    :param clock: where it gets its time from; the machine's by default
    :param max_resident_runs: how many runs that only wait stay in memory; 0 evicts each as soon as it waits
    :param max_concurrent_steps: how many steps run at once, over all runs
    :param max_payload_bytes: larger values go to a blob beside the journal
    :param keep_events: how long an event that nobody waits for is kept
    :param max_kept_events: how many are kept; then senders get `EventsFullError`
    :param blocking_limit: a body that holds the thread longer is logged with its line; None turns this off
    :raises DuplicateWorkflowError: two workflows of one name and version
    """

    def __init__(
        self,
        workflows: Iterable[Workflow[Any, Any]],
        *,
        store: Store | str = "memory:",
        sandbox: boxflow.ports.Sandbox | str = "local:",
        base_url: str | None = None,
        secret: str | bytes | None = None,
        clock: Clock | None = None,
        max_resident_runs: int = 1000,
        max_concurrent_steps: int = 256,
        max_payload_bytes: int = 256 * 1024,
        keep_events: Duration = "7d",
        max_kept_events: int = 100_000,
        blocking_limit: Duration | None = 0.1,
    ) -> None:
        # Here, with all that drives runs: a program that only says what its workflows are, or uses boxes alone, does
        # without.
        from boxflow.hub import Hub

        self._hub: Hub = Hub(
            workflows,
            store=store,
            sandbox=sandbox,
            base_url=base_url,
            secret=secret,
            clock=clock,
            max_resident_runs=max_resident_runs,
            max_concurrent_steps=max_concurrent_steps,
            max_payload_bytes=max_payload_bytes,
            keep_events=keep_events,
            max_kept_events=max_kept_events,
            blocking_limit=blocking_limit,
        )
        #: Ids of runs that are being started: of several who start one at once, one has.
        self._starting: set[str] = set()

    @property
    def store(self) -> Store:
        """The store, for what reads it beside the engine."""
        return self._hub.store

    @property
    def base_url(self) -> str:
        """Where the ASGI routes are reachable from outside, without a slash at its end; empty when not known."""
        return self._hub.base_url

    @property
    def boxes(self) -> boxflow.boxes.Boxes:
        """Boxes without a workflow; in a body, use `ctx.box`."""
        return self._hub.boxes

    async def __aenter__(self) -> Self:
        """Open the store, and go on with every run that has something to do.

        :raises StoreLockedError: another process owns the store
        :raises RuntimeError: the engine was entered before; an engine is used once
        """
        await self._hub.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop: steps in flight are cancelled and run again at the next start; nothing recorded is lost."""
        await self._hub.__aexit__(kind, error, traceback)

    @property
    def is_running(self) -> bool:
        """Whether it was entered, and has neither been left nor stopped by a failure."""
        try:
            self._hub.check()
        except StoreError:
            return False
        return True

    async def check(self) -> None:
        """Return when the engine runs and its store takes what is written.

        :raises StoreError: the engine was not entered, has stopped, or its store has failed
        """
        self._hub.check()
        # Changes nothing, but is refused by a store that has failed: reading may well go on there.
        await self._hub.store.change_items([])

    def workflow(self, name: str, version: Version | None = None) -> Workflow[Any, Any]:
        """The workflow of that name: of that version, else the newest.

        :raises WorkflowNotFoundError: this engine does not have it
        """
        return self._hub.find_workflow(name, None if version is None else str(version))

    # --- starting and finding runs ------------------------------------------------------------------------------------

    @overload
    async def start(
        self,
        workflow: Workflow[I, O],
        payload: I = ...,
        *,
        run_id: str | None = None,
        labels: Sequence[str] = (),
        delay: Duration | None = None,
    ) -> Run[O]: ...

    @overload
    async def start(
        self,
        workflow: str,
        payload: object = ...,
        *,
        run_id: str | None = None,
        labels: Sequence[str] = (),
        delay: Duration | None = None,
        version: Version | None = None,
    ) -> Run[Any]: ...

    async def start(
        self,
        workflow: Workflow[Any, Any] | str,
        payload: object = ...,
        *,
        run_id: str | None = None,
        labels: Sequence[str] = (),
        delay: Duration | None = None,
        version: Version | None = None,
    ) -> Run[Any]:
        """Start a run. Durable on return. The same *run_id* again is the same run: it is returned, not started twice.

        The run's `is_new` says which of the two it was.

        :param payload: encoded as the type of the workflow's second parameter
        :param delay: the run begins that much later
        :param version: of the workflow of that name; the newest unless given
        :raises WorkflowNotFoundError: this engine does not have the workflow
        :raises EncodeError: the payload does not fit its type, or cannot be kept
        :raises RunStateError: a run of another workflow has this id
        """
        self._hub.check()
        found = self._hub.find_workflow(workflow, None if version is None else str(version))
        encoded = encode_payload(found, payload)
        run_id = _checked_id(run_id, "run_id")
        if run_id is None:
            stored = await self._hub.create(found, encoded, labels=tuple(labels), delay=delay)
            return Run(self._hub, stored.record, is_new=True)
        is_first = run_id not in self._starting
        self._starting.add(run_id)
        try:
            is_new = is_first and await self._hub.store.get_run(run_id) is None
            stored = await self._hub.create(found, encoded, run_id=run_id, labels=tuple(labels), delay=delay)
        finally:
            if is_first:
                self._starting.discard(run_id)
        return Run(self._hub, stored.record, is_new=is_new)

    @overload
    async def run(
        self,
        workflow: Workflow[I, O],
        payload: I = ...,
        *,
        run_id: str | None = None,
        labels: Sequence[str] = (),
        delay: Duration | None = None,
    ) -> O: ...

    @overload
    async def run(
        self,
        workflow: str,
        payload: object = ...,
        *,
        run_id: str | None = None,
        labels: Sequence[str] = (),
        delay: Duration | None = None,
    ) -> Any: ...

    async def run(
        self,
        workflow: Workflow[Any, Any] | str,
        payload: object = ...,
        *,
        run_id: str | None = None,
        labels: Sequence[str] = (),
        delay: Duration | None = None,
    ) -> Any:
        """Start a run and wait for its result; see `start` and `Run.result`."""
        run = await self.start(workflow, cast(Any, payload), run_id=run_id, labels=labels, delay=delay)
        return await run.result()

    async def get(self, run_id: str) -> Run[Any]:
        """The run of that id.

        :raises RunNotFoundError: there is none
        """
        self._hub.check()
        stored = await self._hub.store.get_run(run_id)
        if stored is None:
            raise RunNotFoundError(run_id)
        return Run(self._hub, stored.record)

    async def runs(
        self,
        *,
        status: RunStatus | str | Collection[RunStatus | str] | None = None,
        workflow: Workflow[Any, Any] | str | None = None,
        label: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Run[Any]]:
        """Runs that match all that is given, newest first: `async for run in engine.runs(status="failed"):`."""
        self._hub.check()
        query = _query(status, workflow, label)
        after, left = None, limit
        while left is None or left > 0:
            page_size = PAGE if left is None else min(left, PAGE)
            page = await self._hub.store.find_runs(attrs.evolve(query, after=after, limit=page_size))
            for stored in page:
                yield Run(self._hub, stored.record)
            if len(page) < page_size:
                return
            after = page[-1].record.run_id
            left = None if left is None else left - len(page)

    async def find_runs(
        self,
        *,
        status: RunStatus | str | Collection[RunStatus | str] | None = None,
        workflow: Workflow[Any, Any] | str | None = None,
        label: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[RunInfo]:
        """How the runs stand that match all that is given, newest first; a page of them.

        :param after: the id of the last run of the page before
        :raises RunNotFoundError: the run *after* is not there any more
        """
        self._hub.check()
        query = attrs.evolve(_query(status, workflow, label), after=after, limit=limit)
        found = await self._hub.store.find_runs(query)
        return [
            run_info(stored.record, stored.head, self._hub.live_status(stored.record.run_id, stored.head))
            for stored in found
        ]

    async def prune(self, older_than: Duration) -> int:
        """Forget the runs that have been over for longer than *older_than*, with their journals; how many they were.

        Children whose parent is not over stay: it may ask how they ended.
        """
        self._hub.check()
        before = self._hub.clock.now() - seconds(older_than)
        over = RunQuery(statuses=frozenset(status for status in RunStatus if status.is_final), limit=PAGE)
        ids: list[str] = []
        while page := await self._hub.store.find_runs(over):
            ids += [stored.record.run_id for stored in page if stored.head.updated_at <= before]
            over = attrs.evolve(over, after=page[-1].record.run_id)
        pruned = 0
        for run_id in ids:
            try:
                await self._hub.forget_run(run_id)
                pruned += 1
            except (RunStateError, RunNotFoundError):
                continue  # It goes on, or somebody else was faster.
        return pruned

    async def notify(self, event_id: str, data: object = None, *, run_id: str | None = None) -> Notified:
        """Send *data* to every run that waits for *event_id*; kept for the next wait when none does. Durable on return.

        :param run_id: send it to that run only; it is kept in the run's own mailbox, in order
        :raises RunNotFoundError: no run of that id
        :raises RunEndedError: that run is over
        :raises EventsFullError: too many events are kept already
        """
        self._hub.check()
        _checked_id(event_id, "event_id")
        encoded = encode_loose(data)
        if run_id is None:
            return await self._hub.mailroom.notify(event_id, encoded)
        return await self._hub.mailroom.send(run_id, "event", event_id, encoded)

    async def deliver_webhook(self, token: str, call: WebhookRequest) -> Notified:
        """Hand a call of a webhook to its run, or keep it for the run's next wait. Durable on return.

        A call whose id has come before is not delivered again, and answered with nothing woken and nothing kept. The id
        is what the webhook's `verify=` finds; without that, the header `Idempotency-Key` or `webhook-id`.

        :raises WebhookTokenError: the token was not issued by this engine, or its run is gone
        :raises WebhookRefusedError: the call does not pass the check that the webhook was made with
        :raises WebhookUnverifiableError: it cannot be checked here: the variable with the secret is not set
        :raises RunEndedError: its run is over
        :raises EventsFullError: too many calls are kept already
        """
        self._hub.check()
        assert self._hub.secret is not None
        address = read_token(self._hub.secret, token)
        call_id = await check_call(address, call, now=self._hub.clock.now())
        data = encode_value(call, WebhookRequest)
        try:
            return await self._hub.mailroom.send(address.run_id, "webhook", address.name, data, call_id=call_id)
        except RunNotFoundError as error:
            raise WebhookTokenError from error


def _query(
    status: RunStatus | str | Collection[RunStatus | str] | None,
    workflow: Workflow[Any, Any] | str | None,
    label: str | None,
) -> RunQuery:
    statuses = None
    if status is not None:
        given = [status] if isinstance(status, str) else status
        statuses = frozenset(RunStatus(one) for one in given)
    name = workflow.name if isinstance(workflow, Workflow) else workflow
    return RunQuery(statuses=statuses, workflow=name, label=label)


@overload
def _checked_id(text: str, what: str) -> str: ...


@overload
def _checked_id(text: str | None, what: str) -> str | None: ...


def _checked_id(text: str | None, what: str) -> str | None:
    if text is not None and not _is_id(text):
        raise ConfigurationError(f"{what}={text!r} must be a printable text of 1 to {MAX_ID_CHARS} characters")
    return text


def _is_id(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= MAX_ID_CHARS and text.isprintable()
