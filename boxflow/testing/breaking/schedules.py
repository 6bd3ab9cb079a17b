"""What decides the order in which things happen? A `Schedule`: decisions, each the number of what happens next.

0 is always what happens by itself: the oldest step goes on, then the oldest wait is answered, then time passes. So the
shortest schedule is the one with the fewest other decisions, and behind its end all is as by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Final

import attrs

from boxflow.errors import ConfigurationError

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

MOST_TRIES: Final = 300
"""How many schedules are tried to shorten one that fails: some seconds at the most."""


def _trimmed(decisions: Sequence[int]) -> tuple[int, ...]:
    end = len(decisions)
    while end and not decisions[end - 1]:
        end -= 1
    return tuple(decisions[:end])


@attrs.frozen
class Schedule:
    """Decisions, in the order in which they are asked for. Zeros at its end are left out."""

    decisions: tuple[int, ...] = attrs.field(default=(), converter=_trimmed)

    def __str__(self) -> str:
        return ",".join(map(str, self.decisions)) or "-"

    @classmethod
    def from_text(cls, text: str) -> Schedule:
        """The schedule that `str` gave. :raises ConfigurationError: it is none"""
        try:
            return cls(() if text.strip() in {"", "-"} else tuple(int(part) for part in text.split(",")))
        except ValueError:
            raise ConfigurationError(f"{text!r} is no schedule; write its decisions, as in '0,0,3'") from None


class Decisions:
    """Where decisions come from: a schedule, or a seed whose decisions are kept."""

    def __init__(self, source: Schedule | Random) -> None:
        self._source = source
        self._made: list[int] = []

    def decide(self, weights: Sequence[float]) -> int:
        """Which of so many possibilities.

        :param weights: how likely each is, when a seed decides
        """
        if isinstance(self._source, Random):
            made = self._source.choices(range(len(weights)), weights)[0] if len(weights) > 1 else 0
        else:
            number = len(self._made)
            decisions = self._source.decisions
            made = decisions[number] % len(weights) if number < len(decisions) else 0
        self._made.append(made)
        return made

    @property
    def schedule(self) -> Schedule:
        """What has been decided so far."""
        return Schedule(tuple(self._made))


def shortened(schedule: Schedule, fails: Callable[[Schedule], bool]) -> Schedule:
    """The shortest schedule that was found to fail as well, within `MOST_TRIES`."""
    tries = 0
    best = schedule
    progress = True
    while progress and tries < MOST_TRIES:
        progress = False
        for candidate in _simpler(best):
            tries += 1
            if fails(candidate):
                best, progress = candidate, True
                break
            if tries >= MOST_TRIES:
                break
    return best


def _simpler(schedule: Schedule) -> Iterator[Schedule]:
    """Schedules with fewer decisions: first without their ends, then without parts, then with single ones made 0."""
    decisions = schedule.decisions
    length = len(decisions)
    seen = {decisions}
    kept = 0
    while kept < length:
        yield from _new(decisions[:kept], seen)
        kept = kept * 2 or 1
    size = length // 2
    while size >= 1:
        for start in range(0, length, size):
            part = decisions[start : start + size]
            if any(part):
                yield from _new((*decisions[:start], *[0] * len(part), *decisions[start + size :]), seen)
        size //= 2
    for place, made in enumerate(decisions):
        # Without the decision itself, so that those behind it come earlier; then with a smaller one.
        yield from _new((*decisions[:place], *decisions[place + 1 :]), seen)
        if made > 1:
            yield from _new((*decisions[:place], 1, *decisions[place + 1 :]), seen)


def _new(decisions: tuple[int, ...], seen: set[tuple[int, ...]]) -> Iterator[Schedule]:
    schedule = Schedule(decisions)
    if schedule.decisions not in seen:
        seen.add(schedule.decisions)
        yield schedule


def schedules(*, longest: int = 60) -> SearchStrategy[Schedule]:
    """A hypothesis strategy of schedules, for `explore_once`; hypothesis then shortens what fails.

    :param longest: how many decisions they have at the most
    """
    from hypothesis import strategies

    return strategies.lists(strategies.integers(0, 12), max_size=longest).map(lambda found: Schedule(tuple(found)))
