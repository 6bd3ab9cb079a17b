"""The demo's command line; `python -m examples.port_change --help` says what it takes."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.syntax import Syntax

from boxflow import Engine, Run
from examples.port_change import proof
from examples.port_change.approve import answer, answer_question
from examples.port_change.repository import commits_of, make_repository
from examples.port_change.service import Place, serving
from examples.port_change.stages import Stage, reached
from examples.port_change.watch import Board, watching
from examples.port_change.workflow import LANGUAGES, Change, Patch, Ported, Verdict, port_everywhere, review_id

RUN_ID = "demo"


def main() -> None:
    arguments = parse()
    console = Console(highlight=False)
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="boxflow-demo-"))
    place = Place(directory.resolve())
    place.directory.mkdir(parents=True, exist_ok=True)
    if arguments.command == "approve":
        verdict = Verdict(approved=not arguments.feedback, feedback=arguments.feedback or "")
        console.print(answer_question(place, verdict))
        return
    answers = None
    if arguments.yes:
        answers = [Verdict(approved=False, feedback=arguments.feedback)] if arguments.feedback else []
    work_s = 0.6 if arguments.fast else 4.0
    try:
        asyncio.run(show(console, place, work_s, answers))
    except KeyboardInterrupt:
        again = shlex.join([sys.executable, "-m", "examples.port_change", "--directory", str(place.directory)])
        console.print(
            f"\nstopped. Nothing is lost, and the agents are still at work; go on with\n  {again}", soft_wrap=True
        )
        sys.exit(130)
    if arguments.prove:
        console.print(Rule("the hard proof"))
        if not asyncio.run(proof.prove(console, place.directory / "proof", seed=arguments.seed)):
            sys.exit(1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.port_change",
        description="Port one change to three SDKs: agents in boxes, a person who approves, and a process that dies.",
    )
    parser.add_argument("--yes", action="store_true", help="approve by itself")
    parser.add_argument(
        "--feedback", metavar="TEXT", help="with --yes or approve: first send the agents back with this"
    )
    parser.add_argument("--fast", action="store_true", help="agents think for less than a second")
    parser.add_argument(
        "--directory", type=Path, help="where everything is kept; a new one unless given. Again: goes on"
    )
    parser.add_argument("--prove", action=argparse.BooleanOptionalAction, default=True, help="kill it again and again")
    parser.add_argument("--seed", type=int, default=1, help="when it is killed")
    commands = parser.add_subparsers(dest="command", metavar="approve DIRECTORY")
    approve = commands.add_parser("approve", help="answer a demo that waits in another terminal")
    approve.add_argument("directory", type=Path, metavar="DIRECTORY")
    approve.add_argument("--feedback", metavar="TEXT", help="send the agents back to work with this")
    return parser.parse_args()


async def show(console: Console, place: Place, work_s: float, answers: list[Verdict] | None) -> None:
    """Run the pipeline and show it. With *answers* nobody is asked: they are given in order, then it is approved."""
    commit = make_repository(place.repository)
    console.print(Rule("port this change to three SDKs"))
    console.print(f"the change is commit {commit[:8]} in {place.repository}", soft_wrap=True)
    async with serving(place) as engine:
        run = await engine.start(port_everywhere, Change(str(place.repository), commit, work_s), run_id=RUN_ID)
        board = Board()
        while True:
            async with watching(engine, run, board, console):
                stage, rounds = await reached(run, (Stage.REVIEW, Stage.OVER))
            if stage is Stage.OVER:
                break
            await review(console, engine, run, place, rounds, answers)
        result = await run.result()
        left = await engine.boxes.list()
    report(console, place, result, len(left))


async def review(
    console: Console, engine: Engine, run: Run[Ported], place: Place, rounds: int, answers: list[Verdict] | None
) -> None:
    """Show the patches, and wait until somebody has said what he thinks of them."""
    for language in LANGUAGES:
        child = await engine.get(f"{run.id}/port-{language}" + (f"#{rounds}" if rounds > 1 else ""))
        patch: Patch = await child.result()
        console.print(Rule(patch.summary, style="dim"))
        if console.is_terminal:
            console.print(Syntax(patch.diff, "diff", theme="ansi_dark", background_color="default"))
        else:
            console.out(patch.diff)
    url = f"{place.base_url}/events/{review_id(run.id, rounds)}"
    if answers is not None:
        verdict = answers.pop(0) if answers else Verdict(approved=True)
        await asyncio.to_thread(answer, url, verdict)
        said = "approved" if verdict.approved else f"sent back: {verdict.feedback}"
        console.print(f"[bold]{said}[/] (--yes, over HTTP)")
        await reached(run, (Stage.PORTING, Stage.PUBLISHING, Stage.OVER))
        return
    place.question.write_text(json.dumps({"url": url}), encoding="utf-8")
    command = [sys.executable, "-m", "examples.port_change", "approve", str(place.directory)]
    console.print(Rule("now it is your turn", style="bold"))
    console.print("Approve in a second terminal, in this directory:\n", style="bold")
    console.print(f"  {shlex.join(command)}", soft_wrap=True)
    console.print(f'  {shlex.join(command)} --feedback "mention the formula"\n', soft_wrap=True)
    console.print("(Ctrl-C is harmless here: start again with the same --directory and it still waits.)", style="dim")
    try:
        with console.status("waiting for you, up to three days; nothing runs meanwhile"):
            await reached(run, (Stage.PORTING, Stage.PUBLISHING, Stage.OVER))
    finally:
        place.question.unlink(missing_ok=True)


def report(console: Console, place: Place, result: Ported, left: int) -> None:
    console.print(
        f"\n[bold green]published[/] as branch {result.branch}, after {result.rounds} round(s); boxes left: {left}"
    )
    for subject in commits_of(place.repository, result.branch):
        console.print(f"  {subject}")
    console.print("\nWhere to look at it:", style="bold")
    looks = [
        f"git -C {place.repository} log --stat main..{result.branch}",
        f"ls {place.state}                # the journals of all runs: one JSON line for each outcome",
        f"grep -h '\"append\"' {place.state}/log/*.jsonl | tail -3",
    ]
    for look in looks:
        console.print(f"  {look}", soft_wrap=True)


if __name__ == "__main__":
    main()
