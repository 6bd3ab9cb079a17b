"""What can happen when? One life of a run in which each move is decided: steps, answers, time, cancels."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import attrs

from boxflow.errors import RunEndedError, RunNotFoundError
from boxflow.journal import MailWait, StepCall
from boxflow.model import describe
from boxflow.runs import Run
from boxflow.testing.breaking.life_loop import LifeLoop
from boxflow.testing.breaking.onlooker import Key
from boxflow.testing.breaking.open_world import Kind, OpenWorld, encoded_answer
from boxflow.testing.breaking.schedules import Decisions
from boxflow.testing.breaking.watched_store import Write
from boxflow.testing.rules import Rule

MOST_MOVES: Final = 20_000
"""A life with more is taken for one without an end."""

MOST_REPEATED: Final = 2
"""How many sendings are repeated, and how many come before their waits, in one life."""

WEIGHTS: Final = {"step": 6.0, "answer": 3.0, "time": 1.0, "early": 0.5, "again": 0.4, "cancel": 0.15}
"""How likely a move is when a seed decides: mostly the run goes on."""

FAILS: Final = 0.1
"""How likely an attempt of a step fails that has another one left."""


@attrs.frozen
class Sending:
    """Something that waits for somebody to send it, or was sent."""

    run_id: str
    kind: Kind
    subject: str
    name: str


@attrs.frozen
class _Move:
    title: str
    kind: str
    make: Callable[[], None]


class InjectedError(ConnectionError):
    """The failure of an attempt that `explore` has made fail."""


class ExploredLife:
    """A life in which *decisions* say what comes next.

    :param expected: what was waited for in the undisturbed run, for what may come before its wait
    :param cancels: the run may be cancelled
    """

    def __init__(self, decisions: Decisions, expected: list[Sending], *, cancels: bool) -> None:
        self.decisions = decisions
        #: What was decided that does not happen by itself, in words.
        self.story: list[str] = []
        self.cancelled = False
        #: What waits began, in order.
        self.waited: list[Sending] = []
        #: Sendings that were accepted, without repetitions.
        self.accepted: Counter[tuple[str, Kind, str]] = Counter()
        self.problem: str | None = None
        self._expected = expected
        self._cancels = cancels
        self._unanswered: list[tuple[Sending, Rule]] = []
        self._sent: list[tuple[Sending, bytes]] = []
        self._sent_early: list[Sending] = []
        self._tried_early = 0
        self._repeated = 0
        self._gates: list[tuple[str, asyncio.Future[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._moves = 0
        self._world: OpenWorld
        self._loop: LifeLoop
        self._run: Run[Any] | None = None

    # --- breaking.lives.Life ------------------------------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        """Whether runs that wait leave memory at once."""
        if self._decide([1.0, 0.3], ["", "runs leave memory whenever they wait"]):
            return {"max_resident_runs": 0}
        return {}

    def ready(self, world: OpenWorld, loop: LifeLoop) -> None:
        """Take the world's moves into the own hands."""
        self._world, self._loop = world, loop
        world.on_idle = self._move
        world.leave_answers_to(self._began)

    async def begun(self, run: Run[Any]) -> None:
        """From here on it may be cancelled."""
        self._run = run

    async def before(self, write: Write) -> None:
        """Nothing to be done."""

    async def after(self, write: Write) -> None:
        """Nothing to be done."""

    async def around(self, key: Key, call: StepCall, number: int, step: Callable[[], Awaitable[Any]]) -> Any:
        """Perform the step: begin when it is its turn, and end when it is its turn."""
        title = f"step {describe(key[1], key[2])}" + (f" of run {key[0]!r}" if "/" in key[0] else "")
        await self._gate(f"{title} begins")
        if self._may_fail(call, number) and self._decide([1 - FAILS, FAILS], ["", f"{title} fails once"]):
            raise InjectedError(f"made to fail by this schedule, at attempt {number}")
        value = await step()
        await self._gate(f"{title} ends")
        return value

    def _may_fail(self, call: StepCall, number: int) -> bool:
        retry = call.retry
        return retry is not None and retry.allows(number) and retry.wants(InjectedError())

    async def _gate(self, title: str) -> None:
        gate: asyncio.Future[None] = self._loop.create_future()
        entry = (title, gate)
        self._gates.append(entry)
        try:
            await gate  # No deadline: it is opened by a move, or its step is cancelled.
        finally:
            if entry in self._gates:
                self._gates.remove(entry)

    # --- moves --------------------------------------------------------------------------------------------------------

    def _decide(self, weights: list[float], titles: list[str]) -> int:
        made = self.decisions.decide(weights)
        if made:
            self.story.append(titles[made])
        return made

    def _move(self) -> bool:
        """Nothing goes on by itself: make one move. False when there is none."""
        if self._run is None or self._tasks:
            return False
        self._moves += 1
        if self._moves > MOST_MOVES:
            self.problem = f"the run has not ended after {MOST_MOVES} moves"
            return False
        moves = [*self._steps(), *self._answers(), *self._time(), *self._early(), *self._again(), *self._cancel()]
        # What is no answer of the run's own may come before it, but does not make a stuck run go on.
        if not any(move.kind in {"step", "answer", "time"} for move in moves):
            return False
        made = self._decide([WEIGHTS[move.kind] for move in moves], [move.title for move in moves])
        moves[made].make()
        return True

    def _steps(self) -> list[_Move]:
        return [
            _Move(title, "step", lambda gate=gate: gate.set_result(None))  # type: ignore[misc] # mypy infers no lambda's default
            for title, gate in self._gates
            if not gate.done()
        ]

    def _time(self) -> list[_Move]:
        due = self._world.clock.next_due()
        return [] if due is None else [_Move("time passes", "time", lambda: self._world.clock.advance_to(due))]

    def _answers(self) -> list[_Move]:
        return [
            _Move(f"{sending.name!r} is answered", "answer", self._answering(sending, rule))
            for sending, rule in self._unanswered
        ]

    def _answering(self, sending: Sending, rule: Rule) -> Callable[[], None]:
        def answer() -> None:
            self._unanswered.remove((sending, rule))
            self._spawn(self._answer(sending, rule))

        return answer

    def _early(self) -> list[_Move]:
        """What is answered before its wait begins."""
        if self._tried_early >= MOST_REPEATED:
            return []
        coming = list((Counter(self._expected) - Counter(self.waited) - Counter(self._sent_early)).elements())
        first = {(each.kind, each.subject): each for each in reversed(coming)}
        found = [(each, self._world.answer_to(each.name)) for each in reversed(first.values())]
        return [
            _Move(f"{each.name!r} is answered before its wait", "early", self._answering_early(each, rule))
            for each, rule in found
            if rule is not None
        ]

    def _answering_early(self, sending: Sending, rule: Rule) -> Callable[[], None]:
        def answer() -> None:
            self._tried_early += 1
            self._sent_early.append(sending)
            self._spawn(self._answer(sending, rule, is_early=True))

        return answer

    def _again(self) -> list[_Move]:
        if self._repeated >= MOST_REPEATED:
            return []
        return [
            _Move(f"{sending.name!r} is sent again", "again", lambda s=sending, d=data: self._repeat(s, d))  # type: ignore[misc] # as above
            for sending, data in self._sent[-1:]
        ]

    def _repeat(self, sending: Sending, data: bytes) -> None:
        self._repeated += 1
        self._spawn(self._send(sending, data, is_new=False))

    def _cancel(self) -> list[_Move]:
        if not self._cancels or self.cancelled:
            return []
        return [_Move("the run is cancelled", "cancel", lambda: self._spawn(self._cancel_run()))]

    async def _cancel_run(self) -> None:
        assert self._run is not None
        self.cancelled = True
        await self._run.cancel("by the schedule")

    # --- answers ------------------------------------------------------------------------------------------------------

    def _began(self, run_id: str, wait: MailWait, rule: Rule) -> None:
        sending = Sending(run_id, wait.kind, wait.subject, wait.key[0])
        self.waited.append(sending)
        if sending in self._sent_early:
            self._sent_early.remove(sending)  # It has come already.
        elif rule.after_s:
            clock = self._world.clock
            clock.call_at(clock.now() + rule.after_s, self._unanswered.append, (sending, rule))
        else:
            self._unanswered.append((sending, rule))

    async def _answer(self, sending: Sending, rule: Rule, *, is_early: bool = False) -> None:
        try:
            answer = await rule.result()
        except Exception as error:  # noqa: BLE001 - the script's own
            if not is_early:
                self.problem = f"what answers the wait {sending.name!r} raised {type(error).__name__}: {error}"
            elif sending in self._sent_early:
                self._sent_early.remove(sending)  # It has no answer yet: then nothing comes early.
            else:
                self._unanswered.append((sending, rule))
            return
        data = encoded_answer(sending.kind, answer)
        await self._send(sending, data, is_new=True)
        self._sent.append((sending, data))

    async def _send(self, sending: Sending, data: bytes, *, is_new: bool) -> None:
        try:
            await self._world.send(sending.run_id, sending.kind, sending.subject, data)
        except (RunEndedError, RunNotFoundError):
            return  # It came too late, and its sender was told so.
        if is_new:
            self.accepted[sending.run_id, sending.kind, sending.subject] += 1

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._world.spawn(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
