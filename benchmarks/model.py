"""What is a benchmark made of? Programs that ask, subjects that are measured, targets for the answer."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import attrs
import msgspec


class Size(enum.StrEnum):
    """How long a measurement takes: `tiny` only shows that it works, `quick` is for a look while changing code."""

    TINY = "tiny"
    QUICK = "quick"
    NORMAL = "normal"
    FULL = "full"


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measurement of one subject.

    :param operations: how many operations the measures are about
    :param values: measures by name; the unit is last in the name: `per_s`, `cpu_us`, `p50_ms`, `rss_bytes`
    :param error: why there are none: a peer is missing here, or the process failed
    """

    operations: int
    values: dict[str, float]
    error: str = ""


Measure: TypeAlias = Callable[[int, Path], Sample]
"""Called with the number of operations and an empty directory on the disk to be measured, in a process of its own."""


@attrs.frozen(kw_only=True)
class Subject:
    """What is measured for a question: a way to use boxflow, or a floor beside it.

    :param name: short, unique within its program
    :param what: one line for the table
    :param operations: how many at each size; a size that is missing leaves the subject out
    :param shown: the measures that go into the table, the most telling first
    """

    name: str
    what: str
    measure: Measure
    operations: Mapping[Size, int]
    shown: tuple[str, ...] = ("per_s", "cpu_us")


@attrs.frozen(kw_only=True)
class Target:
    """What DESIGN.md §9 promises: a measure of a subject, or its ratio to a floor's in the same round, within a limit.

    :param over: the floor; None compares the measure itself
    :param at_least: the limit is a lower one; otherwise an upper one
    """

    promise: str
    subject: str
    measure: str
    limit: float
    at_least: bool
    over: str | None = None


@attrs.frozen(kw_only=True)
class Program:
    """One question, its subjects in the order in which a round measures them, and its targets.

    :param reference: the subject that the others' first measure is shown as a ratio to
    """

    name: str
    question: str
    subjects: tuple[Subject, ...]
    targets: tuple[Target, ...] = ()
    reference: str = ""


def counts(tiny: int, quick: int, normal: int, full: int | None = None) -> dict[Size, int]:
    """Operations at each size; `full` is as `normal` unless given."""
    return {Size.TINY: tiny, Size.QUICK: quick, Size.NORMAL: normal, Size.FULL: normal if full is None else full}
