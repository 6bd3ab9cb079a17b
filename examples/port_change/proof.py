"""The hard proof: the same pipeline in a process that is killed with SIGKILL again and again, and then looked at.

    python -m examples.port_change.proof DIRECTORY     is that process

It prints a line for each outcome, so that its killer knows how far it has come. An undisturbed run beside it says what
the result must be.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from boxflow import Engine, Run
from examples.port_change.approve import answer
from examples.port_change.repository import commits_of, make_repository, tree_of
from examples.port_change.service import Place, make_engine, serving
from examples.port_change.stages import Stage, reached
from examples.port_change.workflow import Change, Ported, Verdict, port_everywhere, review_id

RUN_ID = "proof"
WORK_S = 0.5
KILL_ABOUT_EVERY = 5  # records
LONGEST_S = 120.0
LEAST_KILLS = 5
MOST_ROUNDS = 5
ENDINGS = ("step_done", "step_failed", "event_arrived", "webhook_arrived", "child_ended", "timer_fired")


# --- the process that is killed --------------------------------------------------------------------------------------


async def live(place: Place) -> None:
    """One life of the pipeline: begin it, or go on with it, and stay until it is over."""
    async with serving(place) as engine:
        change = Change(str(place.repository), make_repository(place.repository), WORK_S)
        run = await engine.start(port_everywhere, change, run_id=RUN_ID)
        async with asyncio.TaskGroup() as tasks:
            telling = tasks.create_task(tell(tasks, engine))
            stage, rounds = await reached(run, (Stage.REVIEW, Stage.PUBLISHING, Stage.OVER))
            if stage is Stage.REVIEW:
                url = f"{place.base_url}/events/{review_id(run.id, rounds)}"
                await asyncio.to_thread(answer, url, Verdict(approved=True))
            await run.result()
            telling.cancel()


async def tell(tasks: asyncio.TaskGroup, engine: Engine) -> None:
    followed: set[str] = set()
    while True:
        async for run in engine.runs():
            if run.id not in followed:
                followed.add(run.id)
                tasks.create_task(tell_one(run))
        await asyncio.sleep(0.02)


async def tell_one(run: Run[object]) -> None:
    async for outcome in run.watch():
        print(run.id, outcome.seq, outcome.name, flush=True)


# --- the one that kills ----------------------------------------------------------------------------------------------


def kill(pid: int) -> None:
    """SIGKILL. Not `process.kill()`, which looks at the process first, and so may take its end from asyncio."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@dataclass
class Victim:
    """The pipeline in a process of its own, over all its lives."""

    place: Place
    seen: dict[tuple[str, str], str] = field(default_factory=dict)

    async def live(self, until: int | None = None, after_s: float = 0.0) -> bool:
        """Let it live; kill it once it has recorded *until* outcomes in all its lives, and *after_s* more have passed.

        Returns whether it was killed.
        """
        self.place.directory.mkdir(parents=True, exist_ok=True)
        with (self.place.directory / "stderr.log").open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "examples.port_change.proof", str(self.place.directory)),
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                run_id, seq, name = line.decode().split(maxsplit=2)
                self.seen[run_id, seq] = name.strip()
                if until is not None and len(self.seen) >= until:
                    await asyncio.sleep(after_s)
                    kill(process.pid)
                    break
        except BaseException:
            kill(process.pid)
            raise
        finally:
            await process.communicate()
        if process.returncode not in (0, -signal.SIGKILL):
            last = (self.place.directory / "stderr.log").read_text(encoding="utf-8").splitlines()[-1:]
            raise SystemExit(f"the pipeline's process ended by itself, with {process.returncode}: {last}")
        return process.returncode != 0

    def last(self) -> str:
        (run_id, _), name = list(self.seen.items())[-1]
        return f"{name}   ({run_id})"


async def prove(console: Console, directory: Path, *, seed: int) -> bool:
    """Kill the pipeline at many moments; returns whether everything held."""
    chance = random.Random(seed)
    async with asyncio.timeout(LONGEST_S):
        with console.status("an undisturbed run, to know the result"):
            undisturbed = Victim(Place(directory / "undisturbed"))
            await undisturbed.live()
            expected = await look(undisturbed.place)
        console.print(f"the undisturbed run recorded {expected.records} outcomes. Now the same with SIGKILL:")
        kills = 0
        for number in range(1, MOST_ROUNDS + 1):
            victim = Victim(Place(directory / f"killed-{number}"))
            kills += await kill_often(console, victim, expected.records, chance)
            found = await look(victim.place)
            # On a busy machine it may be done before it could be killed often: then once more, if all is well so far.
            if (
                kills >= LEAST_KILLS
                or number == MOST_ROUNDS
                or not all(check[2] for check in compared(expected, found))
            ):
                break
            console.print("it was done too soon; once more")
    return judge(console, [("killed with SIGKILL", f"{kills} times", kills >= LEAST_KILLS), *compared(expected, found)])


async def kill_often(console: Console, victim: Victim, records: int, chance: random.Random) -> int:
    """Let it live and die until it is done; returns how often it was killed."""
    kills, target = 0, 1
    while True:
        # Some time after the record as well: while agents work, while a step is under way, while nothing is.
        after_s = chance.choice([0.0, 0.0, chance.uniform(0, 0.05), chance.uniform(0.1, 0.4)])
        killed = await victim.live(target, after_s) if target < records else await victim.live()
        if not killed:
            return kills
        kills += 1
        absent_s = chance.choice([0.0, 0.0, 2 * WORK_S])
        line = f"  kill {kills:>2}   {after_s * 1000:4.0f} ms after record {len(victim.seen):>2}   {victim.last()}"
        console.print(line, soft_wrap=True)
        if absent_s:
            console.print(
                f"            dead for {absent_s:g} s: an agent that calls meanwhile calls in vain, and again"
            )
            await asyncio.sleep(absent_s)
        target = len(victim.seen) + chance.randint(1, 2 * KILL_ABOUT_EVERY - 1)


# --- the one that looks at what is left ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What one pipeline left behind."""

    result: Ported
    tree: str
    commits: list[str]
    records: int
    twice: list[str]
    gaps: list[str]
    open_runs: list[str]
    boxes: list[str]
    processes: list[str]


async def look(place: Place) -> Found:
    twice: list[str] = []
    gaps: list[str] = []
    open_runs: list[str] = []
    records = 0
    async with make_engine(place) as engine:
        result: Ported = await (await engine.get(RUN_ID)).result(timeout=10)
        async for run in engine.runs():
            outcomes = await run.history()
            records += len(outcomes)
            keys = Counter((outcome.name, outcome.occurrence) for outcome in outcomes if outcome.kind in ENDINGS)
            twice += [f"{run.id}: {name} #{occurrence}" for (name, occurrence), count in keys.items() if count > 1]
            gaps += [run.id] if [outcome.seq for outcome in outcomes] != list(range(1, len(outcomes) + 1)) else []
            open_runs += [] if (await run.status()).is_final else [run.id]
        boxes = [box.id for box in await engine.boxes.list()]
    boxes += [
        entry.name for entry in place.boxes.iterdir() if not entry.name.startswith(".") and entry.name not in boxes
    ]
    return Found(
        result=result,
        tree=tree_of(place.repository, result.branch),
        commits=commits_of(place.repository, result.branch),
        records=records,
        twice=twice,
        gaps=gaps,
        open_runs=open_runs,
        boxes=boxes,
        processes=processes_below(place.directory),
    )


def processes_below(directory: Path) -> list[str]:
    """Living processes whose command line, or environment where it can be read, names *directory*."""
    if not Path("/proc/self/environ").exists():
        listed = subprocess.run(["ps", "-axww", "-o", "command="], capture_output=True, text=True, check=True).stdout
        return [line for line in listed.splitlines() if str(directory) in line]
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            if command and os.fsencode(directory) in command + (entry / "environ").read_bytes():
                found.append(command.replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # Ended meanwhile, or another user's.
    return found


Check = tuple[str, str, bool]
"""What is looked at, what was found, and whether it holds."""


def compared(expected: Found, found: Found) -> list[Check]:
    """What must be as in the undisturbed run."""
    return [
        ("outcomes recorded", f"{found.records}, as undisturbed", found.records == expected.records),
        ("result, patch by patch", "the same", found.result == expected.result),
        (
            "published tree and commits",
            found.tree[:12],
            (found.tree, found.commits) == (expected.tree, expected.commits),
        ),
        ("steps recorded twice", _count(found.twice), not found.twice),
        ("journals with gaps", _count(found.gaps), not found.gaps),
        ("runs left open", _count(found.open_runs), not found.open_runs),
        ("boxes left", _count(found.boxes), not found.boxes),
        ("processes left", _count(found.processes), not found.processes),
    ]


def judge(console: Console, checks: list[Check]) -> bool:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for what, value, holds in checks:
        table.add_row("[green]✔[/]" if holds else "[red]✘[/]", what, value if holds else f"[red]{value}[/]")
    console.print(table)
    holds = all(check[2] for check in checks)
    console.print("[bold green]it holds[/]" if holds else "[bold red]IT DOES NOT HOLD[/]")
    return holds


def _count(names: list[str]) -> str:
    return f"{len(names)}" + (f": {', '.join(names[:5])}" if names else "")


if __name__ == "__main__":
    asyncio.run(live(Place(Path(sys.argv[1]))))
