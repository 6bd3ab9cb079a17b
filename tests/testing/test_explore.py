"""A workflow is run in many orders of what happens; one that fails is shortened, and the same each time."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from boxflow import Context, Retry, RunStatus, step, workflow
from boxflow.errors import ConfigurationError
from boxflow.testing import Explored, ExploreError, Schedule, World, explore, explore_once, schedules
from boxflow.testing.breaking.schedules import Decisions, shortened


async def do(what: Any = None) -> Any:
    return what


@workflow
async def waits_for_two(ctx: Context, _: None) -> list[Any]:
    hook = await ctx.create_webhook("hook")
    first = await ctx.run("first", do, 1, retry=Retry(attempts=3, delay="1m"))
    found = await asyncio.gather(
        ctx.wait_for_event("review", "review"), ctx.wait_for_webhook("call", hook), ctx.run("beside", do, 2)
    )
    return [first, found[0], found[1].text, found[2]]


def script(world: World) -> None:
    world.when_waiting("review", "good", after="1d")
    world.when_waiting("call", b"body")


async def test_a_workflow_that_keeps_its_promises_passes_in_every_order() -> None:
    seen: list[Explored[list[Any], None]] = []
    assert await explore(waits_for_two, None, script, seeds=60, check=seen.append) == 60
    assert {each.status for each in seen} == {RunStatus.COMPLETED, RunStatus.CANCELLED}
    assert all(each.result == [1, "good", "body", 2] for each in seen if each.result is not None)
    story = {line for each in seen for line in each.story}
    assert story >= {
        "runs leave memory whenever they wait",
        "time passes",
        "the run is cancelled",
        "step 'first' fails once",
        "'call' is answered before its wait",
        "'call' is sent again",
        "'call' is answered",
    }


async def test_the_same_seed_is_the_same_order() -> None:
    async def stories(seeds: list[int]) -> list[Explored[list[Any], None]]:
        seen: list[Explored[list[Any], None]] = []
        await explore(waits_for_two, None, script, seeds=seeds, check=seen.append)
        return seen[1:]  # The first is the undisturbed run.

    first, again = await stories([3, 4, 5]), await stories([3, 4, 5])
    assert [(each.schedule, each.story, each.history) for each in first] == [
        (each.schedule, each.story, each.history) for each in again
    ]
    assert len({each.schedule for each in first}) == 3


async def test_completion_orders_are_all_tried() -> None:
    @workflow
    async def races(ctx: Context, _: None) -> list[int]:
        order: list[int] = []

        async def one(number: int) -> None:
            order.append(await ctx.run("a", do, number))

        await asyncio.gather(*(one(number) for number in range(3)))
        return order

    seen: list[Explored[list[int], None]] = []
    await explore(races, seeds=60, check=seen.append, cancels=False)
    assert len({str(each.result) for each in seen}) == 6


@workflow
async def depends_on_order(ctx: Context, _: None) -> str:
    async def wait(name: str) -> str:
        await ctx.run(name, do)
        return name

    tasks = [asyncio.create_task(wait(name)) for name in ("slow", "fast", "other")]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return done.pop().result()


def the_first_one_wins(explored: Explored[str, None]) -> bool:
    return explored.result in {None, "slow"}


async def test_a_failure_is_shortened_to_what_it_needs_and_told_in_words() -> None:
    with pytest.raises(ExploreError) as found:
        await explore(depends_on_order, check=the_first_one_wins)
    schedule = found.value.schedule
    assert sum(1 for made in schedule.decisions if made) <= 2
    assert found.value.what == "check returned False"
    lines = str(found.value).splitlines()
    assert lines[0] == "workflow 'depends_on_order' breaks a promise"
    assert lines[3].strip().startswith("1. step ")
    assert lines[-1].endswith(
        f"see it again: BOXFLOW_SCHEDULE='{schedule}' pytest "
        "'tests/testing/test_explore.py::test_a_failure_is_shortened_to_what_it_needs_and_told_in_words'"
    )


async def test_the_command_of_a_failure_shows_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExploreError) as found:
        await explore(depends_on_order, check=the_first_one_wins)
    monkeypatch.setenv("BOXFLOW_SCHEDULE", str(found.value.schedule))
    with pytest.raises(ExploreError, match="check returned False") as again:
        await explore(depends_on_order, check=the_first_one_wins)
    assert again.value.schedule == found.value.schedule
    monkeypatch.setenv("BOXFLOW_SCHEDULE", "x")
    with pytest.raises(ConfigurationError, match="is no schedule"):
        await explore(depends_on_order)


async def test_a_run_that_gets_stuck_is_found_without_a_check() -> None:
    @workflow
    async def takes_what_it_does_not_need(ctx: Context, _: None) -> Any:
        await ctx.run("before", do)
        first = asyncio.create_task(ctx.wait_for_event("a", "a"))
        await asyncio.wait([first], timeout=60)
        return await ctx.wait_for_event("again", "a") if first.done() else await first

    def answers(world: World) -> None:
        world.when_waiting("a", 1, after="10m")

    with pytest.raises(ExploreError, match=r"(?s)cannot go on: nothing that.*'a' is answered before its wait"):
        await explore(takes_what_it_does_not_need, None, answers)


async def test_a_run_that_fails_in_some_order_is_found_without_a_check() -> None:
    @workflow
    async def forgets_retries(ctx: Context, _: None) -> None:
        if await ctx.run("a", lambda: step().attempt, retry=Retry(attempts=2)) > 1:
            raise LookupError("more than one attempt")

    with pytest.raises(ExploreError, match=r"the run is failed: LookupError.*\n.*\n +1. step 'a' fails once"):
        await explore(forgets_retries)


async def test_a_cancel_that_is_swallowed_may_complete_and_says_that_it_was_cancelled() -> None:
    @workflow
    async def stubborn(ctx: Context, _: None) -> int:
        try:
            return await ctx.run("a", do, 1)
        except asyncio.CancelledError:
            return 2

    def is_cancelled_when_asked(explored: Explored[int, None]) -> None:
        assert not (explored.cancelled and explored.status is RunStatus.COMPLETED), "it goes on after a cancel"

    with pytest.raises(ExploreError, match=r"(?s)it goes on after a cancel.*the run is cancelled"):
        await explore(stubborn, check=is_cancelled_when_asked)


async def test_something_wrong_in_the_undisturbed_run_needs_no_schedule() -> None:
    with pytest.raises(ExploreError, match="with nothing out of order"):
        await explore(waits_for_two, None, script, check=lambda _: False)


# --- schedules --------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schedules())
def test_hypothesis_can_make_the_orders(schedule: Schedule) -> None:
    explored = explore_once(waits_for_two, None, script, schedule)
    assert explored.status.is_final and explored.boxes == ()


def test_a_schedule_comes_back_from_its_text() -> None:
    for schedule in (Schedule(), Schedule((0, 0, 3)), Schedule((1, 0, 0))):
        assert Schedule.from_text(str(schedule)) == schedule
    assert Schedule((1, 0, 0)) == Schedule((1,))


def test_decisions_of_a_seed_are_a_schedule_that_decides_the_same() -> None:
    weights = [[1.0] * count for count in (1, 3, 2, 5, 4, 2)]
    of_seed = Decisions(Random(1))
    made = [of_seed.decide(each) for each in weights]
    again = Decisions(of_seed.schedule)
    assert [again.decide(each) for each in weights] == made


def test_a_schedule_is_shortened_to_the_decisions_that_count() -> None:
    long = Schedule(tuple(Random(5).choices(range(6), k=60)))

    def fails(schedule: Schedule) -> bool:
        made = schedule.decisions
        return len(made) > 20 and made[20] >= 1 and any(made[:10])

    assert fails(long)
    shortest = shortened(long, fails)
    assert fails(shortest) and [made for made in shortest.decisions if made] == [1, 1]
