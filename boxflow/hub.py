"""How do the parts of an engine reach each other? `Hub`, behind the public `Engine`.

Each part answers one question, and declares as a Protocol of its own what it asks of the hub:

    residents.py    which runs are in memory?          runner.py      how does one of them go on?
    mailroom.py     how does mail find its wait?       steps.py       how is a step run?
    children.py     how do runs find their children?   job_steps.py   which steps go on without their run?
    steering.py     how is a run cancelled, resumed, forked?
    timekeeper.py   what is due when?                  box_keeper.py  which boxes must go?
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import attrs
import msgspec

from boxflow.agent_deliveries import AgentDeliveries
from boxflow.box_keeper import RecordedSandbox, box_id_for
from boxflow.boxes import Box, Boxes, BoxSpec, Models, with_way
from boxflow.children import Children
from boxflow.codec import decode_value
from boxflow.errors import (
    BoxflowError,
    ConfigurationError,
    RunNotFoundError,
    RunStateError,
    SandboxError,
    StoreClosedError,
    StoreFailedError,
)
from boxflow.execution import Execution
from boxflow.failure import printable
from boxflow.job_steps import JobSteps
from boxflow.journal import ChildCall, MailWait, Operation, StepCall
from boxflow.mail import Notified, Webhook, WebhookCheck, make_token
from boxflow.mailroom import Mailroom
from boxflow.model import (
    Change,
    Duration,
    Head,
    Item,
    Outcome,
    Put,
    RunRecord,
    RunStatus,
    Value,
    microseconds,
    seconds,
)
from boxflow.monitor import BlockingMonitor
from boxflow.plugins import resolve_store
from boxflow.ports import Clock, RunQuery, Sandbox, Store, StoredRun
from boxflow.registry import Registry
from boxflow.residents import Residents
from boxflow.runner import Runner
from boxflow.runs import Run
from boxflow.seams import Seams
from boxflow.steering import Steering
from boxflow.steps import Raised, Returned, Slots, attempt
from boxflow.store_keep import StoreKeep
from boxflow.timekeeper import SystemClock, Timekeeper, in_background
from boxflow.web import Response, request
from boxflow.workflow import Workflow

T = TypeVar("T")

log = logging.getLogger("boxflow")

MODELS = "models"
"""The collection of the model gateway: the runs that it serves, and what they have spent."""

SETTINGS = "settings"
"""The collection of what an engine remembers about itself: its id, its secret."""

HOUSEKEEPING_S = 60.0
"""How often boxes past their ttl and expired events are looked for."""


class Hub:
    """What an engine's parts ask of each other, of the store, the clock and the sandbox. `Engine` is its public face.

    Parameters are those of `Engine`.
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
        if max_resident_runs < 0:
            raise ConfigurationError(f"max_resident_runs={max_resident_runs} must not be negative")
        if max_concurrent_steps < 1:
            raise ConfigurationError(f"max_concurrent_steps={max_concurrent_steps} must be at least 1")
        self._registry = Registry(workflows)
        self.store: Store = resolve_store(store)
        self.clock: Clock = clock or SystemClock()
        self.max_payload_bytes = max_payload_bytes
        self.base_url = (base_url or "").rstrip("/")
        self.secret = secret.encode() if isinstance(secret, str) else secret
        self._sandbox = RecordedSandbox(sandbox, self.store, self.clock)
        #: How agents reach their models.
        self.models = Models(StoreKeep(self.store, MODELS))
        #: Boxes without a workflow; in a body, use `ctx.box`.
        self.boxes = Boxes(self._sandbox, models=self.models)
        self.owner = os.urandom(8).hex()
        self.mailroom = Mailroom(self, keep_s=seconds(keep_events), max_kept=max_kept_events)
        self._deliveries = AgentDeliveries(self, self.mailroom, self._sandbox, self.models)
        self._sandbox.deliver = self._deliveries.add
        self._timekeeper = Timekeeper(self.clock, self._ring)
        self._residents = Residents(self, limit=max_resident_runs)
        self._children = Children(self)
        self._steering = Steering(self, self.mailroom)
        self._monitor = None if blocking_limit is None else BlockingMonitor(seconds(blocking_limit))
        self._slots = Slots(max_concurrent_steps)
        self._threads = anyio.CapacityLimiter(max_concurrent_steps)
        self._job_steps = JobSteps(self, self._threads)
        self._jitter = random.Random()
        #: What stands in for the world, in tests; None in life.
        self.seams: Seams | None = None
        #: What a run in memory is made by; a test kit has one that looks over its shoulder.
        self.execution_type: Callable[..., Execution] = Execution
        self._tasks: set[asyncio.Task[Any]] = set()
        self._followers: dict[str, set[asyncio.Event]] = {}
        self._ending: dict[str, set[asyncio.Event]] = {}
        self._context = contextvars.Context()
        self._variables: tuple[tuple[contextvars.ContextVar[Any], Any], ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._broken: BaseException | None = None
        self._stack = contextlib.AsyncExitStack()

    # --- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the store, and go on with every run that has something to do.

        :raises StoreLockedError: another process owns the store
        :raises RuntimeError: the engine was entered before; an engine is used once
        """
        if self._loop is not None:
            raise RuntimeError("this engine was entered before; make a new Engine for another `async with`")
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._variables = tuple(self._context.items())
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.store)
            await stack.enter_async_context(self._sandbox)
            stack.push_async_callback(self.models.aclose)
            stack.push_async_callback(self._stop)
            if self._monitor is not None:
                self._monitor.start()
                stack.callback(self._monitor.stop)
            await self._remember()
            self.spawn(self._timekeeper.run())
            await self._recover()
            self.spawn(self._keep_house())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop: steps in flight are cancelled and run again at the next start; nothing recorded is lost."""
        await self._stack.__aexit__(kind, error, traceback)

    async def _stop(self) -> None:
        self._broken = self._broken or StoreClosedError("the engine has been stopped")
        self._residents.leave_all()
        # Those that are done already must not count: gathering them does not suspend, and nothing would ever go on.
        while tasks := [task for task in self._tasks if not task.done() and task is not asyncio.current_task()]:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._residents.leave_all()
        self._wake_followers()

    async def _remember(self) -> None:
        """Read, or make and keep, the engine's id and secret."""
        self._sandbox.engine_id = await self._setting("engine_id", os.urandom(8).hex())
        if self.secret is None:
            self.secret = bytes.fromhex(await self._setting("webhook_secret", os.urandom(32).hex()))
        self.models.use_secret(self.secret)

    async def _setting(self, key: str, default: str) -> str:
        item = await self.store.get_item(SETTINGS, key)
        if item is not None:
            return msgspec.json.decode(item.value, type=str)
        put = Put(Item(collection=SETTINGS, key=key, value=Value(msgspec.json.encode(default))))
        await self.store.change_items([put])
        return default

    async def _recover(self) -> None:
        """Rouse what was running, set the timers of what waits, hand over what was kept, delete what nobody owns."""
        await self.mailroom.recover()
        driven = await self._find_all(RunQuery(statuses=frozenset({RunStatus.PENDING, RunStatus.RUNNING})))
        for stored in reversed(driven):
            self.launch(stored.record, stored.head)
        page = await self._take_up_waiting(None)
        if page:
            # A million runs that wait are no reason to begin late.
            self.spawn(self._take_up_more(page))
        self.spawn(self._look_after_boxes())

    async def _take_up_more(self, page: Sequence[StoredRun]) -> None:
        in_background.set(True)
        while page:
            for last in reversed(page):
                with contextlib.suppress(RunNotFoundError):  # It was pruned meanwhile: go on behind the one before.
                    page = await self._take_up_waiting(last.record.run_id)
                    break
            else:
                return

    async def _take_up_waiting(self, after: str | None) -> Sequence[StoredRun]:
        """Set the timers of a page of the runs that wait; the page, unless it is the last one."""
        query = RunQuery(statuses=frozenset({RunStatus.WAITING}), after=after)
        page = await self.store.find_runs(query)
        for stored in page:
            run_id = stored.record.run_id
            if stored.head.due is not None:
                self._timekeeper.set(stored.head.due, run_id)
            if any(token.startswith(("child:", "job:")) for token in stored.head.waiting):
                # A child or a job may have ended without the run having heard of it.
                self._residents.rouse_soon(run_id)
        return page if len(page) == query.limit else ()

    async def _look_after_boxes(self) -> None:
        await self._reap()
        try:
            await self.models.recover()
        except BoxflowError as error:
            log.warning("the model gateway does not serve the agents of an earlier life: %s", error)
        await self._deliveries.recover()
        try:
            await self._sandbox.attach_served()
        except SandboxError as error:
            log.warning("boxes with a gate cannot be served: %s", error)

    async def _reap(self) -> None:
        try:
            await self._sandbox.reap()
        except BoxflowError as error:
            if isinstance(error, StoreClosedError | StoreFailedError):
                raise
            log.warning("boxes could not be looked after, will be tried again: %s", error)

    async def _find_all(self, query: RunQuery) -> list[StoredRun]:
        found: list[StoredRun] = []
        while page := await self.store.find_runs(query):
            found += page
            if len(page) < query.limit:
                break
            query = attrs.evolve(query, after=page[-1].record.run_id)
        return found

    async def _keep_house(self) -> None:
        in_background.set(True)
        while True:
            await self.clock.sleep_until(self.clock.now() + HOUSEKEEPING_S)
            await self.mailroom.drop_expired()
            await self._reap()

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of the engine's own: it ends with the engine, and what it raises is not lost."""
        assert self._loop is not None
        # The engine's own context: what a request has in its context variables is none of a step's business.
        task = self._loop.create_task(coroutine, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def is_as_spawned(self, task: asyncio.Task[Any]) -> bool:
        """Whether what has run in *task*, which is the current one, has left nothing behind for what follows."""
        context = contextvars.copy_context()
        if len(context) != len(self._variables) or task.cancelling():
            return False
        return not self._variables or all(context.get(variable) is value for variable, value in self._variables)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.broke(error)

    def broke(self, error: BaseException) -> None:
        """Something that must not fail did: take nothing more, and tell everybody who waits."""
        if self._broken is not None:
            return
        self._broken = error
        log.error("the engine stops, nothing more is recorded: %s", error, exc_info=error)
        self._residents.leave_all()
        self._wake_followers()

    def check(self) -> None:
        if self._loop is None:
            raise StoreClosedError("the engine is not running; use it inside `async with Engine(...) as engine:`")
        if self._broken is not None:
            if isinstance(self._broken, StoreClosedError | StoreFailedError):
                raise self._broken
            raise StoreFailedError(f"the engine has stopped: {self._broken}; start a new one") from self._broken

    # --- what runs ask (runs.Hub) -------------------------------------------------------------------------------------

    async def find(self, run_id: str) -> StoredRun | None:
        self.check()
        if self.seams is not None:
            self.seams.followed(run_id)
        return await self.store.get_run(run_id)

    def live_status(self, run_id: str, stored: Head) -> RunStatus:
        runner = self._residents.get(run_id)
        if runner is None or stored.status.is_final:
            return stored.status
        return RunStatus.RUNNING if runner.in_flight or not runner.is_settled else RunStatus.WAITING

    async def read(self, run_id: str, after: int = 0) -> list[Outcome]:
        self.check()
        return await self._with_blobs(run_id, await self.store.read_journal(run_id, after=after))

    async def read_lean(self, run_id: str, after: int) -> Sequence[Outcome]:
        """As `read`, with large values left where they are; `filled` fetches them."""
        self.check()
        return await self.store.read_journal(run_id, after=after)

    async def filled(self, run_id: str, outcome: Outcome) -> Outcome:
        """*outcome* with its value in it."""
        blob = getattr(outcome, "blob", None)
        if blob is None:
            return outcome
        return msgspec.structs.replace(outcome, value=Value(await self.store.get_blob(run_id, blob)))

    async def children_of(self, run_id: str) -> list[StoredRun]:
        return await self._find_all(RunQuery(parent=run_id))

    def follow(self, run_id: str, *, until_end: bool = False) -> asyncio.Event:
        change = asyncio.Event()
        followers = self._ending if until_end else self._followers
        followers.setdefault(run_id, set()).add(change)
        return change

    @property
    def followed(self) -> list[str]:
        """The runs of which somebody waits for news."""
        return list({**self._followers, **self._ending})

    def unfollow(self, run_id: str, change: asyncio.Event) -> None:
        for followers in (self._ending, self._followers):
            changes = followers.get(run_id)
            if changes is not None:
                changes.discard(change)
                if not changes:
                    del followers[run_id]

    def changed(self, run_id: str, *, ended: bool = False) -> None:
        """The run's journal or head has changed; *ended*: it will not go on by itself."""
        for change in self._followers.get(run_id, ()):
            change.set()
        if ended:
            for change in self._ending.get(run_id, ()):
                change.set()

    def _wake_followers(self) -> None:
        for run_id in [*self._followers, *self._ending]:
            self.changed(run_id, ended=True)

    def result_type(self, record: RunRecord) -> object:
        found = self._registry.get(record.workflow, record.version)
        return Any if found is None else found.return_type

    async def result_bytes(self, run_id: str, head: Head) -> bytes:
        if head.result_blob is not None:
            return await self.store.get_blob(run_id, head.result_blob)
        return bytes(head.result)

    async def cancel_run(self, run_id: str, reason: str | None, *, once: bool = False) -> None:
        await self._steering.cancel(run_id, None if reason is None else printable(reason), once=once)

    async def resume_run(self, run_id: str, *, accept_divergence: bool) -> None:
        await self._steering.resume(run_id, accept_divergence=accept_divergence)

    async def restart_run(self, run_id: str) -> Run[Any]:
        record = (await self._steering.stored(run_id)).record
        found, payload = self.find_workflow(record.workflow), await self._payload_bytes(record)
        return Run(self, (await self.create(found, payload, labels=record.labels)).record)

    async def fork_run(self, run_id: str, *, before: str, occurrence: int) -> Run[Any]:
        return Run(self, await self._steering.fork(run_id, before=before, occurrence=occurrence))

    async def forget_run(self, run_id: str) -> None:
        await self._steering.forget(run_id)

    # --- creating and launching ---------------------------------------------------------------------------------------

    async def create(
        self,
        found: Workflow[Any, Any],
        payload: bytes,
        *,
        labels: tuple[str, ...],
        run_id: str | None = None,
        delay: Duration | None = None,
        parent: str | None = None,
    ) -> StoredRun:
        now = microseconds(self.clock.now())
        start_at = now if delay is None else round(now + seconds(delay), 6)
        run_id = run_id or self.new_id()
        value, blob = Value(payload), None
        if len(payload) > self.max_payload_bytes:
            value, blob = Value(b"null"), await self.store.put_blob(run_id, payload)
        record = RunRecord(
            run_id=run_id,
            workflow=found.name,
            version=found.version,
            payload=value,
            payload_blob=blob,
            labels=labels,
            created_at=now,
            start_at=start_at,
            parent=parent,
        )
        head = Head(updated_at=now, due=start_at if start_at > now else None)
        stored = await self.store.create_run(record, head)
        if stored.record.workflow != found.name:
            raise RunStateError(
                f"run {run_id!r} exists already, of workflow {stored.record.workflow!r}; choose another run_id"
            )
        if stored.head.status is RunStatus.PENDING and self._residents.get(run_id) is None:
            self.launch(stored.record, stored.head)
        return stored

    async def create_run(
        self, found: Workflow[Any, Any], payload: bytes, *, run_id: str, labels: tuple[str, ...], parent: str
    ) -> StoredRun:
        """Create a child run, or find it."""
        return await self.create(found, payload, run_id=run_id, labels=labels, parent=parent)

    def launch(self, record: RunRecord, head: Head) -> None:
        if head.status is RunStatus.PENDING and record.start_at > self.clock.now():
            self._timekeeper.set(record.start_at, record.run_id)
        else:
            self._residents.rouse_soon(record.run_id)

    def new_id(self) -> str:
        # Sorts by time, like a UUID of version 7 (RFC 9562 §5.7): 48 bits of milliseconds, then randomness.
        return f"{int(self.clock.now() * 1000) & 0xFFFFFFFFFFFF:012x}{os.urandom(8).hex()}"

    async def _payload_bytes(self, record: RunRecord) -> bytes:
        if record.payload_blob is not None:
            return await self.store.get_blob(record.run_id, record.payload_blob)
        return bytes(record.payload)

    async def _with_blobs(self, run_id: str, outcomes: Sequence[Outcome]) -> list[Outcome]:
        return [await self.filled(run_id, outcome) for outcome in outcomes]

    # --- what residents and runners ask -------------------------------------------------------------------------------

    def resident(self, run_id: str) -> Runner | None:
        """The run, when it is in memory."""
        return self._residents.get(run_id)

    async def rouse(self, run_id: str) -> Runner | None:
        """The run, in memory; None when it is over, diverged, or has no code here."""
        self.check()
        return await self._residents.rouse(run_id)

    def hold(self, run_id: str) -> AbstractAsyncContextManager[Runner | None]:
        """The run, as `rouse` brings it, kept in memory for as long as the block takes."""
        self.check()
        return self._residents.hold(run_id)

    def execution(self, record: RunRecord, found: Workflow[Any, Any], payload: Any) -> Execution:
        """A new execution of that run, on a loop that is watched."""
        if self.seams is not None:
            found = self.seams.body(record, found)
        if self._monitor is None:
            return self.execution_type(record, found, payload, self)
        return self.execution_type(record, found, payload, self, drain=self._monitor.drain)

    async def scratch(self, record: RunRecord) -> Execution:
        """An execution that is only asked, never driven."""
        found = self.find_workflow(record.workflow, record.version)
        return self.execution(record, found, decode_value(await self._payload_bytes(record), found.payload_type))

    def on_host(self, callback: Any) -> None:
        """Call *callback* in the host's thread, from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback)

    def idle(self, runner: Runner) -> None:
        self._residents.idle(runner)

    def retire(self, runner: Runner) -> None:
        self._residents.leave(runner)

    async def diverge(self, runner: Runner, error: Exception) -> None:
        await self._residents.diverge(runner, error)

    def _ring(self, run_id: str) -> None:
        runner = self._residents.get(run_id)
        if runner is not None:
            runner.wake()
        else:
            self._residents.rouse_soon(run_id)

    def ring_at(self, when: float, run_id: str) -> None:
        self._timekeeper.set(when, run_id)

    async def perform(self, runner: Runner, call: StepCall, number: int) -> Returned | Raised:
        if not self._slots.take():
            await self._slots.wait()
        try:
            retry, fn = runner.execution.workflow.retry, self.function(runner.run_id, call, number)
            return await attempt(runner.run_id, call, number, retry, self.jitter(), self._threads, fn)
        finally:
            self._slots.give()

    def function(self, run_id: str, call: StepCall, number: int) -> Callable[..., Any]:
        """What is called for attempt *number* of a step."""
        return call.fn if self.seams is None else self.seams.function(run_id, call, number)

    def await_mail(self, runner: Runner, wait: MailWait) -> None:
        self.mailroom.await_mail(runner, wait)
        if self.seams is not None:
            self.seams.begun(runner.run_id, wait)

    def await_child(self, runner: Runner, call: ChildCall) -> None:
        self._children.await_child(runner, call)

    def await_job(self, runner: Runner, call: StepCall) -> None:
        self._job_steps.wait(runner, call)

    def jitter(self) -> float:
        """A random number in [0, 1), for pauses between attempts."""
        return self._jitter.random() if self.seams is None else self.seams.jitter()

    def forget_wait(self, runner: Runner, operation: Operation) -> None:
        if isinstance(operation, MailWait):
            self.mailroom.forget(operation)
        elif isinstance(operation, ChildCall):
            if runner.is_over:
                self._children.forget(operation)
            else:
                self._children.give_up(runner, operation)
        elif isinstance(operation, StepCall) and operation.is_job:
            if runner.is_over:
                self._job_steps.forget(runner, operation)
            else:
                self._job_steps.give_up(runner, operation)

    async def closing_changes(self, run_id: str) -> Sequence[Change]:
        return await self.mailroom.closing_changes(run_id)

    def ended(self, runner: Runner) -> None:
        self._residents.leave(runner)
        self._job_steps.over(runner.run_id)
        self.spawn(self._children.tell_parents(runner.run_id, runner.head))

    async def over(self, run_id: str, head: Head) -> None:
        """A run has ended that was not in memory."""
        self.changed(run_id, ended=True)
        await self._children.tell_parents(run_id, head)
        await self._reap()

    # --- what contexts ask (context.Services) -------------------------------------------------------------------------

    def find_workflow(self, workflow: Workflow[Any, Any] | str, version: str | None = None) -> Workflow[Any, Any]:
        """The registered workflow: that very one, or the newest version of a name.

        :raises WorkflowNotFoundError: it is not registered with this engine
        """
        if self.seams is not None and (unregistered := self.seams.workflow(workflow, version)) is not None:
            self._registry.add(unregistered)
        return self._registry.find(workflow, version)

    def webhook(self, run_id: str, key: str, check: WebhookCheck | None) -> Webhook:
        assert self.secret is not None
        token = make_token(self.secret, run_id, key, check)
        return Webhook(name=key, url=f"{self.base_url}/webhooks/{token}", token=token)

    async def send(self, event_id: str, data: bytes, *, run_id: str | None, source: str) -> Notified:
        if run_id is None:
            return await self.mailroom.notify(event_id, data, source=source)
        return await self.mailroom.send(run_id, "event", event_id, data, source=source)

    async def create_box(self, run_id: str, box_id: str, name: str, spec: BoxSpec) -> None:
        await self._sandbox.create_for_run(run_id, box_id, name, await self.models.prepared(spec, self._sandbox))

    async def delete_box(self, run_id: str, box_id: str) -> None:
        await self._sandbox.delete(box_id)

    def box(self, box_id: str, name: str, spec: BoxSpec) -> Box:
        spec = with_way(spec, self._sandbox)
        return Box(self._sandbox, box_id=box_id, name=name, spec=spec, models=self.models)

    def box_id(self, run_id: str, name: str, occurrence: int) -> str:
        return box_id_for(run_id, name, occurrence)

    async def call(
        self,
        url: str,
        method: str,
        headers: Mapping[str, str],
        json: bytes | None,
        content: bytes | None,
        timeout_s: float,
        *,
        max_bytes: int | None = None,
    ) -> Response:
        if self.seams is not None:
            return await self.seams.call(url, method, headers, content if json is None else json)
        limit = max_bytes or 64 * self.max_payload_bytes
        return await request(url, method, headers, json, content, timeout_s, max_bytes=limit)
