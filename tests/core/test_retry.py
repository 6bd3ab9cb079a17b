"""When a failed step is tried again, and after which pause."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxflow.errors import ConfigurationError, NonRetryableError
from boxflow.retry import Retry


def test_pauses_grow_by_the_factor_up_to_the_bound() -> None:
    retry = Retry(delay=1, factor=2, max_delay=5, jitter=0)
    assert [retry.pause_s(attempt, 0.9) for attempt in (1, 2, 3, 4, 5)] == [1, 2, 4, 5, 5]


def test_jitter_moves_a_pause_in_both_directions() -> None:
    retry = Retry(delay=10, jitter=0.1)
    assert retry.pause_s(1, 0.0) == pytest.approx(9)
    assert retry.pause_s(1, 0.5) == pytest.approx(10)
    assert retry.pause_s(1, 1.0) == pytest.approx(11)


@given(
    attempt=st.integers(1, 10**9),
    random=st.floats(0, 1, exclude_max=True),
    delay=st.floats(0, 1e9),
    factor=st.floats(1, 1e6),
    max_delay=st.floats(0, 1e9),
    jitter=st.floats(0, 1),
)
def test_a_pause_is_never_negative_and_at_most_twice_the_bound(
    attempt: int, random: float, delay: float, factor: float, max_delay: float, jitter: float
) -> None:
    retry = Retry(delay=delay, factor=factor, max_delay=max_delay, jitter=jitter)
    assert 0 <= retry.pause_s(attempt, random) <= 2 * max_delay


def test_durations_may_be_text_or_timedelta() -> None:
    assert Retry(delay="5s", max_delay=timedelta(minutes=2)) == Retry(delay=5.0, max_delay=120.0)


def test_attempts_count_the_first_try_and_none_has_no_limit() -> None:
    assert [Retry(attempts=3).allows(attempt) for attempt in (1, 2, 3)] == [True, True, False]
    assert not Retry(attempts=1).allows(1)
    assert Retry(attempts=None).allows(10**9)


def test_only_the_exceptions_that_are_asked_for_are_retried() -> None:
    retry = Retry(on=(OSError, TimeoutError))
    assert retry.wants(ConnectionResetError())
    assert not retry.wants(ValueError())
    assert not retry.wants(KeyboardInterrupt())
    assert not Retry().wants(NonRetryableError("no"))


def test_policies_are_values() -> None:
    assert Retry(attempts=5) == Retry(attempts=5)
    assert len({Retry(), Retry(), Retry(attempts=1)}) == 2
    assert "attempts=3, delay=1.0, factor=2.0, max_delay=60.0, jitter=0.1" in repr(Retry())
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Retry().attempts = 4  # type: ignore[misc]  # the point


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attempts": 0}, r"Retry\(attempts=0\): must be an int of at least 1, or None"),
        ({"attempts": True}, r"Retry\(attempts=True\)"),
        ({"attempts": 2.0}, r"Retry\(attempts=2.0\)"),
        ({"delay": "soon"}, r"Retry\(delay='soon'\): duration 'soon' is not understood"),
        ({"delay": -1}, r"Retry\(delay=-1\): .* not negative"),
        ({"max_delay": None}, r"Retry\(max_delay=None\)"),
        ({"factor": 0.5}, r"Retry\(factor=0.5\): must be a finite number of at least 1"),
        ({"factor": float("nan")}, r"Retry\(factor=nan\)"),
        ({"jitter": 2}, r"Retry\(jitter=2\): must be a number from 0 to 1"),
        ({"on": "OSError"}, r"Retry\(on='OSError'\): must be an Exception class"),
        ({"on": (OSError, BaseException)}, r"must be an Exception class"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Retry(**given)
