"""Sleeps and timeouts are durable; the journal's time is the body's time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import anyio
import pytest
from behaviour.manual_clock import ManualClock
from behaviour.support import Machine, keys, settle, until, until_recorded

from boxflow import Context, RunStatus, workflow
from boxflow.errors import RunTimeoutError


async def test_a_sleep_ends_when_its_time_has_come_in_whatever_life(machine: Machine) -> None:
    clock = ManualClock()

    @workflow
    async def main(ctx: Context, payload: None) -> float:
        before = ctx.now()
        await ctx.sleep("nap", "1h")
        return (ctx.now() - before).total_seconds()

    async with machine.crashing(main, clock=clock) as engine:
        run = await engine.start(main, run_id="r")
        await until(run, RunStatus.WAITING)
        clock.advance(3000)
    async with machine.running(main, clock=clock) as engine:
        run = await engine.get("r")
        clock.advance(599)
        await settle()
        assert await run.status() is RunStatus.WAITING
        clock.advance(1)
        assert await run.result() == 3600
        assert keys(await run.history()) == [("timer_fired", "nap", 1)]


async def test_timers_that_came_due_while_the_engine_was_down_fire_in_order(machine: Machine) -> None:
    clock = ManualClock()

    @workflow
    async def main(ctx: Context, payload: None) -> list[str]:
        order: list[str] = []

        async def nap(name: str, delay: float) -> None:
            await ctx.sleep(name, delay)
            order.append(name)
            await asyncio.sleep(5)
            order.append(f"{name}+5")

        await asyncio.gather(nap("c", 30), nap("a", 10), nap("b", 20), nap("a2", 10))
        return order

    async with machine.crashing(main, clock=clock) as engine:
        await until(await engine.start(main, run_id="r"), RunStatus.WAITING)
    clock.advance(1000)
    async with machine.running(main, clock=clock) as engine:
        run = await engine.get("r")
        await until_recorded(run, "timer_fired", 3)
        await until(run, RunStatus.WAITING)
        clock.advance(5)
        order = await run.result()
    assert [name for name in order if "+" not in name] == ["a", "a2", "b", "c"]


async def test_runs_that_came_due_while_the_engine_was_down_go_on(machine: Machine) -> None:
    clock = ManualClock()

    @workflow
    async def main(ctx: Context, delay: int) -> int:
        await ctx.sleep("nap", delay)
        return delay

    async with machine.crashing(main, clock=clock) as engine:
        for delay in (10, 20, 2000):
            await until(await engine.start(main, delay, run_id=f"r{delay}"), RunStatus.WAITING)
    clock.advance(100)
    async with machine.running(main, clock=clock) as engine:
        assert [await (await engine.get(f"r{delay}")).result() for delay in (10, 20)] == [10, 20]
        assert await (await engine.get("r2000")).status() is RunStatus.WAITING


async def test_sleep_until_takes_any_aware_time_and_returns_at_once_when_it_is_past(memory_machine: Machine) -> None:
    clock = ManualClock(datetime(2030, 1, 1, 12, tzinfo=UTC).timestamp())

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        await ctx.sleep_until("past", datetime(2029, 1, 1, tzinfo=UTC))
        await ctx.sleep_until("soon", datetime(2030, 1, 1, 15, tzinfo=timezone(timedelta(hours=2))))
        return ctx.now().isoformat()

    async with memory_machine.running(main, clock=clock) as engine:
        run = await engine.start(main)
        await until(run, RunStatus.WAITING)
        clock.advance(3600)
        assert await run.result() == "2030-01-01T13:00:00+00:00"


async def test_a_naive_time_is_refused(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            await ctx.sleep_until("when", datetime(2030, 1, 1))
        except ValueError as error:
            return str(error)
        return "?"

    async with memory_machine.running(main) as engine:
        assert "naive time" in await engine.run(main)


async def test_asyncio_and_anyio_timeouts_are_durable(machine: Machine) -> None:
    clock = ManualClock()

    @workflow
    async def main(ctx: Context, payload: None) -> list[str]:
        got: list[str] = []
        try:
            async with asyncio.timeout(10):
                await ctx.wait_for_event("wait", "never")
        except TimeoutError:
            got.append("timeout")
        try:
            await asyncio.wait_for(ctx.wait_for_event("wait", "never"), 10)
        except TimeoutError:
            got.append("wait_for")
        with anyio.move_on_after(10) as scope:
            await ctx.wait_for_event("wait", "never")
        got.append(f"anyio {scope.cancelled_caught}")
        await asyncio.sleep(10)
        await anyio.sleep(10)
        return got

    async with machine.crashing(main, clock=clock) as engine:
        run = await engine.start(main, run_id="r")
        for _ in range(2):
            await until(run, RunStatus.WAITING)
            await settle()
            clock.advance(10)
            await settle(100)
        await until(run, RunStatus.WAITING)
    async with machine.running(main, clock=clock) as engine:
        run = await engine.get("r")
        while not (await run.status()).is_final:
            clock.advance(10)
            await settle()
            await asyncio.sleep(0.001)
        assert await run.result() == ["timeout", "wait_for", "anyio True"]


async def test_a_runs_timeout_cancels_it_and_its_result_is_a_timeout_error(machine: Machine) -> None:
    clock = ManualClock()
    cleaned: list[str] = []

    async def clean() -> None:
        cleaned.append("clean")

    @workflow(timeout="1h")
    async def main(ctx: Context, payload: None) -> None:
        try:
            await ctx.wait_for_event("wait", "never")
        finally:
            await ctx.run("clean", clean)

    async with machine.crashing(main, clock=clock) as engine:
        await until(await engine.start(main, run_id="r"), RunStatus.WAITING)
    clock.advance(3601)
    async with machine.running(main, clock=clock) as engine:
        run = await engine.get("r")
        with pytest.raises(RunTimeoutError, match="it took longer than its timeout of 3600 s") as caught:
            await run.result()
        assert isinstance(caught.value, TimeoutError)
        assert await run.status() is RunStatus.CANCELLED
    assert cleaned == ["clean"]


async def test_a_run_that_ends_in_time_is_not_touched_by_its_timeout(memory_machine: Machine) -> None:
    clock = ManualClock()

    @workflow(timeout="1h")
    async def main(ctx: Context, payload: None) -> str:
        await ctx.sleep("nap", 10)
        return "done"

    async with memory_machine.running(main, clock=clock) as engine:
        run = await engine.start(main)
        await until(run, RunStatus.WAITING)
        clock.advance(10)
        assert await run.result() == "done"
        clock.advance(10_000)
        await settle()
        assert await run.status() is RunStatus.COMPLETED


async def test_a_clock_that_is_set_back_never_lets_the_journals_time_go_back(memory_machine: Machine) -> None:
    clock = ManualClock()

    async def work() -> None:
        clock.advance(-1000)

    @workflow
    async def main(ctx: Context, payload: None) -> list[float]:
        times = [ctx.now().timestamp()]
        for _ in range(3):
            await ctx.run("work", work)
            times.append(ctx.now().timestamp())
        return times

    async with memory_machine.running(main, clock=clock) as engine:
        run = await engine.start(main)
        times = await run.result()
        assert times == sorted(times)
        at = [outcome.at for outcome in await run.history()]
        assert at == sorted(at)
