"""Who owns a store and a sandbox, and drives runs? `Engine`, an async context manager to embed in any asyncio app."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, cast, overload

from boxflow.boxes import Boxes
from boxflow.codec import encode_loose, encode_value
from boxflow.errors import (
    ConfigurationError,
    RunNotFoundError,
    WebhookTokenError,
)
from boxflow.hub import Hub
from boxflow.mail import Notified, WebhookRequest, read_token
from boxflow.model import (
    Duration,
    RunStatus,
)
from boxflow.ports import Clock, RunQuery, Sandbox, Store
from boxflow.runs import Run
from boxflow.workflow import I, O, Workflow, encode_payload

MAX_ID_CHARS = 400
"""Ids of runs and events: long enough for children of children, short enough for an index and a URL."""


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
        sandbox: Sandbox | str = "local:",
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
        self._hub = Hub(
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

    @property
    def store(self) -> Store:
        """The store, for what reads it beside the engine."""
        return self._hub.store

    @property
    def boxes(self) -> Boxes:
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
    ) -> Run[Any]: ...

    async def start(
        self,
        workflow: Workflow[Any, Any] | str,
        payload: object = ...,
        *,
        run_id: str | None = None,
        labels: Sequence[str] = (),
        delay: Duration | None = None,
    ) -> Run[Any]:
        """Start a run. Durable on return. The same *run_id* again is the same run: it is returned, not started twice.

        :param payload: encoded as the type of the workflow's second parameter
        :param delay: the run begins that much later
        :raises WorkflowNotFoundError: this engine does not have the workflow
        :raises EncodeError: the payload does not fit its type, or cannot be kept
        :raises RunStateError: a run of another workflow has this id
        """
        self._hub.check()
        found = self._hub.find_workflow(workflow)
        stored = await self._hub.create(
            found,
            encode_payload(found, payload),
            run_id=_checked_id(run_id, "run_id"),
            labels=tuple(labels),
            delay=delay,
        )
        return Run(self._hub, stored.record)

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
        statuses = None
        if status is not None:
            given = [status] if isinstance(status, str) else status
            statuses = frozenset(RunStatus(one) for one in given)
        name = workflow.name if isinstance(workflow, Workflow) else workflow
        after, left = None, limit
        while left is None or left > 0:
            page_size = 200 if left is None else min(left, 200)
            query = RunQuery(statuses=statuses, workflow=name, label=label, after=after, limit=page_size)
            page = await self._hub.store.find_runs(query)
            for stored in page:
                yield Run(self._hub, stored.record)
            if len(page) < page_size:
                return
            after = page[-1].record.run_id
            left = None if left is None else left - len(page)

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

        :raises WebhookTokenError: the token was not issued by this engine, or its run is gone
        :raises RunEndedError: its run is over
        """
        self._hub.check()
        assert self._hub.secret is not None
        run_id, name = read_token(self._hub.secret, token)
        data = encode_value(call, WebhookRequest)
        try:
            return await self._hub.mailroom.send(run_id, "webhook", name, data)
        except RunNotFoundError as error:
            raise WebhookTokenError from error


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
