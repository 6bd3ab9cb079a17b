"""Starting, finding, following and listing runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from behaviour.manual_clock import ManualClock
from behaviour.support import Machine, kinds, settle, until

from boxflow import Context, Engine, RunFailedError, RunStatus, workflow
from boxflow.errors import (
    ConfigurationError,
    RunNotFoundError,
    RunStateError,
    StoreClosedError,
    WorkflowNotFoundError,
)

done: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    done.clear()


async def do(what: str) -> str:
    done.append(what)
    return what


@workflow
async def quick(ctx: Context, what: str) -> str:
    return await ctx.run("do", do, what)


@workflow
async def patient(ctx: Context, event_id: str) -> object:
    await ctx.run("do", do, event_id)
    return await ctx.wait_for_event("wait", event_id)


@workflow
async def broken(ctx: Context, what: str) -> None:
    raise ValueError(what)


async def test_the_same_run_id_is_the_same_run(machine: Machine) -> None:
    async with machine.running(quick) as engine:
        runs = await asyncio.gather(*(engine.start(quick, f"call {n}", run_id="r") for n in range(5)))
        results = {await run.result() for run in runs}
        assert len(results) == 1
        assert await (await engine.start(quick, "later", run_id="r")).result() in results
    async with machine.running(quick) as engine:
        assert await engine.run(quick, "another life", run_id="r") in results
    assert len(done) == 1


async def test_a_run_id_that_belongs_to_another_workflow_is_refused(memory_machine: Machine) -> None:
    async with memory_machine.running(quick, patient) as engine:
        await engine.start(quick, "x", run_id="r")
        with pytest.raises(RunStateError, match="run 'r' exists already, of workflow 'quick'; choose another run_id"):
            await engine.start(patient, "x", run_id="r")


async def test_a_run_id_is_a_printable_text_of_bounded_length(memory_machine: Machine) -> None:
    async with memory_machine.running(quick) as engine:
        for wrong in ("", "a\nb", "x" * 401):
            with pytest.raises(ConfigurationError, match="run_id="):
                await engine.start(quick, "x", run_id=wrong)


async def test_the_status_tells_where_it_stands(machine: Machine) -> None:
    clock = ManualClock()
    hold = asyncio.Event()

    async def slow() -> None:
        await hold.wait()

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await ctx.run("slow", slow)
        await ctx.wait_for_event("wait", "go")

    async with machine.running(main, broken, clock=clock) as engine:
        run = await engine.start(main, delay=60)
        assert await run.status() is RunStatus.PENDING
        clock.advance(60)
        await until(run, RunStatus.RUNNING)
        hold.set()
        await until(run, RunStatus.WAITING)
        await engine.notify("go")
        await run.result()
        assert await run.status() is RunStatus.COMPLETED
        failed = await engine.start(broken, "x")
        with pytest.raises(RunFailedError):
            await failed.result()
        assert await failed.status() is RunStatus.FAILED
        assert str(RunStatus.FAILED) == "failed"


async def test_a_delayed_run_begins_later_also_after_a_restart(machine: Machine) -> None:
    clock = ManualClock()
    async with machine.crashing(quick, clock=clock) as engine:
        await engine.start(quick, "x", run_id="r", delay="1h")
    async with machine.running(quick, clock=clock) as engine:
        run = await engine.get("r")
        clock.advance(3599)
        await settle()
        assert await run.status() is RunStatus.PENDING
        assert done == []
        clock.advance(1)
        assert await run.result() == "x"


async def test_watch_gives_the_outcomes_from_the_start_and_then_live_and_ends_with_the_run(machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await ctx.run("a", do, "a")
        await ctx.wait_for_event("wait", "go")
        await ctx.run("b", do, "b")

    async with machine.running(main, max_resident_runs=0) as engine:
        run = await engine.start(main)
        await until(run, RunStatus.WAITING)
        seen: list[str] = []

        async def follow() -> None:
            async for outcome in run.watch():
                seen.append(outcome.kind)  # noqa: PERF401 # the test looks at it meanwhile

        followers = [asyncio.create_task(follow()) for _ in range(2)]
        while len(seen) < 2:
            await asyncio.sleep(0)
        assert seen == ["step_done", "step_done"]
        await engine.notify("go")
        await asyncio.gather(*followers)
        assert sorted(seen) == sorted(["step_done", "event_arrived", "step_done"] * 2)
        assert [outcome.seq async for outcome in run.watch()] == [1, 2, 3]


async def test_leaving_a_watch_early_changes_nothing(memory_machine: Machine) -> None:
    async with memory_machine.running(patient) as engine:
        run = await engine.start(patient, "go")
        async for outcome in run.watch():
            assert outcome.kind == "step_done"
            break
        await engine.notify("go", 1)
        assert await run.result() == 1


async def test_result_waits_no_longer_than_its_timeout_and_the_run_goes_on(memory_machine: Machine) -> None:
    async with memory_machine.running(patient) as engine:
        run = await engine.start(patient, "go")
        with pytest.raises(TimeoutError):
            await run.result(timeout=0.005)
        await engine.notify("go", 1)
        assert await run.result() == 1


async def test_a_waiter_that_is_cancelled_leaves_the_run_alone(memory_machine: Machine) -> None:
    async with memory_machine.running(patient) as engine:
        run = await engine.start(patient, "go")
        waiting = asyncio.create_task(run.result())
        await until(run, RunStatus.WAITING)
        waiting.cancel()
        await asyncio.wait([waiting])
        await engine.notify("go", 1)
        assert await run.result() == 1


async def test_runs_are_listed_newest_first_by_status_workflow_label_and_limit(machine: Machine) -> None:
    clock = ManualClock()

    async def ids(engine: Engine, **asked: Any) -> list[str]:
        return [run.id async for run in engine.runs(**asked)]

    async with machine.running(quick, patient, broken, clock=clock) as engine:
        for number in range(3):
            await engine.run(quick, "x", run_id=f"q{number}", labels=["blue" if number else "red"])
            clock.advance(1)
        await until(await engine.start(patient, "e", run_id="p", labels=["red"]), RunStatus.WAITING)
        clock.advance(1)
        failed = await engine.start(broken, "x", run_id="b")
        with pytest.raises(RunFailedError):
            await failed.result()
        assert await ids(engine) == ["b", "p", "q2", "q1", "q0"]
        assert await ids(engine, status="completed") == ["q2", "q1", "q0"]
        assert await ids(engine, status=[RunStatus.FAILED, "waiting"]) == ["b", "p"]
        assert await ids(engine, workflow=quick) == ["q2", "q1", "q0"]
        assert await ids(engine, workflow="patient") == ["p"]
        assert await ids(engine, label="red") == ["p", "q0"]
        assert await ids(engine, label="red", status="completed") == ["q0"]
        assert await ids(engine, limit=2) == ["b", "p"]
        assert await ids(engine, limit=0) == []
        with pytest.raises(ValueError, match="nonsense"):
            await ids(engine, status="nonsense")
    async with machine.running(quick, patient, broken, clock=clock) as engine:
        assert await ids(engine) == ["b", "p", "q2", "q1", "q0"]


async def test_a_long_list_comes_whole(memory_machine: Machine) -> None:
    clock = ManualClock()
    async with memory_machine.running(quick, clock=clock) as engine:
        expected = []
        for number in range(450):
            await engine.start(quick, "x", run_id=f"r{number:03}", delay=1000)
            expected.insert(0, f"r{number:03}")
            clock.advance(0.001)
        assert [run.id async for run in engine.runs()] == expected
        assert [run.id async for run in engine.runs(limit=201)] == expected[:201]


async def test_get_finds_a_run_by_its_id(machine: Machine) -> None:
    async with machine.running(quick) as engine:
        await engine.run(quick, "x", run_id="r", labels=["a", "b"])
        run = await engine.get("r")
        assert (run.id, run.workflow, run.labels) == ("r", "quick", ("a", "b"))
        assert await run.result() == "x"
        with pytest.raises(RunNotFoundError, match="no run 'other' in this store"):
            await engine.get("other")


async def test_a_workflow_that_is_not_registered_is_refused_and_says_what_there_is(memory_machine: Machine) -> None:
    async with memory_machine.running(quick) as engine:
        with pytest.raises(WorkflowNotFoundError, match=r"workflow 'patient' is not registered .* which has 'quick'"):
            await engine.start(patient, "x")
        with pytest.raises(LookupError):
            await engine.start("nothing")


async def test_an_engine_works_only_inside_its_block(memory_machine: Machine) -> None:
    engine = Engine([quick])
    with pytest.raises(StoreClosedError, match="the engine is not running"):
        await engine.start(quick, "x")
    async with engine:
        run = await engine.start(quick, "x")
        await run.result()
    with pytest.raises(StoreClosedError):
        await engine.start(quick, "x")
    with pytest.raises(RuntimeError, match="entered before"):
        async with engine:
            pass


async def test_who_waits_for_a_result_is_told_when_the_engine_stops(memory_machine: Machine) -> None:
    async with memory_machine.running(patient) as engine:
        run = await engine.start(patient, "never")
        waiting = asyncio.create_task(run.result())
        await until(run, RunStatus.WAITING)
    with pytest.raises(StoreClosedError):
        await waiting


async def test_waiting_runs_resume_after_a_restart(machine: Machine) -> None:
    async with machine.running(patient) as engine:
        for number in range(5):
            await until(await engine.start(patient, f"e{number}", run_id=f"r{number}"), RunStatus.WAITING)
    async with machine.running(patient) as engine:
        for number in range(5):
            assert await (await engine.get(f"r{number}")).status() is RunStatus.WAITING
            await engine.notify(f"e{number}", number)
            assert await (await engine.get(f"r{number}")).result() == number
    assert len(done) == 5


async def test_a_result_can_be_read_in_a_later_life_also_without_the_code(machine: Machine) -> None:
    async with machine.running(quick) as engine:
        await engine.run(quick, "x", run_id="r")
    async with machine.running(patient) as engine:
        run = await engine.get("r")
        assert await run.result() == "x"
        assert kinds(await run.history()) == ["step_done"]
