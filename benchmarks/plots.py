"""How do the numbers look? A bar for each subject, with its spread, as SVG: plain text, drawn by us.

The bars are logarithmic where the largest is more than 50 times the smallest, and say so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from textwrap import shorten

import attrs

from benchmarks.model import Program
from benchmarks.report import LABELS, Measured, ProgramReport, Report, number

WIDTH, LEFT, RIGHT, ROW, TOP = 960, 430, 150, 24, 46
FONT = 'font-family="sans-serif" font-size="12"'
LETTERS = 68
LOGARITHMIC_FROM = 50.0


@attrs.frozen(kw_only=True)
class Bar:
    """A subject's measure. Floors are drawn in grey, boxflow in blue, peers in orange."""

    what: str
    colour: str
    measured: Measured


def write(directory: Path, report: Report, programs: Sequence[Program]) -> dict[str, Path]:
    """Draw each program that has something to compare; returns the files by name of the program."""
    found: dict[str, Path] = {}
    for program in programs:
        answer = report.programs.get(program.name)
        measure = program.subjects[0].shown[0]
        bars = list(_bars(answer, measure)) if answer is not None else []
        if answer is not None and len(bars) > 1:
            directory.mkdir(parents=True, exist_ok=True)
            path = directory / f"{program.name}.svg"
            path.write_text(as_svg(answer.question, LABELS.get(measure, measure), bars))
            found[program.name] = path
    return found


def _bars(answer: ProgramReport, measure: str) -> Iterator[Bar]:
    for name, subject in answer.subjects.items():
        if measure in subject.measures and subject.measures[measure].median > 0:
            yield Bar(
                what=re.sub(r"[*`]", "", subject.what),
                colour=_colour(name, subject.what),
                measured=subject.measures[measure],
            )


def _colour(name: str, what: str) -> str:
    if what.startswith("floor"):
        return "#9aa0a6"
    return "#c9762b" if name.startswith(("dbos", "absurd", "restate", "temporal", "langgraph")) else "#2f6fb2"


def as_svg(title: str, unit: str, bars: Sequence[Bar]) -> str:
    """The bars below each other, longest value at the right edge."""
    most = max(bar.measured.most for bar in bars)
    least = min(bar.measured.median for bar in bars)
    is_logarithmic = most / least > LOGARITHMIC_FROM
    start = 10 ** math.floor(math.log10(least)) if is_logarithmic else 0.0
    if is_logarithmic and start == least:
        start /= 10  # The shortest bar shall be seen.

    def width(value: float) -> float:
        if not is_logarithmic:
            return (WIDTH - LEFT - RIGHT) * value / most
        return (WIDTH - LEFT - RIGHT) * math.log(max(value, start) / start) / math.log(most / start)

    height = TOP + ROW * len(bars) + 10
    scale = f"{unit}, logarithmic from {start:g}" if is_logarithmic else unit
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="18" font-size="14" font-weight="bold">{escape(title)}</text>',
        f'<text x="{LEFT}" y="36" fill="#555555">{escape(scale)}</text>',
    ]
    for row, bar in enumerate(bars):
        lines += _row(
            bar, TOP + ROW * row, width(bar.measured.least), width(bar.measured.median), width(bar.measured.most)
        )
    return "\n".join([*lines, "</svg>", ""])


def _row(bar: Bar, top: int, least: float, median: float, most: float) -> Iterator[str]:
    """The name, the bar to the median, a line from least to most, the number."""
    middle = top + ROW / 2 - 2
    what = escape(shorten(bar.what, LETTERS, placeholder="…"))
    yield f'<text x="{LEFT - 8}" y="{middle + 4:.0f}" text-anchor="end">{what}</text>'
    yield f'<rect x="{LEFT}" y="{top}" width="{max(median, 1):.1f}" height="{ROW - 6}" fill="{bar.colour}"/>'
    yield f'<path d="M{LEFT + least:.1f} {middle:.0f}H{LEFT + most:.1f}" stroke="#222222" stroke-width="1.5"/>'
    at = LEFT + max(median, most) + 6
    yield f'<text x="{at:.1f}" y="{middle + 4:.0f}">{number(bar.measured.median)}</text>'
