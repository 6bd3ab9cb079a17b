"""Has boxflow become slower, beside its floors? `python -m benchmarks --shape [--compare RESULT.json]`, in seconds.

No absolute time is looked at: machines differ, and are busy. What is compared is how boxflow does beside a floor in the
same moment, with how it did in a committed result. It fails only when that has halved both in rate and in processor
time (a disk with faster syncs changes the first, not the second), in each of several attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from benchmarks import report, rounds
from benchmarks.model import Sample

ATTEMPTS = 4
HALF = 0.5
MOST_OPERATIONS = 10_000


@attrs.frozen(kw_only=True)
class Case:
    """A subject and its floor, both of the program `steps`, or of the one that is named before a dot."""

    subject: str
    floor: str


CASES = (
    Case(subject="steps.memory_100", floor="steps.asyncio_100"),
    Case(subject="steps.file_100", floor="steps.group_commit_100"),
    Case(subject="replay.deliver", floor="steps.asyncio_100"),
)


@attrs.frozen(kw_only=True)
class Verdict:
    """How a case does beside the committed result: 1.0 is as well, 0.5 half as well."""

    case: Case
    rate: float
    cpu: float

    @property
    def holds(self) -> bool:
        return max(self.rate, self.cpu) >= HALF

    def __str__(self) -> str:
        verdict = "as before" if self.holds else "HALVED"
        return (
            f"{self.case.subject} beside {self.case.floor}: {self.rate:.2f} of the committed ratio in rate, "
            f"{self.cpu:.2f} in processor time: {verdict}"
        )


Values = Mapping[str, Mapping[str, float]]
"""Measures by name, by `program.subject`."""


def judge(case: Case, committed: Values, now: Values) -> Verdict:
    """What has become of the case's ratios since the committed result."""

    def ratio(values: Values, measure: str) -> float:
        return values[case.subject][measure] / values[case.floor][measure]

    return Verdict(
        case=case,
        rate=ratio(now, "per_s") / ratio(committed, "per_s"),
        cpu=ratio(committed, "cpu_us") / ratio(now, "cpu_us"),  # Less is better.
    )


def newest(results: Path) -> Path:
    """The newest committed result that has what is compared."""
    needed = {name for case in CASES for name in (case.subject, case.floor)}
    for path in sorted(results.glob("*.json"), reverse=True):
        if needed <= medians(report.read(path)).keys():
            return path
    raise FileNotFoundError(f"{results} has no result with {', '.join(sorted(needed))}; name one with --compare")


def medians(found: report.Report) -> dict[str, dict[str, float]]:
    return {
        f"{program}.{name}": {measure: value.median for measure, value in subject.measures.items()}
        for program, answer in found.programs.items()
        for name, subject in answer.subjects.items()
    }


def operations(found: report.Report, name: str) -> int:
    """As many as were committed: a run's beginning and end are spread over its steps."""
    program, _, subject = name.partition(".")
    return min(found.programs[program].subjects[subject].samples[0].operations, MOST_OPERATIONS)


def main(path: Path, directory: Path, say: Callable[[str], None]) -> int:
    """Compare, say what was found, and return the exit status: 1 if a ratio has halved."""
    committed = report.read(path)
    open_cases = list(CASES)
    for attempt in range(ATTEMPTS):
        names = list(dict.fromkeys(name for case in open_cases for name in (case.floor, case.subject)))
        samples: dict[str, Sample] = {}
        for name in names:
            program, _, subject = name.partition(".")
            samples[name] = rounds.one(program, subject, operations(committed, name), directory)
            if samples[name].error:
                raise RuntimeError(f"{name} could not be measured: {samples[name].error}")
        now = {name: sample.values for name, sample in samples.items()}
        verdicts = [judge(case, medians(committed), now) for case in open_cases]
        for verdict in verdicts:
            say(f"attempt {attempt + 1}: {verdict}")
        open_cases = [verdict.case for verdict in verdicts if not verdict.holds]
        if not open_cases:
            return 0
    say(f"slower in shape than {path.name}: {', '.join(case.subject for case in open_cases)}")
    return 1
