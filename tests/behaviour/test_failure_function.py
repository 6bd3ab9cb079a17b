"""The failure function runs on failure, cancel and timeout alike, durable like the body, and retried."""

from __future__ import annotations

import asyncio

import pytest
from behaviour.manual_clock import ManualClock
from behaviour.support import Machine, kinds, settle, until, until_recorded

from boxflow import (
    Context,
    RunCancelledError,
    RunFailedError,
    RunFailure,
    RunStatus,
    workflow,
)
from boxflow.errors import RunTimeoutError

told: list[RunFailure] = []


async def tell(failure: RunFailure) -> None:
    told.append(failure)


async def on_failure(ctx: Context, failure: RunFailure) -> None:
    await ctx.run("tell", tell, failure)


@workflow(failure_function=on_failure)
async def broken(ctx: Context, payload: str) -> None:
    raise ValueError(f"no {payload}")


@workflow(failure_function=on_failure, timeout="1h")
async def patient(ctx: Context, payload: str) -> None:
    await ctx.wait_for_event("wait", "never")


@pytest.fixture(autouse=True)
def _nothing_told() -> None:
    told.clear()


async def test_it_learns_status_error_and_payload_of_a_failure(machine: Machine) -> None:
    async with machine.running(broken) as engine:
        run = await engine.start(broken, "paper", run_id="r")
        with pytest.raises(RunFailedError, match="ValueError: no paper"):
            await run.result()
        assert kinds(await run.history()) == ["step_done"]
    (failure,) = told
    assert (failure.run_id, failure.status, failure.payload) == ("r", RunStatus.FAILED, "paper")
    assert str(failure.error) == "ValueError: no paper"
    assert "raise ValueError" in failure.error.traceback


async def test_it_runs_on_cancel(machine: Machine) -> None:
    async with machine.running(patient) as engine:
        run = await engine.start(patient, "p")
        await until(run, RunStatus.WAITING)
        await run.cancel("enough")
        with pytest.raises(RunCancelledError):
            await run.result()
    (failure,) = told
    assert (failure.status, failure.reason, failure.error.type) == (RunStatus.CANCELLED, "enough", "RunCancelledError")


async def test_it_runs_on_timeout(machine: Machine) -> None:
    clock = ManualClock()
    async with machine.running(patient, clock=clock) as engine:
        run = await engine.start(patient, "p")
        await until(run, RunStatus.WAITING)
        clock.advance(3600)
        with pytest.raises(RunTimeoutError):
            await run.result()
    (failure,) = told
    assert (failure.status, failure.error.type) == (RunStatus.CANCELLED, "RunTimeoutError")


async def test_it_does_not_run_when_the_run_completes(memory_machine: Machine) -> None:
    @workflow(failure_function=on_failure)
    async def fine(ctx: Context, payload: None) -> int:
        return 1

    async with memory_machine.running(fine) as engine:
        assert await engine.run(fine) == 1
    assert told == []


async def test_it_goes_on_after_a_crash_and_what_it_had_done_is_not_done_again(machine: Machine) -> None:
    done: list[str] = []

    async def note(text: str) -> None:
        done.append(text)

    async def clean_up(ctx: Context, failure: RunFailure) -> None:
        await ctx.run("first", note, "first")
        await ctx.wait_for_event("between", "between")
        await ctx.run("second", note, f"second {failure.error}")

    @workflow(failure_function=clean_up)
    async def main(ctx: Context, payload: None) -> None:
        raise ValueError("no")

    async with machine.crashing(main) as engine:
        run = await engine.start(main, run_id="r")
        await until(run, RunStatus.WAITING)
    async with machine.running(main) as engine:
        await engine.notify("between")
        with pytest.raises(RunFailedError):
            await (await engine.get("r")).result()
    assert done == ["first", "second ValueError: no"]


async def test_it_is_retried_and_the_pause_survives_a_crash(machine: Machine) -> None:
    clock = ManualClock()
    tries: list[float] = []

    async def flaky() -> None:
        tries.append(clock.now())
        if len(tries) < 3:
            raise OSError("mail server away")

    async def mail(ctx: Context, failure: RunFailure) -> None:
        await ctx.run("mail", flaky)

    @workflow(failure_function=mail)
    async def main(ctx: Context, payload: None) -> None:
        raise ValueError("no")

    begin = clock.now()
    async with machine.crashing(main, clock=clock) as engine:
        run = await engine.start(main, run_id="r")
        await until(run, RunStatus.WAITING)
    async with machine.running(main, clock=clock) as engine:
        run = await engine.get("r")
        clock.advance(1)
        await until_recorded(run, "step_failed", 2)
        await until(run, RunStatus.WAITING)
        clock.advance(5)
        with pytest.raises(RunFailedError, match="ValueError: no"):
            await run.result()
    assert [at - begin for at in tries] == [0, 1, 6]


async def test_one_that_never_succeeds_leaves_the_runs_own_failure(memory_machine: Machine) -> None:
    clock = ManualClock()

    async def hopeless(ctx: Context, failure: RunFailure) -> None:
        raise RuntimeError("worse")

    @workflow(failure_function=hopeless)
    async def main(ctx: Context, payload: None) -> None:
        raise ValueError("the first cause")

    async with memory_machine.running(main, clock=clock) as engine:
        run = await engine.start(main)
        for pause in (1, 5, 30, 120):
            await until(run, RunStatus.WAITING)
            await settle()
            clock.advance(pause)
            await settle()
        with pytest.raises(RunFailedError, match="the first cause"):
            await run.result()


async def test_an_empty_failure_function_that_waits_for_nothing_is_fine(memory_machine: Machine) -> None:
    async def nothing(ctx: Context, failure: RunFailure) -> None:
        await asyncio.sleep(0)

    @workflow(failure_function=nothing)
    async def main(ctx: Context, payload: None) -> None:
        raise ValueError("no")

    async with memory_machine.running(main) as engine:
        with pytest.raises(RunFailedError):
            await engine.run(main)


async def test_a_cancel_while_it_runs_does_not_stop_it(memory_machine: Machine) -> None:
    done: list[str] = []

    async def note() -> None:
        done.append("cleaned")

    async def slow(ctx: Context, failure: RunFailure) -> None:
        await ctx.wait_for_event("wait", "go")
        await ctx.run("note", note)

    @workflow(failure_function=slow)
    async def main(ctx: Context, payload: None) -> None:
        raise ValueError("no")

    async with memory_machine.running(main) as engine:
        run = await engine.start(main)
        await until(run, RunStatus.WAITING)
        await run.cancel()
        await engine.notify("go")
        with pytest.raises(RunFailedError):
            await run.result()
    assert done == ["cleaned"]
