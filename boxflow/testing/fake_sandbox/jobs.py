"""How do jobs work in a box in memory? As `boxflow.boxes.job_script` says, by the same questions and answers.

A job outlives who asked for it: its process belongs to the box. Who starts, awaits or reads it talks to a short-lived
process, whose standard output is the answer.
"""

from __future__ import annotations

import asyncio
from typing import Final

import attrs

from boxflow.testing.fake_sandbox.box_time import BoxTime
from boxflow.testing.fake_sandbox.boxes import FakeBox
from boxflow.testing.fake_sandbox.commands import FakeCommand
from boxflow.testing.fake_sandbox.process import FakeProcess
from boxflow.testing.fake_sandbox.words import JobQuestion

_LOST: Final = "%7Elost"
_LETTERS: Final = {"stdout": "o", "stderr": "e"}


@attrs.frozen(kw_only=True)
class Exit:
    """How a job ended, as whoever noted it first says."""

    code: int
    ended_at: float
    reason: str


@attrs.define(eq=False)
class FakeJob:
    """One job: its process, and all that it wrote."""

    about: str
    process: FakeProcess
    started_at: float
    output: dict[str, bytearray] = attrs.field(factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})
    exit: Exit | None = None
    news: asyncio.Event = attrs.field(factory=asyncio.Event)

    def write(self, stream: str, data: bytes) -> None:
        """The process writes."""
        self.output[stream] += data
        self.news.set()

    def note_exit(self, code: int, ended_at: float, reason: str) -> None:
        """It has ended; the first who says so is right."""
        if self.exit is None:
            self.exit = Exit(code=code, ended_at=ended_at, reason=reason)
        self.news.set()

    @property
    def state(self) -> str:
        """As the watcher says it."""
        if self.exit is not None:
            return "exited"
        # A process that was killed from outside took its watcher with it, which has noted nothing.
        return "lost" if self.process.ended.done() else "running"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state != "running"

    def elapsed(self, now: float) -> int:
        """How long it has run, or did, in hundredths of a second."""
        return round(((self.exit.ended_at if self.exit else now) - self.started_at) * 100)


class JobAnswers:
    """Answers one question about a job.

    :param job: the job in question, if it is there
    """

    def __init__(self, box: FakeBox, question: JobQuestion, job: FakeJob | None, time: BoxTime) -> None:
        self._box = box
        self._question = question
        self._job = job
        self._time = time

    async def answer(self, command: FakeCommand) -> int:
        """Write the answer; returns the exit status of who gives it."""
        words = self._question.words
        match self._question.verb:
            case "start" | "look":
                self._tell(command, self._job)
            case "run" | "wait":
                await self._wait(command, int(words[0]), int(words[1]), int(words[2]))
            case "list":
                self._list(command)
            case "follow":
                await self._follow(command, int(words[0]), int(words[1]), follow=words[3] == "yes")
            case "signal":
                await self._signal(command, int(words[0]))
            case "ended" if self._job is not None:
                self._job.note_exit(int(words[0]), self._time.now(), words[1])
            case "retire":
                self._retire(command)
            case _:
                pass  # The end of a job that is not there.
        return 0

    async def _wait(self, command: FakeCommand, timeout: int, round_: int, limit: int) -> None:
        late = await self._until_over(timeout, round_)
        self._tell(command, self._job, reason="late" if late else "-")
        if self._job is not None and (self._job.is_over or (late and self._question.verb == "run")):
            self._ends(command, self._job, limit)

    def _list(self, command: FakeCommand) -> None:
        for name, job in self._box.jobs.items():
            self._tell(command, job)
            about = job.about.encode()
            command.write(f"j {name} {len(about)}\n".encode() + about)

    async def _signal(self, command: FakeCommand, number: int) -> None:
        self._tell(command, self._job)
        if self._job is not None:
            await self._job.process.signal(number)
            if self._job.process.ended.done():
                # Its watcher lives, and has seen it end.
                self._job.note_exit(128 + number, self._time.now(), "ended")

    def _tell(self, command: FakeCommand, job: FakeJob | None, *, reason: str = "-") -> None:
        if job is None:
            command.write("s missing - - - - 0\n")
            return
        state, code = job.state, "-"
        if job.exit is not None:
            code, reason = str(job.exit.code), job.exit.reason
        elapsed = "-" if state == "lost" else str(job.elapsed(self._time.now()))
        since = round(job.started_at * 100)
        command.write(f"s {state} {code} {int(job.started_at)} {elapsed} {reason} {since}\n")

    async def _until_over(self, timeout: int, round_: int) -> bool:
        """Wait for the job's end; True when its time was up before. Both in hundredths of a second."""
        until = self._time.now() + round_ / 100
        while self._job is not None and not self._job.is_over:
            now = self._time.now()
            left = timeout / 100 - (now - self._job.started_at)
            if left <= 0:
                return True
            if now >= until:
                return False
            await self._time.until(self._job.process.ended, min(left, until - now))
        if self._job is not None:
            self._job.process.check()
        return False

    def _ends(self, command: FakeCommand, job: FakeJob, limit: int) -> None:
        for stream, letter in _LETTERS.items():
            data = bytes(job.output[stream])
            command.write(f"t {letter} {len(data)}\n")
            if len(data) <= limit:
                _emit(command, letter, data, 0)
            else:
                tail = limit - limit // 2
                _emit(command, letter, data[: limit // 2], 0)
                _emit(command, letter, data[len(data) - tail :], len(data) - tail)

    async def _follow(self, command: FakeCommand, out: int, err: int, *, follow: bool) -> None:
        # Not for a round only, as in life, where a connection may be dead without saying so.
        at = {"stdout": out, "stderr": err}
        while (job := self._job) is not None:
            job.process.check()
            over = job.is_over
            job.news.clear()
            for stream, letter in _LETTERS.items():
                data = bytes(job.output[stream][at[stream] :])
                _emit(command, letter, data, at[stream])
                at[stream] += len(data)
            if over or not follow:
                break
            await job.news.wait()  # No deadline: that of the job, whose end is news.
        self._tell(command, self._job)

    def _retire(self, command: FakeCommand) -> None:
        name = self._question.name
        if self._job is None:
            return
        number = 1
        while f"{name}{_LOST}{number}" in self._box.jobs:
            number += 1
        self._box.jobs[f"{name}{_LOST}{number}"] = self._box.jobs.pop(name)
        command.write(f"r {name}{_LOST}{number}\n")


def _emit(command: FakeCommand, letter: str, data: bytes, offset: int) -> None:
    if data:
        command.write(f"{letter} {offset} {len(data)}\n".encode() + data)
