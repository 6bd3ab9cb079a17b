"""`python -m benchmarks`: measure, print the tables, and keep the numbers. See README.md."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks import machine, report, rounds
from benchmarks.model import Program, Size
from benchmarks.programs import NAMES, load

RESULTS = Path(__file__).parent / "results"
ROUNDS = {Size.TINY: 1, Size.QUICK: 3, Size.NORMAL: 5, Size.FULL: 5}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures boxflow beside its floors.")
    found.add_argument("--quick", action="store_const", const=Size.QUICK, dest="size", help="minutes, for a look")
    found.add_argument("--full", action="store_const", const=Size.FULL, dest="size", help="a million waiting runs, too")
    found.add_argument("--size", type=Size, choices=list(Size), help="tiny, quick, normal (the default) or full")
    found.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"some of {', '.join(NAMES)}")
    found.add_argument("--subjects", nargs="+", metavar="NAME", help="only these subjects of the programs")
    found.add_argument("--rounds", type=int, help="how often each subject is measured")
    found.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go, and the table beside it")
    found.add_argument("--compare", type=Path, metavar="OLD.json", help="say what changed since that result")
    found.add_argument("--directory", type=Path, help="on which disk; .boxflow in the checkout by default")
    found.add_argument("--uvloop", action="store_true", help="run boxflow and the floors on uvloop")
    return found


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    size: Size = options.size or Size.NORMAL
    times: int = options.rounds or ROUNDS[size]
    if options.uvloop:
        os.environ["BOXFLOW_BENCH_UVLOOP"] = "1"
    directory: Path = options.directory or rounds.ROOT / ".boxflow" / "benchmarks"
    directory.mkdir(parents=True, exist_ok=True)
    earlier = report.read(options.compare) if options.compare else None
    facts = machine.look(directory)
    if facts.file_system.startswith(("tmpfs", "overlay")):
        say(f"warning: {facts.file_system} is not a disk of its own; a sync may cost nothing there. Use --directory")

    programs: list[Program] = [chosen(load(name), options.subjects) for name in options.only or NAMES]
    answers: dict[str, report.ProgramReport] = {}
    for program in programs:
        samples = rounds.measure(program, size, times, directory, say)
        if samples:
            answers[program.name] = report.of_program(program, samples)
    found = report.Report(
        machine=facts, size=size, rounds=times, quiet=report.is_quiet(answers.values()), programs=answers
    )
    page = report.as_markdown(found, programs)
    print(page)
    if earlier is not None:
        print(report.as_comparison(earlier, found))
    path = options.json or default_path(options, facts)
    if path is not None:
        report.write(path, found)
        path.with_suffix(".md").write_text(page)
        say(f"written: {path} and {path.with_suffix('.md')}")


def chosen(program: Program, names: list[str] | None) -> Program:
    """*program* with the subjects of these *names* only."""
    if names is None:
        return program
    subjects = tuple(subject for subject in program.subjects if subject.name in names)
    return Program(name=program.name, question=program.question, subjects=subjects, targets=program.targets)


def default_path(options: argparse.Namespace, facts: machine.Machine) -> Path | None:
    """Where a complete result is kept; a partial one only where `--json` says."""
    partial = options.only or options.subjects or (options.size or Size.NORMAL) in (Size.TINY, Size.QUICK)
    return None if partial else RESULTS / f"{facts.measured_at[:10]}-{facts.loop}.json"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
