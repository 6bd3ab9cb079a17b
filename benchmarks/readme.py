"""Do the pages say what was measured? `python -m benchmarks.readme` writes the tables that are marked in them anew.

A table stands between two comments, of which the first names its kind and the result that it is made from:

    <!-- measured: own benchmarks/results/2026-11-24-quick.json -->
    <!-- end of measured -->

`--own RESULT` and `--peers RESULT` put another result in; `--check` changes nothing and fails where a page is not what
it would write. Pages are README.md and benchmarks/README.md, or those that are named.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks import report
from benchmarks.report import Measured, Report
from benchmarks.rounds import ROOT

BLOCK = re.compile(
    r"<!-- measured: (?P<kind>own|peers) (?P<result>\S+) -->\n(?P<table>.*?)<!-- end of measured -->", re.DOTALL
)
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")

OWN = (
    ("durable steps a second, in memory, 100 runs at once", "steps.memory_100", "per_s"),
    ("durable steps a second, synced to files, 100 runs at once", "steps.file_100", "per_s"),
    ("durable steps a second, synced to files, one run", "steps.file_1", "per_s"),
    ("outcomes replayed a second", "replay.deliver", "per_s"),
    ("from an event to the body that waited for it, evicted, on files (p50, ms)", "latency.file_evicted", "p50_ms"),
    ("webhook calls a second acknowledged as durable", "webhooks.kept", "per_s"),
    ("first result from a cold process, on files (ms)", "startup.first_file", "process_ms"),
    ("for comparison: a bare log with group commit, 100 tasks, appends a second", "steps.group_commit_100", "per_s"),
    ("for comparison: append and sync, one after the other, a second", "steps.append_1", "per_s"),
)
"""The rows of an `own` table; what a result has not measured is left out."""

COLUMNS = (
    ("steps/s, one run", "peers.sequence_1", "per_s"),
    ("steps/s, 100 runs", "peers.sequence_100", "per_s"),
    ("CPU µs a step", "peers.sequence_100", "cpu_us"),
    ("event to body, p50 ms", "peers.waiting", "p50_ms"),
    ("100 runs after SIGKILL, ms", "peers.recovery", "finished_ms"),
    ("cold start, ms", "peers.cold", "finished_ms"),
)
"""The columns of a `peers` table."""


def rewritten(text: str, results: Mapping[str, str], root: Path = ROOT) -> str:
    """*text* with its tables made anew, from these *results* by kind where given, or those that it names.

    :raises FileNotFoundError: a result that it names is not there
    """

    def table(match: re.Match[str]) -> str:
        result = results.get(match["kind"], match["result"])
        found = report.read(root / result)
        lines = MAKERS[match["kind"]](found)
        return "\n".join([f"<!-- measured: {match['kind']} {result} -->", *lines, "<!-- end of measured -->"])

    return BLOCK.sub(table, text)


def own_table(found: Report) -> Iterator[str]:
    yield from ("", "| | |", "| --- | ---: |")
    for what, name, measure in OWN:
        if (value := _measured(found, name, measure)) is not None:
            yield f"| {what} | {report.number(value.median)} |"
    yield from ("", f"{_machine(found)}", "")


def peers_table(found: Report) -> Iterator[str]:
    """A row for each variant; what could not be measured says so."""
    columns = [column for column in COLUMNS if column[1] in found.programs]
    yield from ("", f"| | {' | '.join(label for label, _, _ in columns)} |", f"| --- |{' ---: |' * len(columns)}")
    rows = {name: one.what for answer in found.programs.values() for name, one in answer.subjects.items()}
    for name, what in rows.items():
        cells = [_cell(found, program, name, measure) for _, program, measure in columns]
        yield f"| {what} | {' | '.join(cells)} |"
    yield from ("", f"{_machine(found)}", "")


MAKERS: dict[str, Callable[[Report], Iterator[str]]] = {"own": own_table, "peers": peers_table}


def _cell(found: Report, program: str, name: str, measure: str) -> str:
    subject = found.programs[program].subjects.get(name)
    if subject is None:
        return ""
    value = subject.measures.get(measure)
    return report.number(value.median) if value is not None else "not measured"


def _measured(found: Report, name: str, measure: str) -> Measured | None:
    program, _, subject = name.rpartition(".")
    answer = found.programs.get(program)
    taken = answer.subjects.get(subject) if answer is not None else None
    return taken.measures.get(measure) if taken is not None else None


def _machine(found: Report) -> str:
    machine = found.machine
    quiet = "" if found.quiet else "; others used the machine meanwhile, so that the rates say little"
    return (
        f"Medians of {found.rounds} rounds, {machine.measured_at[:10]}: {machine.processors} × {machine.processor}, "
        f"{machine.file_system}, {machine.python}{quiet}."
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme")
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES)
    parser.add_argument("--own", metavar="RESULT.json", help="from the root of the checkout")
    parser.add_argument("--peers", metavar="RESULT.json", help="from the root of the checkout")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page would change")
    options = parser.parse_args(arguments)
    results = {kind: result for kind in MAKERS if (result := getattr(options, kind))}
    stale = list[Path]()
    marked = set[str]()
    for page in options.pages:
        text = page.read_text(encoding="utf-8")
        marked |= {match["kind"] for match in BLOCK.finditer(text)}
        new = rewritten(text, results)
        if new != text:
            stale.append(page)
            if not options.check:
                page.write_text(new, encoding="utf-8")
    for kind in results.keys() - marked:
        print(f"no page has a place for a table of {kind!r}; mark it with these two lines:")
        print(f"<!-- measured: {kind} {results[kind]} -->\n<!-- end of measured -->")
        return 2
    for page in stale:
        print(f"{'not what its result says' if options.check else 'written'}: {page}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
