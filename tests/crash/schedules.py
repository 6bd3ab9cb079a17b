"""Does a run go on rightly after a crash at any moment? Seeded schedules of random workflows, crashed and replayed.

A schedule is a plan (`plans.py`), messages for it, and a seed that decides every move: which step goes on, which
message is sent, when time passes, when the disk answers. It is lived through once without a crash. Then, for writes
of that life, a new engine is put on a store that holds exactly what was written up to there, and finishes the run;
and so on when that life crashes again. In every life:

- the body sees the same, and waits for the same, at every position of the journal, however often it is replayed (the
  law);
- no run diverges; none gets stuck; a plan that determines its result has that result;
- a call that has its outcome is not performed again, an `at_most_once` step is not started again;
- every acknowledged message is in a journal or kept, and no run has one twice.

A failure is raised as `ScheduleFailed`, which says how to see it again with one command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Literal

import attrs
import msgspec

from boxflow import Engine, RunStatus, StepInfo
from boxflow.errors import RunEndedError, RunNotFoundError, WebhookTokenError
from boxflow.execution import Execution
from boxflow.journal import StepCall
from boxflow.mail import WebhookRequest, make_token
from boxflow.model import Outcome, RunRecord
from boxflow.runs import Run
from boxflow.workflow import Workflow
from tests.crash import plans
from tests.crash.host import HostClock, HostLoop
from tests.crash.interpreter import STAGE, TRACES, decode_plan, planned
from tests.crash.plans import Generator
from tests.crash.recorded_store import Appended, BrokenPromise, CallKey, Created, RecordedStore, Write

SECRET = b"of a test"
START = 1_700_000_000.0
RUN_ID = "r"
EVERY_RUN_LIVES = 100_000
MOST_MOVES = 3000
"""No plan needs nearly as many: a life with more is stuck."""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something sent from outside: to all that wait for an event, to a run's own mailbox, to a webhook; or a cancel."""

    kind: Literal["event", "mail", "webhook", "cancel"]
    subject: str = ""
    run_id: str = RUN_ID


class Schedule(msgspec.Struct, frozen=True):
    """A plan, its messages, and the seed of all moves."""

    plan: str
    messages: tuple[Message, ...]
    seed: int
    slow_disk: bool = False

    def as_text(self) -> str:
        """One line of JSON, which `from_text` reads."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_text(cls, text: str) -> Schedule:
        """The schedule that *text* stands for."""
        return msgspec.json.decode(text, type=cls)


class ScheduleFailed(AssertionError):
    """A promise was broken in a schedule."""

    def __init__(self, schedule: Schedule, crashes: Sequence[int], found: BaseException) -> None:
        path = ",".join(str(crash) for crash in crashes)
        super().__init__(
            f"{type(found).__name__}: {found}\n  crashed after writes: {path or 'none'}\n  see it again:"
            f" python -m benchmarks.schedules --schedule '{schedule.as_text()}'"
            + (f" --crashes {path}" if path else "")
        )
        self.schedule = schedule
        self.found = found


def generate(random: Random, *, leaves: int = 10) -> Schedule:
    """A schedule made of the numbers of *random*."""
    plan = Generator(random, leaves=leaves).plan()
    messages: list[Message] = []
    hooks: dict[tuple[str, str], int] = {}
    for node, run_id in plans.walk(plan, RUN_ID):
        match node:
            case plans.Event():
                # One broadcast for each wait, so that none waits for ever; the other kinds come on top.
                messages.append(Message("event", node.event_id))
                if random.random() < 0.2:
                    messages.append(Message("mail", node.event_id, run_id))
            case plans.Hook():
                number = hooks[run_id, node.name] = hooks.get((run_id, node.name), 0) + 1
                name = node.name if number == 1 else f"{node.name}#{number}"
                messages += [Message("webhook", name, run_id)] * (1 if random.random() < 0.7 else 2)
            case _:
                pass
    if random.random() < 0.2:
        messages.append(Message("event", random.choice(plans.EVENT_IDS)))
    if random.random() < 0.15:
        messages.append(Message("cancel"))
    text = msgspec.json.encode(plan).decode()
    return Schedule(text, tuple(messages), random.randrange(1 << 30), slow_disk=random.random() < 0.5)


@attrs.define
class Past:
    """What is known of the lives before this one."""

    crashes: tuple[int, ...] = ()
    writes: tuple[Write, ...] = ()
    now: float = START
    #: Messages of the schedule that were not acknowledged, by number.
    unsent: tuple[int, ...] = ()
    #: Ids of acknowledged sendings.
    acknowledged: frozenset[str] = frozenset()
    #: Attempts of `at_most_once` steps that were started.
    started: frozenset[tuple[CallKey, int]] = frozenset()
    law: dict[tuple[str, int], Any] = attrs.field(factory=dict[tuple[str, int], Any])


class Law:
    """What each body had seen, and waited for, after each outcome; the same whenever it gets there."""

    def __init__(self, known: dict[tuple[str, int], Any]) -> None:
        self.known = known

    def check(self, run_id: str, position: int, seen: object) -> None:
        """Compare with the first time."""
        first = self.known.setdefault((run_id, position), seen)
        if first != seen:
            raise BrokenPromise(
                f"run {run_id!r} is not the same at position {position}:\n  first {first}\n  now   {seen}"
            )


class WatchedExecution(Execution):
    """An execution that is held to the law after each outcome."""

    law: Law | None = None

    def begin(self) -> None:
        self._seen = 0
        self._position = 0
        TRACES[self.ctx] = []
        super().begin()
        self._check()

    def deliver(self, outcome: Outcome) -> None:
        super().deliver(outcome)
        self._check()

    def _check(self) -> None:
        trace = TRACES[self.ctx]
        new = tuple(trace[self._seen :])
        self._seen = len(trace)
        for line in new:
            if line.endswith((" raised Swapped", " patched False")):
                raise BrokenPromise(f"in run {self.record.run_id!r} the body saw: {line}")
        pending = tuple(
            f"{operation} {operation.when} {operation.args if isinstance(operation, StepCall) else ''}"
            for operation in self.journal.pending.values()
        )
        timer = self.next_timer()
        if self.law is not None:
            self.law.check(self.record.run_id, self.length, (new, pending, timer, self.status, self.result))


def watch(engine: Engine, law: Law) -> Callable[[RunRecord], Execution]:
    """Have every execution of *engine* held to *law*; gives what makes one."""
    hub = engine._hub  # pyright: ignore[reportPrivateUsage] - no public way leads to what a body waits for

    def execution(record: RunRecord, found: Workflow[Any, Any], payload: Any) -> Execution:
        made = WatchedExecution(record, found, payload, hub)
        made.law = law
        return made

    hub.execution = execution  # type: ignore[method-assign]
    return lambda record: execution(record, planned, msgspec.json.decode(record.payload))


class Life:
    """One engine's time: from a store with a past to the end of the run."""

    def __init__(self, schedule: Schedule, loop: HostLoop, past: Past) -> None:
        self.schedule = schedule
        self.past = past
        self.random = Random(f"{schedule.seed} {past.crashes}")
        self.law = Law(past.law)
        self.acknowledged: dict[str, int] = dict.fromkeys(past.acknowledged, 0)
        self.acknowledged_messages: dict[int, int] = {}
        self.started: dict[tuple[CallKey, int], int] = dict.fromkeys(past.started, 0)
        self.times: list[float] = []
        self.status: RunStatus | None = None
        self.result = b""
        self.outcomes = 0
        self._loop = loop
        self._unsent = list(past.unsent)
        self._sending: set[asyncio.Task[None]] = set()
        self._gates: list[asyncio.Future[None]] = []
        self._moves = 0
        self._broken: list[BaseException] = []
        self._engine: Engine
        self._execution: Callable[[RunRecord], Execution]
        self.store: RecordedStore

    async def live(self) -> None:
        """Finish the run, and look at what is left."""
        self.store = await RecordedStore.after(self.past.writes, self._disk)
        residents = 0 if self.random.random() < 0.5 else EVERY_RUN_LIVES
        engine = self._engine = Engine(
            [planned],
            store=self.store,
            clock=HostClock(self._loop),
            secret=SECRET,
            max_resident_runs=residents,
            blocking_limit=None,
        )
        self._execution = watch(engine, self.law)
        STAGE.set(self)
        async with engine:
            run = await engine.start(planned, self.schedule.plan, run_id=RUN_ID)
            await self._end_of(run)
            self._unsent.clear()
            if self._sending:
                await asyncio.wait(self._sending)
            await self._judge()
            await self._replay_all()
        if self._broken:
            raise self._broken[0]

    async def _end_of(self, run: Run[Any]) -> None:
        async for _ in run.watch():
            if self._broken:
                raise self._broken[0]
        self.status = await run.status()

    # --- moves -------------------------------------------------------------------------------------------------------

    def idle(self, timeout_s: float | None) -> None:
        """Nothing can go on by itself: make one move."""
        self._moves += 1
        if self._moves > MOST_MOVES:
            raise BrokenPromise(f"the run is stuck: after {MOST_MOVES} moves it has not ended")
        gates = self._gates = [gate for gate in self._gates if not gate.done()]
        choices = ["gate"] * (6 if gates else 0) + ["send"] * (2 if self._unsent else 0)
        if timeout_s is not None:
            choices.append("time")
        if not choices:
            raise BrokenPromise("the run is stuck: nothing is left that could move it")
        match self.random.choice(choices):
            case "gate":
                gates.pop(self.random.randrange(len(gates))).set_result(None)
            case "send":
                number = self._unsent.pop(self.random.randrange(len(self._unsent)))
                task = self._loop.create_task(self._send(number))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
            case _:
                self._loop.advance(timeout_s or 0.0)

    async def _gate(self) -> None:
        gate: asyncio.Future[None] = self._loop.create_future()
        self._gates.append(gate)
        await gate

    async def _disk(self) -> None:
        self.times.append(self._loop.now())
        if self.schedule.slow_disk:
            if self.random.random() < 0.2:
                await self._gate()
            else:
                for _ in range(self.random.randrange(3)):
                    await asyncio.sleep(0)

    async def step_runs(self, info: StepInfo, label: str, *, careful: bool) -> None:
        """Called by every attempt of every step."""
        key = (info.run_id, info.name, info.occurrence)
        try:
            if key in self.store.settled:
                raise BrokenPromise(f"step {key} ({label}) has its outcome and runs again")
            if careful and (key, info.attempt) in self.started:
                raise BrokenPromise(f"the at_most_once step {key} ({label}) started its attempt {info.attempt} again")
            self.started.setdefault((key, info.attempt), len(self.store.writes))
        except BrokenPromise as broken:
            self._broken.append(broken)
            raise
        if self.random.random() < 0.85:
            await self._gate()

    async def _send(self, number: int) -> None:
        message = self.schedule.messages[number]
        sending = f"m{number} life {len(self.past.crashes)}"
        data = {"id": sending}
        engine = self._engine
        try:
            match message.kind:
                case "event":
                    await engine.notify(message.subject, data)
                case "mail":
                    await engine.notify(message.subject, data, run_id=message.run_id)
                case "webhook":
                    token = make_token(SECRET, message.run_id, message.subject)
                    await engine.deliver_webhook(token, WebhookRequest(method="POST", body=msgspec.json.encode(data)))
                case _:
                    await (await engine.get(message.run_id)).cancel("by the schedule")
        except (RunNotFoundError, WebhookTokenError):
            # Its run has not begun. It is sent again, unless that run never begins.
            if self.status is None:
                self._unsent.append(number)
            return
        except RunEndedError:
            pass
        else:
            if message.kind != "cancel":
                self.acknowledged[sending] = len(self.store.writes)
        self.acknowledged_messages[number] = len(self.store.writes)

    # --- judging -----------------------------------------------------------------------------------------------------

    async def _judge(self) -> None:
        for write in self.store.writes:
            if isinstance(write, Created):
                stored = await self.store.get_run(write.record.run_id)
                assert stored is not None
                if not stored.head.status.is_final:
                    raise BrokenPromise(f"run {write.record.run_id!r} is not over: {stored.head}")
        # The store has seen to it that mail leaves its box in no wrong way, so what was kept once is accounted for.
        found = self.store.ever_kept.union(*self.store.received.values())
        lost = [sending for sending in self.acknowledged if sending not in found]
        if lost:
            raise BrokenPromise(f"acknowledged, but neither received nor kept: {lost}")

    async def _replay_all(self) -> None:
        for write in self.store.writes:
            if not isinstance(write, Created):
                continue
            stored = await self.store.get_run(write.record.run_id)
            assert stored is not None
            head = stored.head
            outcomes = await self.store.read_journal(write.record.run_id)
            self.outcomes += len(outcomes)
            if outcomes and (write.record.run_id, 0) not in self.law.known:
                raise BrokenPromise(f"run {write.record.run_id!r} was not watched")
            execution = self._execution(stored.record)
            counting = execution.prepare(outcomes)
            execution.begin()
            for outcome in counting:
                execution.deliver(outcome)
            if head.status.is_final and outcomes and outcomes[-1].kind != "change_patched":
                told = (
                    execution.closed,
                    execution.status,
                    execution.result,
                    execution.error and execution.error.message,
                )
                kept = (True, head.status, bytes(head.result), head.error and head.error.message)
                if told != kept:
                    raise BrokenPromise(f"run {write.record.run_id!r} was {kept}, its whole journal gives {told}")
            if write.record.run_id == RUN_ID:
                self.result = bytes(head.result)
            execution.evict()

    def past_at(self, crash: int) -> Past:
        """What a next life knows, when this one crashes right after its write number *crash*."""
        writes = tuple(self.store.writes[:crash])
        lengths: dict[str, int] = {}
        for write in writes:
            match write:
                case Created(record):
                    lengths[record.run_id] = 0
                case Appended(run_id, _, head):
                    lengths[run_id] = head.length
                case _:
                    pass
        # What was acknowledged right after that write was perhaps acknowledged before the crash, perhaps not.
        limit = crash - self.random.randrange(2)
        before = len(self.past.writes)
        times = [self.past.now] * before + self.times
        return Past(
            crashes=(*self.past.crashes, crash),
            writes=writes,
            now=times[crash - 1],
            unsent=tuple(
                number for number in self.past.unsent if self.acknowledged_messages.get(number, crash + 1) > limit
            ),
            acknowledged=frozenset(sending for sending, at in self.acknowledged.items() if at <= limit),
            started=frozenset(start for start, at in self.started.items() if at <= crash),
            law={key: seen for key, seen in self.law.known.items() if key[1] <= lengths.get(key[0], -1)},
        )


@attrs.frozen(kw_only=True)
class Found:
    """What came of one schedule.

    :ivar lives: how many engines lived, the first included
    :ivar outcomes: how many outcomes they left in journals
    """

    lives: int
    outcomes: int
    status: RunStatus


def live_once(schedule: Schedule, past: Past | None = None) -> Life:
    """One life, from *past* to the end of the run.

    :raises ScheduleFailed: a promise was broken
    """
    past = past or Past(unsent=tuple(range(len(schedule.messages))))
    loop = HostLoop(past.now)
    life = Life(schedule, loop, past)
    try:
        loop.play(life.live(), life.idle)
    except Exception as found:
        raise ScheduleFailed(schedule, past.crashes, found) from found
    finally:
        loop.abandon()
    return life


def crash_and_replay(schedule: Schedule, *, crashes: int | None = None) -> Found:
    """Live through *schedule* once, then again from some of its writes on, or from each of them.

    Every second of these lives crashes once more, and is gone on with by a third.

    :param crashes: how many crashes to try; None tries one after every write
    :raises ScheduleFailed: a promise was broken
    """
    random = Random(f"crashes of {schedule.seed}")
    first = live_once(schedule)
    lives, outcomes = 1, first.outcomes
    points: Sequence[int] = range(1, len(first.store.writes) + 1)
    if crashes is not None and crashes < len(points):
        points = sorted(random.sample(points, crashes))
    for point in points:
        life = live_once(schedule, first.past_at(point))
        _compare(first, life)
        lives, outcomes = lives + 1, outcomes + life.outcomes
        if len(life.store.writes) > point and random.random() < 0.5:
            third = live_once(schedule, life.past_at(random.randint(point + 1, len(life.store.writes))))
            _compare(first, third)
            lives, outcomes = lives + 1, outcomes + third.outcomes
    assert first.status is not None
    return Found(lives=lives, outcomes=outcomes, status=first.status)


def see_again(schedule: Schedule, crashes: Sequence[int]) -> Life:
    """The very life that a `ScheduleFailed` told of: with these crashes, one after the other."""
    life = live_once(schedule)
    for crash in crashes:
        life = live_once(schedule, life.past_at(crash))
    return life


def _compare(first: Life, later: Life) -> None:
    schedule = first.schedule
    if any(message.kind == "cancel" for message in schedule.messages) or not plans.is_determined(
        decode_plan(schedule.plan)
    ):
        return
    if (first.status, first.result) != (later.status, later.result):
        found = BrokenPromise(
            f"ended {first.status} {first.result!r} without a crash, {later.status} {later.result!r} with it"
        )
        raise ScheduleFailed(schedule, later.past.crashes, found)
