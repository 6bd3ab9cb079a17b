"""How is a workflow tested offline? In a `World`: an engine in memory, a clock that jumps, a script of what happens.

async with World() as world:
world.replace("publish", lambda text: "https://example.org/1")
world.when_waiting("review", Verdict(approved=True), after="2d")
assert await world.run(article, "boxes") == "https://example.org/1"
assert world.now - START == timedelta(days=2)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack, cast, overload

from boxflow.boxes import Boxes
from boxflow.codec import encode_loose, encode_value
from boxflow.engine import Engine
from boxflow.errors import RunEndedError, RunNotFoundError
from boxflow.hub import Hub
from boxflow.journal import MailWait
from boxflow.mail import Notified, WebhookRequest
from boxflow.model import Duration, seconds
from boxflow.plugins import resolve_store
from boxflow.ports import Sandbox, Store
from boxflow.runs import Run
from boxflow.testing.auditing import Audit
from boxflow.testing.errors import WorldError
from boxflow.testing.fake_sandbox import FakeSandbox
from boxflow.testing.idleness import Idleness, own_clock
from boxflow.testing.real_backends import AtWork
from boxflow.testing.rules import Rule
from boxflow.testing.scripted_agent import PROGRAM, ScriptedAgent
from boxflow.testing.stand_ins import Call, Post, StandIns
from boxflow.testing.stuck import stuck_error
from boxflow.testing.virtual_clock import START, VirtualClock
from boxflow.workflow import Workflow

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - the design's letters: payload in, result out
O = TypeVar("O")  # noqa: E741 - likewise


class EngineOptions(TypedDict, total=False):
    """What else of an engine may be set; see `boxflow.Engine`."""

    base_url: str | None
    secret: str | bytes | None
    max_resident_runs: int
    max_concurrent_steps: int
    max_payload_bytes: int
    keep_events: Duration
    max_kept_events: int


class World:
    """An engine with everything around it scripted: no network, no thread, and time that jumps.

    Any workflow can be run in it, children too, without being named before. It is used once.

    :param workflows: those that are started by their name
    :param start: when it begins
    :param seed: of what is random in an engine: the jitter of retries
    :param store: where journals live; in memory unless given. Worlds after one another on one store are one life
    :param sandbox: what makes boxes; a `FakeSandbox` of its own unless given
    :param agent: what does the work of every agent, whatever its name, in boxes of a `FakeSandbox`
    :param jumps: time jumps to what is due next as soon as nothing else can happen; without, only `advance` moves it
    :param audit: after every outcome rebuild the body, and have a run diverge whose body depends on anything but its
        payload and its journal; see `boxflow.testing.Audit`
    :param options: of the engine
    """

    def __init__(
        self,
        workflows: Iterable[Workflow[Any, Any]] = (),
        *,
        start: datetime = START,
        seed: int = 0,
        store: Store | None = None,
        sandbox: Sandbox | None = None,
        agent: ScriptedAgent | None = None,
        jumps: bool = True,
        audit: bool = True,
        **options: Unpack[EngineOptions],
    ) -> None:
        registered = tuple(workflows)
        self.clock = VirtualClock(start)
        self._stand_ins = StandIns(seed, (each.name for each in registered))
        self._stand_ins.on_wait = self._answer_soon
        self._stand_ins.on_follower = self._has_follower
        #: What is under way in a store or a sandbox that is not in memory.
        self.at_work = AtWork()
        self._fake = FakeSandbox() if sandbox is None else sandbox if isinstance(sandbox, FakeSandbox) else None
        self._owns_sandbox = sandbox is None
        if store is not None and store.outlives_process:
            store = cast(Store, self.at_work.watching(store))
        #: What does the work of every agent.
        self.agent = ScriptedAgent() if agent is None else agent
        settings: EngineOptions = {"base_url": "https://world.test", "secret": f"world {seed}", **options}
        self._engine = Engine(
            registered,
            store=_memory_store() if store is None else store,
            sandbox=self._fake or cast(Sandbox, self.at_work.watching(sandbox)),
            clock=self.clock,
            blocking_limit=None,
            **settings,
        )
        self._hub: Hub = self._engine._hub  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # the kit stands behind it
        self._hub.seams = self._stand_ins
        if self._fake is not None:
            self._fake.program(PROGRAM, self.agent.work)
            self._hub.models.stand_in = self.agent.called
        #: What has been found in the bodies, when they are audited.
        self.audit: Audit | None = Audit() if audit else None
        if self.audit is not None:
            self.audit.attach(self._engine)
        self._jumps = jumps
        self._is_leaving = False
        self._started: dict[str, int] = {}
        self._target: tuple[float, asyncio.Future[None]] | None = None
        self._told: set[str] = set()
        self._error: Exception | None = None

    @property
    def engine(self) -> Engine:
        """The engine itself, for all that a world does not say in its own words."""
        return self._engine

    @property
    def sandbox(self) -> FakeSandbox:
        """Its boxes as the script has them: what answers their commands, and what was done.

        :raises WorldError: it has been given another sandbox
        """
        if self._fake is None:
            raise WorldError("this world has a sandbox of your own, not a FakeSandbox; ask that")
        return self._fake

    @property
    def boxes_left(self) -> list[str]:
        """The names of the boxes that have not been deleted."""
        return [box.name for box in self.sandbox.boxes.values()]

    @property
    def boxes(self) -> Boxes:
        """Its boxes without a workflow."""
        return self._engine.boxes

    @property
    def now(self) -> datetime:
        """What time it is here, as an aware UTC time."""
        return self.clock.time()

    async def __aenter__(self) -> Self:
        """Start the engine. Runs of its store that have something to do go on."""
        idleness = Idleness.of(asyncio.get_running_loop())
        idleness.enter(self)
        if self._fake is not None:
            self._fake.use_clock(self.clock)
        token = own_clock.set(self.clock)
        try:
            await self._engine.__aenter__()
        except BaseException:
            idleness.leave(self)
            raise
        finally:
            own_clock.reset(token)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the engine; nothing of it is left on the loop.

        :raises Exception: what a function of the script raised, when nobody has seen it
        """
        self._is_leaving = True
        try:
            if self.audit is not None and error is None:
                self.audit.look_at_what_waits()
            await self._engine.__aexit__(kind, error, traceback)
        finally:
            if self._owns_sandbox:
                self.sandbox.stop()
            Idleness.of(asyncio.get_running_loop()).leave(self)
        if error is None:
            for unseen in (self._error, *(self.audit.findings if self.audit is not None else ())):
                if unseen is not None:
                    raise unseen

    # --- the script ---------------------------------------------------------------------------------------------------

    def replace(self, name: str, stand_in: object) -> None:
        """Have *stand_in* stand in for the steps and children of that name.

        It is called with the step's arguments, or with the child's payload. What it returns is what the step or the
        child returns, and has to have its type. An exception (or its class) is raised instead; a value that cannot be
        called is returned as it is. Of several that match, the one that was given last counts.

        :param name: of the step, of the `ctx.invoke` or of the child's workflow; or a pattern of names, as in
            `"port-*"`. Steps that boxflow makes itself, for boxes and `ctx.call`, are matched by their exact name
        """
        self._stand_ins.replaced.add(name, stand_in)

    def when_waiting(self, name: str, answer: object, *, after: Duration = 0.0) -> None:
        """Have every wait of that name answered, as soon as it begins.

        :param name: of the `ctx.wait_for_event` or `ctx.wait_for_webhook`, or a pattern
        :param answer: the event's data, or a function that gives it. For a webhook its body: bytes or text as they are,
            a `WebhookRequest` whole, everything else as JSON
        :param after: how long after the wait has begun
        """
        self._stand_ins.answers.add(name, answer, after_s=seconds(after))

    def calls(self, name: str = "*") -> list[Call]:
        """How the functions of steps of that name (or pattern), and what stands in for children, were called so far."""
        from fnmatch import fnmatchcase

        return [call for call in self._stand_ins.calls if call.name == name or fnmatchcase(call.name, name)]

    @property
    def posts(self) -> list[Post]:
        """What agents' results were told to URLs outside, in order; nothing is sent."""
        return list(self._stand_ins.posts)

    # --- what a test does ---------------------------------------------------------------------------------------------

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
        """Start a run, and return once it has gone as far as it can at this instant.

        :param run_id: the workflow's name and a number unless given: the same in every test run
        """
        name = workflow.name if isinstance(workflow, Workflow) else workflow
        if run_id is None:
            self._started[name] = number = self._started.get(name, 0) + 1
            run_id = f"{name}-{number}"
        run = await self._engine.start(workflow, cast(Any, payload), run_id=run_id, labels=labels, delay=delay)
        await self.settle()
        return run

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
        """Start a run and return its result, however long that takes here.

        :raises StuckError: it waits for something that nobody sends
        """
        run = await self.start(workflow, cast(Any, payload), run_id=run_id, labels=labels, delay=delay)
        return await run.result()

    async def notify(self, event_id: str, data: object = None, *, run_id: str | None = None) -> Notified:
        """Send an event, as `Engine.notify` does, and return once all has happened that follows at this instant."""
        notified = await self._engine.notify(event_id, data, run_id=run_id)
        await self.settle()
        return notified

    async def call_webhook(self, run: Run[Any] | str, name: str, call: object = b"") -> Notified:
        """Call the webhook *name* of a run, past what verifies its calls.

        :param call: the body: bytes or text as they are, a `WebhookRequest` whole, everything else as JSON
        """
        run_id = run if isinstance(run, str) else run.id
        data = encode_value(_as_request(call), WebhookRequest)
        notified = await self._hub.mailroom.send(run_id, "webhook", name, data)
        await self.settle()
        return notified

    async def advance(self, delay: Duration) -> None:
        """Let that much time pass, and return once everything has happened that was due."""
        await self._reach(self.clock.now() + seconds(delay))

    async def settle(self) -> None:
        """Return once everything has happened that can happen at this instant."""
        await self._reach(self.clock.now())

    async def _reach(self, when: float) -> None:
        if self._target is not None:
            raise WorldError("time is moved by another task already; await one `advance` after the other")
        idleness = Idleness.of(asyncio.get_running_loop())
        self._target = (when, asyncio.get_running_loop().create_future())
        idleness.look()
        try:
            await self._target[1]  # No deadline: time passes as soon as nothing else does.
        finally:
            self._target = None

    # --- when nothing goes on by itself -------------------------------------------------------------------------------

    def idle(self) -> bool:
        """Let time pass, or say why nothing goes on. For `Idleness`."""
        due = self.clock.next_due()
        if self._target is not None:
            return self._approach(due, *self._target)
        if due is not None and (self._jumps or self._is_leaving):
            self.clock.advance_to(due)
            return True
        untold = [run_id for run_id in self._hub.followed if run_id not in self._told]
        if untold:
            self._told.update(untold)
            self._hub.spawn(self._explain(untold))
        return bool(untold)

    def _approach(self, due: float | None, target: float, reached: asyncio.Future[None]) -> bool:
        if due is not None and due <= target:
            self.clock.advance_to(due)
        elif self.clock.now() < target:
            # What is only looked after falls due on the way.
            self.clock.advance_to(target)
        elif not reached.done():
            reached.set_result(None)
        return True

    def _has_follower(self, run_id: str) -> None:
        """Somebody begins to wait for news of the run: when there will be none, it is told so."""
        self._told.discard(run_id)
        Idleness.of(asyncio.get_running_loop()).look()

    async def _explain(self, run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            error: Exception | None = self._error
            if error is None:
                error = await stuck_error(self._hub, self._stand_ins, run_id, time_jumps=self._jumps)
            if error is not None:
                self._stand_ins.no_news[run_id] = error
                self._hub.changed(run_id, ended=True)

    # --- who answers waits --------------------------------------------------------------------------------------------

    def _answer_soon(self, run_id: str, wait: MailWait, rule: Rule) -> None:
        self._hub.spawn(self._answer(run_id, wait.kind, wait.subject, rule))

    async def _answer(self, run_id: str, kind: str, subject: str, rule: Rule) -> None:
        if rule.after_s:
            await self.clock.sleep(rule.after_s)
        try:
            answer = await rule.result()
            if kind == "event":
                data = encode_loose(answer)
                await self._hub.mailroom.send(run_id, "event", subject, data)
            else:
                data = encode_value(_as_request(answer), WebhookRequest)
                await self._hub.mailroom.send(run_id, "webhook", subject, data)
        except (RunEndedError, RunNotFoundError):
            return  # It did not wait to the end.
        except Exception as error:  # noqa: BLE001 - the script's own: the test has to see it, not the engine
            error.add_note(f"raised by what answers the wait {rule.pattern!r} of run {run_id!r}")
            self._error = self._error or error


def _as_request(call: object) -> WebhookRequest:
    if isinstance(call, WebhookRequest):
        return call
    if isinstance(call, str | bytes):
        return WebhookRequest(method="POST", body=call.encode() if isinstance(call, str) else call)
    return WebhookRequest(method="POST", headers={"content-type": "application/json"}, body=encode_loose(call))


_store_classes: list[Callable[[], Store]] = []


def _memory_store() -> Store:
    """A new store in memory, found as any store is: the core imports no backend."""
    if not _store_classes:
        # Once: looking entry points up takes longer than a whole test.
        _store_classes.append(type(resolve_store("memory:")))
    return _store_classes[0]()
