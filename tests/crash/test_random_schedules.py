"""Random workflows, messages and moves, crashed at random writes: hypothesis looks for one that breaks a promise."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.crash import plans
from tests.crash.interpreter import decode_plan
from tests.crash.schedules import Schedule, ScheduleFailed, crash_and_replay, generate, live_once

# No deadline: nothing here is a promise about speed. Not derandomized by a database: the same examples each time.
EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@EXAMPLES
@given(st.randoms(use_true_random=False))
def test_a_random_schedule_keeps_every_promise_through_crashes(random: Random) -> None:
    crash_and_replay(generate(random, leaves=8), crashes=3)


@pytest.mark.parametrize("portion", range(4))
def test_seeded_schedules_keep_every_promise_through_crashes(portion: int) -> None:
    for seed in range(portion * 25, portion * 25 + 25):
        crash_and_replay(generate(Random(seed)), crashes=3)


@pytest.mark.slow
@pytest.mark.parametrize("portion", [*range(4), *(pytest.param(n, marks=pytest.mark.thorough) for n in range(4, 10))])
def test_larger_workflows_keep_every_promise_through_crashes(portion: int) -> None:
    for seed in range(portion * 20, portion * 20 + 20):
        crash_and_replay(generate(Random(f"large {seed}"), leaves=25), crashes=4)


def test_a_schedule_is_the_same_each_time() -> None:
    schedule = generate(Random(42))
    first, again = live_once(schedule), live_once(Schedule.from_text(schedule.as_text()))
    assert (first.result, first.law.known) == (again.result, again.law.known)


def test_the_generator_makes_every_kind_of_node_and_message() -> None:
    nodes: set[str] = set()
    messages: set[str] = set()
    for seed in range(300):
        schedule = generate(Random(seed))
        nodes |= {type(node).__name__ for node, _ in plans.walk(decode_plan(schedule.plan), "r")}
        messages |= {message.kind for message in schedule.messages}
    assert nodes == {kind.__name__ for kind in plans.KINDS}
    assert messages == {"event", "mail", "webhook", "cancel"}


def test_a_failure_says_how_to_see_it_again() -> None:
    schedule = Schedule('{"type":"Event","event_id":"never sent"}', (), seed=1)
    with pytest.raises(
        ScheduleFailed, match=r"(?s)the run is stuck.*python -m benchmarks.schedules --schedule '\{"
    ) as failure:
        live_once(schedule)
    assert failure.value.schedule.as_text() in str(failure.value)
