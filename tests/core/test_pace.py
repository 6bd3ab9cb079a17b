"""A compaction that keeps up gives way often; one that has fallen behind works longer between."""

from __future__ import annotations

import pytest

from boxflow_backends.file_store.pace import Pace, StoppedError


def turns(backlog: float, lines: int) -> int:
    """How often others are let in; each time the pace asks whether to go on."""
    asked = 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return False

    pace = Pace(backlog=lambda: backlog, stopped=stopped)
    for _ in range(lines):
        pace.breathe()
    return asked


def test_the_more_there_is_to_do_the_longer_it_works_at_a_time() -> None:
    assert turns(0, 6400) == turns(1, 6400) == 100
    assert turns(0, 6400) > turns(3, 6400) > turns(8, 6400) > 5


def test_it_never_keeps_the_interpreter_for_good() -> None:
    assert turns(float("inf"), 6400) == turns(1e9, 6400) > 5


def test_it_ends_soon_after_the_store_is_being_closed() -> None:
    pace = Pace(backlog=lambda: 1, stopped=lambda: True)
    with pytest.raises(StoppedError):
        for _ in range(1000):
            pace.breathe()
