"""What a person sees while the pipeline runs: a table on a terminal, lines in a log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from boxflow import BoxflowError, Engine, Outcome, Run
from boxflow.model import StepFailed
from examples.port_change.workflow import LANGUAGES

LOOK_EVERY_S = 0.2

WORDS = {
    "create": "has a box",
    "git.clone": "has cloned the repository",
    "files.write": "has its files",
    "exec.command": "agent is at work",
    "agent": "agent has called its webhook",
    "git.diff": "diff taken",
    "delete": "done, box deleted",
}


@dataclass
class Row:
    """One box of the pipeline, from its first outcome to its last."""

    name: str
    words: str = "starts"
    agent: str = ""
    since: float = field(default_factory=time.monotonic)
    took_s: float | None = None
    is_history: bool = False

    def cells(self) -> tuple[Spinner | Text, str, str, str]:
        done = self.took_s is not None
        mark = Text("✔", style="green") if done else Spinner("dots", style="cyan")
        took = self.took_s if self.took_s is not None else time.monotonic() - self.since
        return (
            mark,
            self.name,
            self.words + (f": {self.agent}" if self.agent and self.words == WORDS["exec.command"] else ""),
            f"{took:.1f} s",
        )


class Board:
    """All that is known about the pipeline, and the table of what is new."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self.seen: set[tuple[str, int]] = set()

    def take(self, run_id: str, outcome: Outcome) -> str | None:
        """Learn from an outcome; returns it as a line, if it is a new one, and one of a box."""
        if (run_id, outcome.seq) in self.seen:
            return None
        self.seen.add((run_id, outcome.seq))
        box, _, call = outcome.name.partition(".")
        if outcome.kind == "webhook_arrived":
            box, call = run_id.partition("port-")[2].partition("#")[0], outcome.name
        if outcome.name == "publish":
            return self._published(run_id, outcome)
        if box not in LANGUAGES or not call:
            return None
        row = self.rows.setdefault((run_id, box), Row(box + (" (again)" if "#" in run_id else "")))
        row.words = WORDS.get(call, call)
        if isinstance(outcome, StepFailed):
            row.words = f"{call} failed: {outcome.error}"
        if call == "delete":
            row.took_s = time.monotonic() - row.since
        return f"{row.name}: {row.words}"

    def _published(self, run_id: str, outcome: Outcome) -> str:
        words = "branch made" if outcome.kind == "step_done" else outcome.kind
        self.rows[run_id, "publish"] = Row("publish", words, took_s=0.0)
        return f"publish: {words}"

    def hear(self, box: str, words: str) -> None:
        """Learn what an agent says about itself."""
        for (_, name), row in self.rows.items():
            if name == box and row.took_s is None:
                row.agent = words

    def __rich__(self) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for row in self.rows.values():
            if not row.is_history:
                table.add_row(*row.cells())
        return table

    def turn_page(self) -> None:
        """What is over now is not shown again."""
        for row in self.rows.values():
            row.is_history = row.took_s is not None


@asynccontextmanager
async def watching(engine: Engine, run: Run[object], board: Board, console: Console) -> AsyncIterator[None]:
    """Show *run* and its children for as long as the block lasts."""
    async with asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(_follow_all(tasks, engine, run, board, console))
        listening = tasks.create_task(_listen(engine, board))
        with Live(board, console=console, refresh_per_second=10) if console.is_terminal else nullcontext():
            try:
                yield
                await asyncio.sleep(2 * LOOK_EVERY_S)  # For the last outcomes to be seen.
            finally:
                looking.cancel()
                listening.cancel()
    board.turn_page()


async def _follow_all(
    tasks: asyncio.TaskGroup, engine: Engine, run: Run[object], board: Board, console: Console
) -> None:
    followed: dict[str, asyncio.Task[None]] = {}
    try:
        while True:
            async for found in engine.runs():
                if found.id not in followed and (found.id + "/").startswith(run.id + "/"):
                    followed[found.id] = tasks.create_task(_follow(found, board, console))
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        for task in followed.values():
            task.cancel()


async def _follow(run: Run[object], board: Board, console: Console) -> None:
    async for outcome in run.watch():
        line = board.take(run.id, outcome)
        if line and not console.is_terminal:
            console.print(f"  {outcome.time:%H:%M:%S}  {line}")


async def _listen(engine: Engine, board: Board) -> None:
    """Read what agents write in their boxes: outside of a workflow a box answers at once."""
    while True:
        for box in await engine.boxes.list():
            with suppress(BoxflowError):  # It may be gone by now, or have no agent.
                said = (await box.files.read("agent.log")).split("\n")
                board.hear(box.name, said[-2] if len(said) > 1 else "")
        await asyncio.sleep(LOOK_EVERY_S)
