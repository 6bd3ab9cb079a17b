"""Who kills the child, starts it again, and judges what is left? The other side of `kill_child.py`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from random import Random

import attrs
import msgspec

from boxflow.codec import decode_value
from boxflow.mail import WebhookRequest
from boxflow.model import EventArrived, RunStatus, StepDone, StepFailed, WebhookArrived
from boxflow.ports import RunQuery
from boxflow_backends.file_store import FileStore
from tests.crash import kill_child
from tests.crash.recorded_store import sending_in_mail

IN_FLIGHT = 12
EARLY = 0.25
"""How many of the deaths come before the child is at work."""

END_S = 60.0
"""How long the last life may take to finish what is left."""


@attrs.define
class Job:
    """One run, as the parent knows it."""

    number: int
    #: Ids of commands, by what they ask for, in the order in which they were sent.
    sent: dict[str, list[str]] = attrs.field(factory=dict[str, list[str]])
    result: int | None = None


class Killing:
    """Lives and deaths of one child on one directory.

    :ivar kills: how often it was killed
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.kills = 0
        self.jobs: dict[int, Job] = {}
        self.acknowledged: set[str] = set()
        self._directory = directory
        self._random = Random(seed)
        self._commands = 0
        self._ready = asyncio.Event()
        self._start_s = 0.0

    async def kill_often(self, times: int) -> None:
        """Let the child live, and kill it, *times* times; then let it finish."""
        while self.kills < times:
            await self._life(self._random.random() * 0.3)
        await self._life(None)

    async def _life(self, span_s: float | None) -> None:
        """One child, killed after *span_s*: mostly of being at work, sometimes of starting."""
        ready = self._ready = asyncio.Event()
        begun = asyncio.get_running_loop().time()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(kill_child.__file__)),
            str(self._directory),
            str(self._random.choice((0, 1, 1000))),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        talking = asyncio.create_task(self._talk(child.stdout, child.stdin, grow=span_s is not None))
        try:
            if span_s is None:
                await asyncio.wait_for(talking, END_S)
                child.stdin.close()
                assert await child.wait() == 0, "the child ended with an error"
            else:
                if self._start_s and self._random.random() < EARLY:
                    # Within the second half of its start, when the store is being opened and the runs come back.
                    await asyncio.wait([talking], timeout=self._start_s * (0.5 + self._random.random()))
                else:
                    async with asyncio.timeout(END_S):
                        await ready.wait()
                    self._start_s = asyncio.get_running_loop().time() - begun
                    await asyncio.wait([talking], timeout=span_s)
                assert not talking.done(), f"the child ended by itself: {talking}"
        finally:
            if child.returncode is None:
                child.send_signal(signal.SIGKILL)
                await child.wait()
                self.kills += 1
            # What it had said before it died was said: read to the end.
            await asyncio.wait([talking])
        talking.result()

    async def _talk(self, heard: asyncio.StreamReader, told: asyncio.StreamWriter, *, grow: bool) -> None:
        async for line in heard:
            match line.decode().split():
                case ["ready"]:
                    self._ready.set()
                    for job in list(self.jobs.values()):
                        self._ask_all(job, told)
                case ["ack", command_id]:
                    self.acknowledged.add(command_id)
                    what, number, _ = command_id.split("-")
                    if what == "start":
                        self._ask(self.jobs[int(number)], "webhook", told)
                case ["result", number, value]:
                    self.jobs[int(number)].result = int(value)
                case other:
                    raise AssertionError(f"the child said {other}")
            open_jobs = [job for job in self.jobs.values() if job.result is None]
            if not grow and not open_jobs:
                return
            for _ in range(IN_FLIGHT - len(open_jobs) if grow else 0):
                job = self.jobs[len(self.jobs)] = Job(len(self.jobs))
                self._ask_all(job, told)

    def _ask_all(self, job: Job, told: asyncio.StreamWriter) -> None:
        """Ask for everything that is not acknowledged yet. Events may come long before they are waited for."""
        if job.result is not None:
            return
        # Starting a run again is asking for its result, which may have been told to nobody.
        self._ask(job, "start", told)
        for what in self._random.sample(("event", "webhook"), 2):
            # A webhook belongs to a run that is there.
            if what == "event" or self.acknowledged.intersection(job.sent["start"]):
                self._ask(job, what, told)

    def _ask(self, job: Job, what: str, told: asyncio.StreamWriter) -> None:
        sent = job.sent.setdefault(what, [])
        if told.is_closing() or (what != "start" and self.acknowledged.intersection(sent)):
            return
        self._commands += 1
        sent.append(f"{what}-{job.number}-{self._commands}")
        told.write(msgspec.json.encode({"id": sent[-1], "do": what, "number": job.number}) + b"\n")

    # --- judging -----------------------------------------------------------------------------------------------------

    async def judge(self) -> None:
        """Compare what the child acknowledged with what is on the disk."""
        for job in self.jobs.values():
            assert job.result == kill_child.expected(job.number), job
        self._judge_effects()
        await self._judge_journals()
        assert not self._left_boxes(), "boxes are left"
        assert not self._left_processes(), "processes are left"

    def _judge_effects(self) -> None:
        acknowledged: set[str] = set()
        for line in (self._directory / "effects").read_text().splitlines():
            what, key = line.split(" ", 1)
            if what == "acknowledged":
                acknowledged.add(key)
            else:
                assert key not in acknowledged, f"step {key} ran again after its outcome was acknowledged"

    async def _judge_journals(self) -> None:
        found: Counter[str] = Counter()
        async with FileStore(self._directory / "store") as store:
            for job in self.jobs.values():
                stored = await store.get_run(str(job.number))
                assert stored is not None, f"run {job.number} is lost"
                assert stored.head.status is RunStatus.COMPLETED
                assert msgspec.json.decode(stored.head.result) == job.result
                settled: Counter[tuple[str, int]] = Counter()
                for outcome in await store.read_journal(str(job.number)):
                    match outcome:
                        case EventArrived():
                            found[outcome.data["id"]] += 1
                        case WebhookArrived():
                            found[decode_value(bytes(outcome.value), WebhookRequest).json()["id"]] += 1
                        case StepDone() | StepFailed():
                            settled[outcome.name, outcome.occurrence] += 1
                        case _:
                            pass
                assert set(settled.values()) == {1}, f"run {job.number} has an outcome twice: {settled}"
            left = await store.find_runs(RunQuery(statuses=frozenset(RunStatus) - {RunStatus.COMPLETED}))
            assert not left, f"runs are left: {left}"
            for item in await store.list_items("mail"):
                found[sending_in_mail(item.value)] += 1
        twice = {command_id: times for command_id, times in found.items() if times > 1}
        assert not twice, f"these were received twice: {twice}"
        for job in self.jobs.values():
            self._judge_sendings(job, set(found))

    def _judge_sendings(self, job: Job, found: set[str]) -> None:
        for what in ("event", "webhook"):
            sent = job.sent[what]
            for number, command_id in enumerate(sent):
                if command_id in self.acknowledged and command_id not in found:
                    # A run's own mail goes with the run; it had been let go on by a sending that nobody acknowledged.
                    assert what == "webhook" and found.intersection(sent[:number]), f"{command_id} is lost"

    def _left_boxes(self) -> list[str]:
        boxes = self._directory / "boxes"
        return [path.name for path in boxes.iterdir()] if boxes.exists() else []

    def _left_processes(self) -> list[str]:
        here = str(self._directory)
        found: list[str] = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().decode(errors="replace")
                if here in words or str((process / "cwd").readlink()).startswith(here):
                    found.append(f"{process.name}: {words}")
            except OSError:
                continue  # It ended meanwhile, or is another user's.
        return found
