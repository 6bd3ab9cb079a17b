"""A workflow is killed at every moment, once each, and has to end as if nothing had happened."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from boxflow import Context, Retry, StepInterruptedError, step, workflow
from boxflow.errors import ConfigurationError
from boxflow.testing import CrashError, CrashReport, World, crash_everywhere


async def do(what: Any = None) -> Any:
    return what


@workflow
async def ten_steps_and_two_waits(ctx: Context, number: int) -> int:
    for each in range(5):
        await ctx.run("before", do, each)
    first = await ctx.wait_for_event("review", "review", type=int, timeout="3d")
    for each in range(5):
        await ctx.run("after", do, each)
    return number + first + await ctx.wait_for_event("sign", "sign", type=int)


def script(world: World) -> None:
    world.when_waiting("review", 1, after="2d")
    world.when_waiting("sign", 2)


async def test_each_write_is_crashed_before_and_after_and_each_step_in_its_middle() -> None:
    report = await crash_everywhere(ten_steps_and_two_waits, 3, script)
    # The run is created, has 12 outcomes, waits twice and ends; what an engine writes for itself is no moment.
    assert (report.steps, report.writes) == (10, 1 + 1 + 12 + 2 + 1)
    # After each of these 16, in each of the 10 steps, and before each of the 2 answers. Every other moment is one of
    # these: before a step's outcome is recorded is in that step, when it has done its work.
    assert report.crashes == 16 + 10 + 2


@workflow
async def child(ctx: Context, number: int) -> int:
    await ctx.sleep("nap", "1d")
    return await ctx.run("inside", do, number)


@workflow
async def everything(ctx: Context, _: None) -> list[Any]:
    hook = await ctx.create_webhook("hook")
    found: list[Any] = list(await asyncio.gather(*(ctx.invoke(f"child-{n}", child, n) for n in range(2))))
    async with ctx.box("box") as box:
        await box.files.write("input", "text")
        found.append((await box.exec.command("make", timeout="1h")).stdout)
        found.append(await box.files.read("output"))
    found.append((await ctx.wait_for_webhook("call", hook, timeout="1h")).text)
    await ctx.notify("tell", "told", 7)
    found.append(await ctx.wait_for_event("told", "told"))
    with contextlib.suppress(TimeoutError):
        await ctx.wait_for_event("never", "never", timeout="1h")
    found.append(await ctx.run("flaky", do, "flaky", retry=Retry(attempts=3, delay="1m")))
    return found


async def test_a_workflow_of_everything_ends_the_same_after_each_crash() -> None:
    def script(world: World) -> None:
        world.sandbox.on("make", stdout="made", delay="10m", files={"output": "result"})
        world.when_waiting("call", b"body")

    report = await crash_everywhere(everything, None, script)
    assert report.crashes > 45


async def test_a_job_in_a_box_goes_on_while_the_engine_is_dead_and_is_not_started_twice() -> None:
    starts: list[list[str]] = []

    @workflow
    async def builds(ctx: Context, _: None) -> str:
        async with ctx.box("box") as box:
            return (await box.exec.command("make", timeout="1h")).stdout

    def script(world: World, starts: list[str]) -> None:
        def make(_: Any) -> Any:
            from boxflow.testing import Reply

            starts.append("make")
            return Reply(stdout="made", delay="10m")

        world.sandbox.on("make", make)

    def outside() -> list[str]:
        starts.append([])
        return starts[-1]

    await crash_everywhere(builds, None, script, outside=outside)
    assert all(one == ["make"] for one in starts)


async def test_answers_go_on_where_they_were_and_come_at_their_time() -> None:
    @workflow
    async def asks_twice(ctx: Context, _: None) -> list[Any]:
        found: list[Any] = []
        for _number in range(3):
            found += [await ctx.wait_for_event("ask", "ask", timeout="3d"), str(ctx.now())]
        return found

    def script(world: World) -> None:
        answers = iter(["a", "b", "c"])
        world.when_waiting("ask", lambda: next(answers), after="2d")

    await crash_everywhere(asks_twice, None, script)


async def test_an_answer_that_raises_is_the_scripts_fault() -> None:
    @workflow
    async def asks(ctx: Context, _: None) -> None:
        with contextlib.suppress(TimeoutError):
            await ctx.wait_for_event("ask", "ask", timeout="3d")

    with pytest.raises(AssertionError, match="what answers the wait 'ask' raised KeyError: 'none'"):
        await crash_everywhere(asks, None, lambda world: world.when_waiting("ask", KeyError("none")))


# --- what is found ----------------------------------------------------------------------------------------------------


class Log(list[str]):
    """What the world outside has seen."""


async def test_an_effect_that_happens_twice_is_found_where_its_outcome_is_not_recorded() -> None:
    @workflow
    async def sends(ctx: Context, _: None) -> None:
        await ctx.run("send", do)

    def script(world: World, log: Log) -> None:
        world.replace("send", lambda _=None: log.append("sent"))

    with pytest.raises(CrashError, match=r"without a crash: \['sent'\]") as found:
        await crash_everywhere(sends, None, script, outside=Log)
    assert found.value.moment.split()[0] in {"before", "in"}


async def test_half_of_a_step_is_found_at_its_first_await() -> None:
    @workflow
    async def moves(ctx: Context, _: None) -> None:
        await ctx.run("move", do)

    def script(world: World, money: dict[str, int]) -> None:
        async def move(_: Any = None) -> None:
            # Idempotent as a whole, but not when it is broken off in between.
            if money["there"] < 5:
                money["here"] -= 5
                await asyncio.sleep(0)
                money["there"] += 5

        world.replace("move", move)

    def outside() -> dict[str, int]:
        return {"here": 10, "there": 0}

    with pytest.raises(CrashError, match=r"in the middle of step 1.*\n.*'here': 0, 'there': 5"):
        await crash_everywhere(moves, None, script, outside=outside)


async def test_a_result_that_depends_on_the_memory_of_a_process_is_found() -> None:
    seen: list[int] = []

    @workflow
    async def remembers(ctx: Context, _: None) -> int:
        seen.append(await ctx.run("a", do, 1))
        await ctx.run("b", do)
        return len(seen)

    with pytest.raises(CrashError, match="the result: 2; without a crash: 1"):
        await crash_everywhere(remembers, None, lambda _world, _outside: None, outside=lambda: seen.clear() or Log())


async def test_a_body_that_takes_another_way_after_a_crash_is_found() -> None:
    bodies: list[int] = []

    @workflow
    async def other_each_time(ctx: Context, _: None) -> None:
        bodies.append(1)
        await ctx.run(f"body {len(bodies)}", do)
        await ctx.run("b", do)

    with pytest.raises(CrashError, match=r"step_done 'body 1' of run 'other_each_time-1': nothing"):
        await crash_everywhere(
            other_each_time, None, lambda _world, _outside: None, outside=lambda: bodies.clear() or Log()
        )


async def test_a_message_names_the_seed_and_the_command_that_shows_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    @workflow
    async def sends(ctx: Context, _: None) -> None:
        await ctx.run("send", do)

    def script(world: World, log: Log) -> None:
        world.replace("send", lambda _=None: log.append("sent"))

    with pytest.raises(CrashError) as found:
        await crash_everywhere(sends, None, script, outside=Log, seed=7)
    moment = found.value.moment
    assert "seed 7; see it again: BOXFLOW_CRASH=" in str(found.value)
    assert f"BOXFLOW_CRASH='{moment}' pytest 'tests/testing/test_crash_everywhere.py::test_a_message" in str(
        found.value
    )
    monkeypatch.setenv("BOXFLOW_CRASH", moment)
    with pytest.raises(CrashError) as again:
        await crash_everywhere(sends, None, script, outside=Log, seed=7)
    assert str(again.value) == str(found.value)
    monkeypatch.setenv("BOXFLOW_CRASH", "after 2")
    assert (await crash_everywhere(sends, None, script, outside=Log)).crashes == 1
    monkeypatch.setenv("BOXFLOW_CRASH", "somewhen")
    with pytest.raises(ConfigurationError, match='write "before 7"'):
        await crash_everywhere(sends, None, script, outside=Log)


async def test_a_run_that_does_not_even_end_without_a_crash_says_so() -> None:
    with pytest.raises(AssertionError, match=r"without any crash, run .* cannot go on"):
        await crash_everywhere(ten_steps_and_two_waits, 3, lambda world: world.when_waiting("review", 1))


# --- what is no finding -----------------------------------------------------------------------------------------------


async def test_ids_that_steps_make_up_are_not_compared() -> None:
    from uuid import uuid4

    @workflow
    async def makes_up(ctx: Context, _: None) -> str:
        return await ctx.run("id", lambda: str(uuid4()))

    assert (await crash_everywhere(makes_up)).steps == 1


async def test_a_run_that_fails_has_to_fail_the_same() -> None:
    @workflow
    async def fails(ctx: Context, _: None) -> None:
        await ctx.run("a", do)
        raise ValueError("as ever")

    await crash_everywhere(fails)


async def test_a_step_that_must_not_run_again_does_not_and_may_change_what_follows() -> None:
    @workflow
    async def once(ctx: Context, _: None) -> str:
        try:
            return await ctx.run("pay", do, "paid", at_most_once=True)
        except StepInterruptedError:
            return "asked"

    def script(world: World, log: Log) -> None:
        world.replace("pay", lambda what: log.append(step().name) or what)

    def outside() -> Log:
        logs.append(Log())
        return logs[-1]

    logs: list[Log] = []
    await crash_everywhere(once, None, script, outside=outside)
    assert all(len(log) <= 1 for log in logs)


async def test_a_workflow_without_any_step_can_be_crashed_too() -> None:
    @workflow
    async def empty(ctx: Context, _: None) -> int:
        return 1

    assert (await crash_everywhere(empty)).steps == 0


async def test_a_script_may_be_a_coroutine_function_that_sends_something_first() -> None:
    async def script(world: World) -> None:
        world.when_waiting("review", 1)
        world.when_waiting("sign", 2)
        await asyncio.sleep(0)

    assert isinstance(await crash_everywhere(ten_steps_and_two_waits, 1, script), CrashReport)


async def test_nothing_is_left_on_the_loop_and_no_clean_up_of_a_dead_life_counts() -> None:
    @workflow
    async def cleans_up(ctx: Context, _: None) -> None:
        await ctx.run("a", do)

    def script(world: World, log: Log) -> None:
        @contextlib.asynccontextmanager
        async def connection() -> AsyncIterator[None]:
            try:
                yield
            finally:
                log.append("closed")

        async def use(_: Any = None) -> None:
            async with connection():
                await asyncio.sleep(0)

        world.replace("a", use)

    # A process that is killed closes nothing: only the life that ends well does.
    before = asyncio.all_tasks()
    with pytest.raises(CrashError, match=r"before write \d.*\n.*\['closed', 'closed'\]"):
        await crash_everywhere(cleans_up, None, script, outside=Log)
    assert asyncio.all_tasks() == before
