"""A scripted world: time jumps, steps and children are stood in for, waits are answered, and nothing hangs."""

from __future__ import annotations

import asyncio
import threading
import unittest
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from boxflow import Context, NonRetryableError, Response, Retry, RunStatus, WebhookRequest, workflow
from boxflow.errors import (
    ChildFailedError,
    ConfigurationError,
    RunCancelledError,
    RunFailedError,
    StepFailedError,
    StepTimeoutError,
    WaitTimeoutError,
)
from boxflow.testing import START, StuckError, World, WorldError, run_workflow
from boxflow_backends.file_store import FileStore
from boxflow_backends.local_sandbox import LocalSandbox


@dataclass
class Verdict:
    approved: bool
    by: str = ""


async def publish(text: str) -> str:
    raise AssertionError("a test must not publish")


def shout(text: str) -> str:
    return text.upper()


@workflow
async def article(ctx: Context, topic: str) -> str:
    text = await ctx.run("write", shout, topic)
    await ctx.sleep("let it rest", "1d")
    for person in ("editor", "owner"):
        verdict = await ctx.wait_for_event(f"review by {person}", f"review-{person}", type=Verdict)
        if not verdict.approved:
            return f"refused by {verdict.by}"
    return await ctx.run("publish", publish, text)


def answer_all(world: World) -> None:
    world.replace("publish", lambda text: f"https://example.org/{text}")
    world.when_waiting("review by *", Verdict(approved=True), after="1d")


# --- time ----------------------------------------------------------------------------------------------------------


async def test_a_workflow_of_three_days_and_two_people_takes_no_time_and_its_history_shows_three_days() -> None:
    async with World() as world:
        answer_all(world)
        run = await world.start(article, "boxes")
        assert await run.result() == "https://example.org/BOXES"
        assert world.now - START == timedelta(days=3)
        history = await run.history()
        assert [outcome.name for outcome in history] == [
            "write", "let it rest", "review by editor", "review by owner", "publish",
        ]  # fmt: skip
        assert [(outcome.at - START.timestamp()) / 86400 for outcome in history] == [0, 1, 2, 3, 3]


async def test_a_world_begins_when_it_is_told_to() -> None:
    start = datetime(2030, 5, 1, 12, tzinfo=UTC)

    @workflow
    async def when(ctx: Context, _: None) -> datetime:
        return ctx.now()

    async with World(start=start) as world:
        assert await world.run(when) == world.now == start
    with pytest.raises(ConfigurationError, match="naive"):
        World(start=datetime(2030, 5, 1))


@workflow
async def napping(ctx: Context, days: int) -> str:
    await ctx.sleep("nap", timedelta(days=days))
    return ctx.now().isoformat()


async def test_advance_lets_exactly_that_much_time_pass() -> None:
    async with World(jumps=False) as world:
        run = await world.start(napping, 2)
        await world.advance("1d")
        assert (world.now - START, await run.status()) == (timedelta(days=1), RunStatus.WAITING)
        await world.advance("36h")
        assert (world.now - START, await run.status()) == (timedelta(hours=60), RunStatus.COMPLETED)
        assert await run.result() == "2026-01-03T00:00:00+00:00"


async def test_time_stands_still_while_the_test_itself_does_something() -> None:
    async with World() as world:
        await world.start(napping, 2)
        await asyncio.sleep(0.02)
        assert world.now == START


async def test_where_time_does_not_jump_a_result_says_so_instead_of_hanging() -> None:
    async with World(jumps=False) as world:
        run = await world.start(napping, 2)
        with pytest.raises(StuckError, match=r"sleeps \('nap'\)(?s:.*)world\.advance"):
            await run.result()


async def test_two_advances_at_once_are_refused() -> None:
    async with World() as world:
        first = asyncio.create_task(world.advance("1d"))
        await asyncio.sleep(0)
        with pytest.raises(WorldError, match="another task"):
            await world.advance("1d")
        await first


async def test_what_an_engine_only_looks_after_happens_as_time_passes() -> None:
    async with World() as world:
        await world.boxes.create("short", ttl="10m")
        await world.advance("5m")
        assert world.boxes_left == ["short"]
        await world.advance("6m")
        assert world.boxes_left == []


async def test_sleeps_timeouts_and_retries_of_steps_take_no_time() -> None:
    attempts: list[datetime] = []

    async def slow() -> str:
        await asyncio.sleep(3600)
        return "slept"

    async def hangs() -> None:
        await asyncio.Event().wait()

    async def flaky() -> None:
        attempts.append(world.now)
        raise ConnectionError("no")

    @workflow
    async def body(ctx: Context, _: None) -> str:
        slept = await ctx.run("slow", slow)
        with pytest.raises(StepTimeoutError):
            await ctx.run("hangs", hangs, timeout="1h")
        with pytest.raises(StepFailedError):
            await ctx.run("flaky", flaky, retry=Retry(attempts=3, delay="1h", factor=1.0, max_delay="1h", jitter=0.0))
        return slept

    async with World() as world:
        assert await world.run(body) == "slept"
        assert [at - START for at in attempts] == [timedelta(hours=hours) for hours in (2, 3, 4)]


async def test_a_thread_at_work_is_waited_for() -> None:
    go_on = threading.Event()

    async def thorough() -> bool:
        return await asyncio.to_thread(go_on.wait, 10)

    @workflow
    async def body(ctx: Context, _: None) -> bool:
        return await ctx.run("thorough", thorough, timeout="1m")

    async with World() as world:
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        assert await world.run(body)
        assert world.now == START


async def test_worlds_on_one_loop_have_their_own_time() -> None:
    async with World() as one, World(start=datetime(2030, 1, 1, tzinfo=UTC)) as other:
        found = await asyncio.gather(one.run(napping, 1), other.run(napping, 10))
        assert found == ["2026-01-02T00:00:00+00:00", "2030-01-11T00:00:00+00:00"]


async def test_the_same_script_gives_the_same_history() -> None:
    async def failing() -> None:
        raise ValueError

    @workflow(retry=Retry(attempts=4, jitter=1.0))
    async def body(ctx: Context, _: None) -> str:
        with pytest.raises(StepFailedError):
            await ctx.run("failing", failing)
        return str(ctx.uuid4())

    async def story(seed: int) -> tuple[object, ...]:
        async with World(seed=seed) as world:
            run = await world.start(body)
            return (await run.result(), *[outcome.at for outcome in await run.history()])

    assert await story(1) == await story(1) != await story(2)


# --- nothing is left -----------------------------------------------------------------------------------------------


async def test_nothing_of_a_world_is_left_on_its_loop() -> None:
    loop, threads = asyncio.get_running_loop(), threading.active_count()
    before = dict(vars(loop))
    async with World() as world:
        answer_all(world)
        world.sandbox.on("forever", delay="10d")

        @workflow
        async def body(ctx: Context, _: None) -> None:
            box = await ctx.box("a", keep=True)
            await box.jobs.start("forever")

        await world.run(article, "boxes")
        await world.run(body)
        await world.start(napping, 5)
    await asyncio.sleep(0)
    assert {name for name in vars(loop) if name not in before} == set()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert threading.active_count() == threads


async def test_a_plain_function_runs_beside_the_loop_and_in_no_thread() -> None:
    async def inner() -> str:
        return threading.current_thread().name

    def plain() -> str:
        return asyncio.run(inner())

    @workflow
    async def body(ctx: Context, _: None) -> str:
        return await ctx.run("plain", plain)

    async with World() as world:
        assert await world.run(body) == threading.current_thread().name


async def test_a_world_on_another_store_goes_on_where_the_one_before_it_was(tmp_path: object) -> None:
    path = f"{tmp_path}/state"
    async with World(store=FileStore(path), jumps=False) as world:
        await world.start(napping, 3)
        await world.advance("1d")
        now = world.now
    async with World([napping], store=FileStore(path), start=now) as world:
        run = await world.engine.get("napping-1")
        assert await run.result() == "2026-01-04T00:00:00+00:00"


# --- stand-ins for steps -------------------------------------------------------------------------------------------


@workflow
async def two_steps(ctx: Context, text: str) -> list[str]:
    return [await ctx.run("first", shout, text), await ctx.run("second", shout, text)]


async def test_a_stand_in_gets_the_step_s_arguments_and_calls_are_kept() -> None:
    async with World() as world:
        world.replace("second", lambda text: text[::-1])
        assert await world.run(two_steps, "abc") == ["ABC", "cba"]
        (call,) = world.calls("second")
        assert (call.args, call.attempt, call.run_id) == (("abc",), 1, "two_steps-1")
        assert call.idempotency_key == "two_steps-1:second:1"
        assert [call.name for call in world.calls()] == ["first", "second"]


async def test_the_stand_in_that_was_given_last_counts_and_patterns_are_names_of_many() -> None:
    async def slowly(text: str) -> str:
        await asyncio.sleep(60)
        return "slowly"

    async with World() as world:
        world.replace("*", "the same")
        assert await world.run(two_steps, "x") == ["the same", "the same"]
        world.replace("first", slowly)
        assert await world.run(two_steps, "x") == ["slowly", "the same"]


@pytest.mark.parametrize("error", [ConnectionError("it is away"), ConnectionError])
async def test_an_exception_is_raised_as_the_step_s_own(error: object) -> None:
    async with World() as world:
        world.replace("first", error)
        with pytest.raises(RunFailedError, match="step 'first' failed"):
            await world.run(two_steps, "x")


async def test_a_stand_in_fails_and_then_works_like_any_step() -> None:
    answers = iter([ConnectionError("once"), "well"])

    def unreliable(text: str) -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @workflow(retry=Retry(attempts=2, delay="1h"))
    async def body(ctx: Context, _: None) -> str:
        return await ctx.run("step", shout, "x")

    async with World() as world:
        world.replace("step", unreliable)
        assert await world.run(body) == "well"
        assert [call.attempt for call in world.calls("step")] == [1, 2]


async def test_what_a_stand_in_returns_has_to_have_the_step_s_type() -> None:
    async with World() as world:
        world.replace("first", lambda text: 7)
        with pytest.raises(RunFailedError, match="step 'first' returned"):
            await world.run(two_steps, "x")


async def test_a_pattern_for_all_steps_leaves_boxes_alone() -> None:
    @workflow
    async def body(ctx: Context, _: None) -> str:
        async with ctx.box("a") as box:
            await box.exec.command("work")
        return await ctx.run("step", shout, "x")

    async with World() as world:
        world.sandbox.on("work")
        world.replace("*", "stood in")
        assert await world.run(body) == "stood in"
        assert [call.operation for call in world.sandbox.calls if call.operation in ("create", "delete")] == [
            "create", "delete",
        ]  # fmt: skip


async def test_an_http_request_is_answered_or_refused_and_never_sent() -> None:
    @workflow(retry=Retry(attempts=None))
    async def body(ctx: Context, _: None) -> str:
        return (await ctx.call("fetch", "https://example.org/x")).text

    async with World() as world:
        with pytest.raises(
            RunFailedError, match=r"would send GET https://example\.org/x(?s:.*)world\.replace\('fetch'"
        ):
            await world.run(body)
        world.replace("fetch", Response(status=200, body=b"answered"))
        assert await world.run(body) == "answered"


# --- children ------------------------------------------------------------------------------------------------------


@workflow
async def child(ctx: Context, number: int) -> Verdict:
    return Verdict(await ctx.run("decide", lambda n: n > 1, number, type=bool), "child")


@workflow
async def parent(ctx: Context, number: int) -> str:
    verdict = await ctx.invoke("ask", child, number)
    return f"{verdict.approved} by {verdict.by}"


async def test_children_need_not_be_registered() -> None:
    async with World() as world:
        assert await world.run(parent, 2) == "True by child"


@pytest.mark.parametrize("name", ["ask", "child", "a*"])
async def test_a_child_is_stood_in_for_by_its_call_s_name_or_its_workflow_s(name: str) -> None:
    async with World() as world:
        world.replace(name, lambda number: Verdict(False, f"stand-in for {number}"))
        assert await world.run(parent, 2) == "False by stand-in for 2"
        (call,) = world.calls("ask")
        assert (call.args, call.run_id) == ((2,), "parent-1/ask")
        assert world.calls("decide") == []


async def test_a_child_that_is_only_a_name_is_stood_in_for() -> None:
    @workflow
    async def body(ctx: Context, _: None) -> object:
        return await ctx.invoke("ask", "somewhere else", {"a": 1})

    async with World() as world:
        with pytest.raises(RunFailedError, match="'somewhere else' is not registered"):
            await world.run(body)
        world.replace("somewhere else", lambda payload: [payload, 2])
        assert await world.run(body) == [{"a": 1}, 2]


async def test_a_child_s_stand_in_fails_as_a_child_fails() -> None:
    @workflow
    async def body(ctx: Context, _: None) -> str:
        with pytest.raises(ChildFailedError) as caught:
            await ctx.invoke("ask", child, 1)
        return str(caught.value)

    async with World() as world:
        world.replace("ask", NonRetryableError("not today"))
        assert "not today" in await world.run(body)


async def test_cancelling_the_parent_cancels_the_stand_in() -> None:
    async def forever(number: int) -> Verdict:
        await asyncio.Event().wait()
        return Verdict(True)

    async with World() as world:
        world.replace("ask", forever)
        run = await world.start(parent, 1)
        await run.cancel("enough")
        with pytest.raises(RunCancelledError, match="enough"):
            await run.result()
        assert await (await world.engine.get("parent-1/ask")).status() is RunStatus.CANCELLED


# --- waits ---------------------------------------------------------------------------------------------------------


@workflow
async def rounds(ctx: Context, _: None) -> list[str]:
    said: list[str] = []
    while not said or said[-1] != "fine":
        said.append(await ctx.wait_for_event("review", "review-1"))
    return said


async def test_every_wait_of_a_name_is_answered_when_it_begins() -> None:
    async with World() as world:
        answers = iter(["shorter", "longer", "fine"])
        world.when_waiting("review", lambda: next(answers), after="1h")
        assert await world.run(rounds) == ["shorter", "longer", "fine"]
        assert world.now - START == timedelta(hours=3)


async def test_an_evicted_run_s_wait_is_answered_once() -> None:
    async with World(max_resident_runs=0) as world:
        answers = iter(["shorter", "fine"])
        world.when_waiting("review", lambda: next(answers), after="1h")
        assert await world.run(rounds) == ["shorter", "fine"]


@pytest.mark.parametrize("answer", [b"[1]", "[1]", [1], WebhookRequest(method="PUT", body=b"[1]")])
async def test_a_webhook_is_answered_with_a_body_or_a_whole_request(answer: object) -> None:
    @workflow
    async def body(ctx: Context, _: None) -> str:
        hook = await ctx.create_webhook("done")
        request = await ctx.wait_for_webhook("wait for it", hook, timeout="1h")
        return f"{request.method} {request.text}"

    async with World() as world:
        world.when_waiting("wait for it", answer)
        assert await world.run(body) == ("PUT [1]" if isinstance(answer, WebhookRequest) else "POST [1]")
    async with World() as world:
        run = await world.start(body)
        await world.call_webhook(run, "done", answer)
        assert (await run.result())[-3:] == "[1]"


async def test_a_wait_that_nobody_answers_times_out_in_no_time() -> None:
    @workflow
    async def body(ctx: Context, _: None) -> str:
        with pytest.raises(WaitTimeoutError):
            await ctx.wait_for_event("review", "review-1", timeout="9d")
        return "gave up"

    async with World() as world:
        assert await world.run(body) == "gave up"
        assert world.now - START == timedelta(days=9)


async def test_an_answer_that_comes_too_late_is_no_error() -> None:
    @workflow
    async def body(ctx: Context, _: None) -> str:
        with pytest.raises(WaitTimeoutError):
            await ctx.wait_for_event("review", "review-1", timeout="1h")
        return "gave up"

    async with World() as world:
        world.when_waiting("review", True, after="2h")
        assert await world.run(body) == "gave up"
        await world.advance("2h")


async def test_an_event_that_comes_before_the_wait_counts() -> None:
    async with World() as world:
        assert (await world.notify("review-1", "fine")).kept
        assert await world.run(rounds) == ["fine"]


async def test_what_an_answer_raises_reaches_the_test() -> None:
    def broken() -> str:
        raise LookupError("the script is broken")

    world = World()
    with pytest.raises(LookupError, match="the script is broken") as caught:
        async with world:
            world.when_waiting("review", broken)
            await world.run(rounds)
    assert "raised by what answers the wait 'review' of run 'rounds-1'" in str(caught.value.__notes__)


# --- stuck ---------------------------------------------------------------------------------------------------------


async def test_a_wait_without_end_says_which_run_waits_for_what_and_where() -> None:
    async with World() as world:
        world.when_waiting("reviw", True)
        run = await world.start(rounds)
        with pytest.raises(StuckError) as caught:
            await run.result()
        message = str(caught.value)
        assert "run 'rounds-1' of 'rounds' cannot go on" in message
        assert "event 'review-1': `world.when_waiting('review', ...)`" in message
        assert "test_world.py:" in message and "in rounds" in message
        assert "Not used so far: 'reviw'; is a name written wrongly?" in message
        with pytest.raises(StuckError):
            await run.result()
        following = asyncio.create_task(run.result())
        await world.notify("review-1", "fine")
        assert await following == ["fine"]


async def test_who_watches_a_run_that_is_stuck_is_told_too() -> None:
    async with World() as world:
        run = await world.start(napping, 1)
        assert [outcome.kind async for outcome in run.watch()] == ["timer_fired"]
        run = await world.start(rounds)
        with pytest.raises(StuckError):
            async for _ in run.watch():
                pass


async def test_a_child_that_is_stuck_is_named() -> None:
    @workflow
    async def waiting(ctx: Context, _: None) -> None:
        await ctx.invoke("kid", rounds)

    async with World(max_resident_runs=0) as world:
        with pytest.raises(StuckError, match=r"'waiting-1/kid' waits for event:review-1"):
            await world.run(waiting)


async def test_a_step_that_waits_for_nothing_is_named() -> None:
    async def hangs() -> None:
        await asyncio.Event().wait()

    @workflow
    async def body(ctx: Context, _: None) -> None:
        await ctx.run("hangs", hangs)

    async with World() as world:
        with pytest.raises(StuckError, match="is in step 'hangs', which waits for something that neither"):
            await world.run(body)


# --- how it is used ------------------------------------------------------------------------------------------------


def test_a_test_that_is_no_coroutine_runs_a_workflow_too() -> None:
    assert run_workflow(article, "boxes", answer_all) == "https://example.org/BOXES"

    async def script(world: World) -> None:
        answer_all(world)
        await world.notify("review-editor", Verdict(approved=False, by="ada"))

    assert run_workflow(article, "boxes", script, max_resident_runs=0) == "refused by ada"


class TestUnittest(unittest.IsolatedAsyncioTestCase):
    async def test_a_world_is_used_in_unittest(self) -> None:
        async with World() as world:
            answer_all(world)
            assert await world.run(article, "boxes") == "https://example.org/BOXES"


async def test_real_boxes_take_real_time_and_their_world_waits_for_them(tmp_path: object) -> None:
    @workflow
    async def body(ctx: Context, _: None) -> str:
        async with ctx.box("real") as box:
            return (await box.exec.command("sleep 0.3; echo done", timeout="1m")).stdout

    async with World(sandbox=LocalSandbox(f"{tmp_path}/boxes")) as world:
        assert await world.run(body) == "done\n"
        assert world.now - START < timedelta(minutes=1)
        with pytest.raises(WorldError, match="a sandbox of your own"):
            world.sandbox.on("x")


async def test_a_rule_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a rule needs a name"):
        World().replace("", 1)


async def test_a_body_that_reads_the_clock_is_found() -> None:
    import time

    @workflow
    async def body(ctx: Context, _: None) -> float:
        await ctx.run("step", shout, "x")
        return time.time()

    with pytest.raises(Exception, match=r"time\.time\(\)"):
        async with World() as world:
            await world.run(body)


def test_a_world_works_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with World() as world:
            answer_all(world)
            world.sandbox.on("work", delay="1h")
            assert await world.run(article, "boxes") == "https://example.org/BOXES"
            with pytest.raises(StuckError):
                await world.run(rounds)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
