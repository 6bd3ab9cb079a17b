"""What is said about the samples? Medians and spread, ratios within a round, and whether each target holds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from benchmarks.machine import Machine
from benchmarks.model import Program, Sample, Size, Subject, Target

FORMAT = 1

QUIET = 0.35
"""Up to how many processors others may keep busy during a sample that is called quiet."""

LABELS = {
    "per_s": "per second",
    "cpu_us": "CPU µs each",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "run_bytes": "bytes a run",
    "reopened_bytes": "bytes a run, reopened",
    "disk_bytes": "bytes a run on disk",
    "open_ms": "open ms",
    "close_ms": "close ms",
    "open_rss_bytes": "RSS bytes",
    "resume_ms": "resume ms",
    "rebuild_ms": "rebuild ms",
    "process_ms": "process ms",
    "inside_ms": "inside ms",
    "peak_bytes": "growth bytes",
    "written_bytes": "bytes written each",
    "driver_mb": "driver's peak MB",
    "server_mb": "servers' MB",
    "started_per_s": "started per second",
    "started": "runs",
    "lost": "lost",
    "finished_ms": "ms until done",
    "ready_ms": "ms until ready",
    "import_ms": "import ms",
}


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A measure over the rounds."""

    median: float
    least: float
    most: float


class SubjectReport(msgspec.Struct, frozen=True, kw_only=True):
    """A subject's samples, and each of its measures."""

    what: str
    samples: list[Sample]
    measures: dict[str, Measured]


class TargetReport(msgspec.Struct, frozen=True, kw_only=True):
    """A promise, what was measured, and whether it holds. *measured* of a ratio is the median of the rounds' ratios."""

    promise: str
    measured: Measured
    limit: float
    at_least: bool
    holds: bool


class ProgramReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one question."""

    question: str
    subjects: dict[str, SubjectReport]
    targets: list[TargetReport]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one call of `python -m benchmarks` has measured.

    :param peers: what each peer was installed from, where peers were measured
    """

    format: int = FORMAT
    machine: Machine
    size: Size
    rounds: int
    quiet: bool
    programs: dict[str, ProgramReport]
    peers: dict[str, list[str]] = {}


def of_program(program: Program, samples: Mapping[str, Sequence[Sample]]) -> ProgramReport:
    """The answer that *samples* give, by name of the subject."""
    by_name = {subject.name: subject for subject in program.subjects}
    subjects = {
        name: SubjectReport(what=by_name[name].what, samples=list(taken), measures=dict(_measures(taken)))
        for name, taken in samples.items()
    }
    targets = [found for target in program.targets if (found := of_target(target, samples)) is not None]
    return ProgramReport(question=program.question, subjects=subjects, targets=targets)


def _measures(samples: Sequence[Sample]) -> Iterator[tuple[str, Measured]]:
    for name in dict.fromkeys(name for sample in samples for name in sample.values):
        yield name, spread([sample.values[name] for sample in samples if name in sample.values])


def of_target(target: Target, samples: Mapping[str, Sequence[Sample]]) -> TargetReport | None:
    """Whether *target* holds; None where its subjects were not measured."""
    taken = samples.get(target.subject, ())
    if target.over is None:
        values = [sample.values[target.measure] for sample in taken if not sample.error]
    else:
        values = ratios(taken, samples.get(target.over, ()), target.measure)
    if not values:
        return None
    measured = spread(values)
    holds = measured.median >= target.limit if target.at_least else measured.median <= target.limit
    return TargetReport(
        promise=target.promise, measured=measured, limit=target.limit, at_least=target.at_least, holds=holds
    )


def ratios(samples: Sequence[Sample], references: Sequence[Sample], measure: str) -> list[float]:
    """A measure over the same measure of a reference, of each round that has both."""
    both = zip(samples, references, strict=False)  # Reports may lack one of the two altogether.
    return [
        sample.values[measure] / reference.values[measure]
        for sample, reference in both
        if measure in sample.values and reference.values.get(measure)
    ]


def spread(values: Sequence[float]) -> Measured:
    return Measured(median=statistics.median(values), least=min(values), most=max(values))


def is_quiet(programs: Iterable[ProgramReport]) -> bool:
    """Whether the machine was ours while it was measured, as far as the samples tell."""
    subjects = [subject for program in programs for subject in program.subjects.values()]
    noises = [one.measures["noise"].median for one in subjects if "noise" in one.measures]
    return bool(noises) and max(noises) <= QUIET


# --- as text -------------------------------------------------------------------------------------------------------


def as_markdown(report: Report, programs: Sequence[Program], plots: Mapping[str, str] = MappingProxyType({})) -> str:
    """The report as a page, with the *plots* by name of their program."""
    machine = report.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    lines = [
        f"# Measured {machine.measured_at}",
        "",
        f"{machine.processors} × {machine.processor}, {machine.memory_gib:g} GiB, {machine.file_system},",
        f"{machine.system}, {machine.python} ({machine.loop}), {packages}.",
        f"Size `{report.size}`, {report.rounds} rounds: medians, least to most in brackets.",
        "*noise* is how many processors others kept busy meanwhile.",
    ]
    if any(program.reference for program in programs):
        lines.append("*ratio* is a row's first measure over that of boxflow on files, in the same round.")
    lines.append("")
    if not report.quiet:
        lines += [
            f"**The machine was not quiet** (noise above {QUIET:g}): rates are indicative, CPU time each is steadier.",
            "",
        ]
    if any(program.targets for program in report.programs.values()):
        lines += [*_targets_table(report.programs.values()), ""]
    for program in programs:
        found = report.programs.get(program.name)
        if found is not None:
            lines += [f"## {found.question}", "", *_subjects_table(program, found), ""]
            if program.name in plots:
                lines += [f"![{found.question}]({plots[program.name]})", ""]
    return "\n".join(lines)


def _targets_table(programs: Iterable[ProgramReport]) -> Iterator[str]:
    yield "| promise (DESIGN.md §9) | measured | holds |"
    yield "| --- | ---: | --- |"
    for program in programs:
        for target in program.targets:
            yield f"| {target.promise} | {shown(target.measured)} | {_verdict(target)} |"


def _verdict(target: TargetReport) -> str:
    if target.holds:
        return "yes"
    times = target.limit / target.measured.median if target.at_least else target.measured.median / target.limit
    return f"**no**, by {times:.2f}×"


def _subjects_table(program: Program, found: ProgramReport) -> Iterator[str]:
    subjects: list[Subject] = [subject for subject in program.subjects if subject.name in found.subjects]
    columns = list(dict.fromkeys(name for subject in subjects for name in subject.shown))
    columns = [name for name in columns if any(name in one.measures for one in found.subjects.values())]
    reference = found.subjects.get(program.reference)
    extra = ["ratio", "noise"] if reference is not None else ["noise"]
    labels = [LABELS.get(name, name) for name in columns] + extra
    yield f"| | operations | {' | '.join(labels)} |"
    yield "| --- | ---: |" + " ---: |" * len(labels)
    failed = list[str]()
    for subject in subjects:
        taken = found.subjects[subject.name]
        operations = [sample.operations for sample in taken.samples if not sample.error]
        if not operations:
            failed.append(f"{taken.what}: {taken.samples[0].error}.")
            yield f"| {taken.what} | not measured | {' | '.join('' for _ in labels)} |"
            continue
        cells = [
            shown(taken.measures[name]) if name in subject.shown and name in taken.measures else "" for name in columns
        ]
        if reference is not None:
            compared = ratios(taken.samples, reference.samples, subject.shown[0])
            cells.append(shown(spread(compared)) if compared else "")
        cells.append(f"{taken.measures['noise'].median:.1f}" if "noise" in taken.measures else "")
        yield f"| {taken.what} | {statistics.median_low(operations):,} | {' | '.join(cells)} |"
        if errors := [sample.error for sample in taken.samples if sample.error]:
            failed.append(f"{taken.what}: in {len(errors)} of {len(taken.samples)} rounds, {errors[0]}.")
    if failed:
        yield ""
        yield from (f"- {line}" for line in failed)


def shown(measured: Measured) -> str:
    if measured.least == measured.most:
        return number(measured.median)
    return f"{number(measured.median)} ({number(measured.least)} to {number(measured.most)})"


def number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def as_comparison(old: Report, new: Report) -> str:
    """What has changed in each measure that both have, beyond the spread of the two or not."""
    lines = ["| | measure | before | now | change |", "| --- | --- | ---: | ---: | ---: |"]
    for program_name, program in new.programs.items():
        before = old.programs.get(program_name)
        for name, subject in program.subjects.items():
            earlier = before.subjects.get(name) if before is not None else None
            for measure, now in subject.measures.items():
                then = earlier.measures.get(measure) if earlier is not None else None
                if then is None or measure in ("noise", "wall_s", "record_bytes") or not then.median:
                    continue
                change = f"{(now.median / then.median - 1) * 100:+.0f} %"
                if now.least <= then.most and then.least <= now.most:
                    change += " (within the spread)"
                lines.append(
                    f"| {program_name}.{name} | {LABELS.get(measure, measure)} | {number(then.median)} | "
                    f"{number(now.median)} | {change} |"
                )
    return "\n".join(lines)


def read(path: Path) -> Report:
    """A report that was written as JSON."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


def write(path: Path, report: Report) -> None:
    """Write *report* as JSON that a person can read, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
