"""`python -m benchmarks`: measure, print the tables, and keep the numbers. See README.md."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import attrs

from benchmarks import machine, plots, report, rounds, shape
from benchmarks.model import Program, Size
from benchmarks.peers import installing
from benchmarks.peers import programs as peer_programs
from benchmarks.peers.sampling import SECONDS
from benchmarks.programs import NAMES, load

RESULTS = Path(__file__).parent / "results"
ROUNDS = {Size.TINY: 1, Size.QUICK: 3, Size.NORMAL: 5, Size.FULL: 5}
PEER_ROUNDS = {Size.TINY: 1, Size.QUICK: 1, Size.NORMAL: 3, Size.FULL: 5}
PEER_SECONDS = {Size.TINY: 0.2, Size.QUICK: 1.0, Size.NORMAL: 1.5, Size.FULL: 5.0}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures boxflow beside its floors.")
    found.add_argument("--peers", action="store_true", help="the same work by other engines, which it installs")
    found.add_argument("--quick", action="store_const", const=Size.QUICK, dest="size", help="minutes, for a look")
    found.add_argument("--full", action="store_const", const=Size.FULL, dest="size", help="a million waiting runs, too")
    found.add_argument("--size", type=Size, choices=list(Size), help="tiny, quick, normal (the default) or full")
    every = (*NAMES, *peer_programs.NAMES)
    found.add_argument("--only", nargs="+", choices=every, metavar="NAME", help=f"some of {', '.join(every)}")
    found.add_argument("--subjects", nargs="+", metavar="NAME", help="only these subjects of the programs")
    found.add_argument("--rounds", type=int, help="how often each subject is measured")
    found.add_argument("--minutes", type=float, help="fewer rounds rather than longer than that; 28 with --peers")
    found.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go, and table and plots beside it")
    found.add_argument("--compare", type=Path, metavar="OLD.json", help="say what changed since that result")
    found.add_argument("--directory", type=Path, help="on which disk; .boxflow in the checkout by default")
    found.add_argument("--uvloop", action="store_true", help="run boxflow and the floors on uvloop")
    found.add_argument("--shape", action="store_true", help="seconds: fail if a ratio to a floor has halved")
    return found


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.uvloop:
        os.environ["BOXFLOW_BENCH_UVLOOP"] = "1"
    directory: Path = options.directory or rounds.ROOT / ".boxflow" / "benchmarks"
    directory.mkdir(parents=True, exist_ok=True)
    if options.shape:
        sys.exit(shape.main(options.compare or shape.newest(RESULTS), directory, say))
    earlier = report.read(options.compare) if options.compare else None
    facts = machine.look(directory)
    if facts.file_system.startswith(("tmpfs", "overlay")):
        say(f"warning: {facts.file_system} is not a disk of its own; a sync may cost nothing there. Use --directory")

    found, programs = measured(options, facts, directory)
    path = options.json or default_path(options, facts)
    pictures: dict[str, str] = {}
    if path is not None:
        drawn = plots.write(path.with_suffix(""), found, programs)
        pictures = {name: f"{path.stem}/{file.name}" for name, file in drawn.items()}
    page = report.as_markdown(found, programs, pictures)
    print(page)
    if earlier is not None:
        print(report.as_comparison(earlier, found))
    if path is not None:
        report.write(path, found)
        path.with_suffix(".md").write_text(page)
        say(f"written: {path} and {path.with_suffix('.md')}")


def measured(
    options: argparse.Namespace, facts: machine.Machine, directory: Path
) -> tuple[report.Report, list[Program]]:
    """What the chosen programs say."""
    size: Size = options.size or Size.NORMAL
    names: list[str] = options.only or list(peer_programs.NAMES if options.peers else NAMES)
    has_peers = any(name in peer_programs.NAMES for name in names)
    programs = [program for name in names if (program := chosen(load(name), options.subjects)).subjects]
    installed: dict[str, list[str]] = {}
    if has_peers:
        os.environ.setdefault(SECONDS, str(PEER_SECONDS[size]))
        installed = install(programs)
    times: int = options.rounds or (PEER_ROUNDS if has_peers else ROUNDS)[size]
    minutes = options.minutes or (28 if has_peers else float("inf"))
    ends_at = time.monotonic() + minutes * 60
    answers: dict[str, report.ProgramReport] = {}
    for number, program in enumerate(programs):
        share_s = (ends_at - time.monotonic()) / (len(programs) - number)
        samples = rounds.measure(program, size, times, directory, say, seconds=share_s)
        if samples:
            answers[program.name] = report.of_program(program, samples)
    quiet = report.is_quiet(answers.values())
    return report.Report(
        machine=facts, size=size, rounds=times, quiet=quiet, programs=answers, peers=installed
    ), programs


def install(programs: list[Program]) -> dict[str, list[str]]:
    """Install the peers among the programs' subjects; what each is made of."""
    subjects = {subject.name for program in programs for subject in program.subjects}
    needed = [name for name in installing.PACKAGES if any(one.startswith(f"{name}_") for one in subjects)]
    for name in needed:
        installing.install(name, say)
    return {name: [*installing.PACKAGES[name].python, *installing.PACKAGES[name].node] for name in needed}


def chosen(program: Program, names: list[str] | None) -> Program:
    """*program* with the subjects of these *names* only."""
    if names is None:
        return program
    return attrs.evolve(program, subjects=tuple(one for one in program.subjects if one.name in names))


def default_path(options: argparse.Namespace, facts: machine.Machine) -> Path | None:
    """Where a complete result is kept; a partial one only where `--json` says."""
    partial = options.only or options.subjects or (options.size or Size.NORMAL) in (Size.TINY, Size.QUICK)
    kind = "peers" if options.peers else facts.loop
    return None if partial else RESULTS / f"{facts.measured_at[:10]}-{kind}.json"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
