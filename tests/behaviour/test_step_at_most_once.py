"""`at_most_once=True` records the start first, and raises `StepInterruptedError` after a crash."""

from __future__ import annotations

import asyncio

import pytest
from behaviour.support import Machine, kinds

from boxflow import Context, Retry, StepFailedError, StepInterruptedError, workflow


async def test_a_step_that_was_interrupted_is_not_run_again(machine: Machine) -> None:
    calls: list[str] = []

    async def pay() -> str:
        calls.append("pay")
        await asyncio.Event().wait()
        return "paid"

    async def ask() -> str:
        return "asked the bank"

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            return await ctx.run("pay", pay, at_most_once=True)
        except StepInterruptedError as error:
            assert error.name == "pay"
            assert "unknown" in error.cause_message
            return await ctx.run("ask", ask)

    async with machine.crashing(main) as engine:
        await engine.start(main, run_id="r")
        while not calls:
            await asyncio.sleep(0.001)
    for _ in range(2):
        async with machine.running(main) as engine:
            run = await engine.get("r")
            assert await run.result() == "asked the bank"
            assert kinds(await run.history()) == ["step_started", "step_failed", "step_done"]
    assert calls == ["pay"]


async def test_a_step_that_ended_before_the_crash_keeps_its_outcome(machine: Machine) -> None:
    calls: list[str] = []

    async def pay() -> str:
        calls.append("pay")
        return "paid"

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        paid = await ctx.run("pay", pay, at_most_once=True)
        await ctx.wait_for_event("go", "go")
        return paid

    async with machine.crashing(main) as engine:
        run = await engine.start(main, run_id="r")
        while await run.status() != "waiting":
            await asyncio.sleep(0.001)
    async with machine.running(main) as engine:
        await engine.notify("go")
        assert await (await engine.get("r")).result() == "paid"
    assert calls == ["pay"]


async def test_a_step_that_fails_may_be_retried_since_its_end_is_known(memory_machine: Machine) -> None:
    calls: list[str] = []

    async def pay() -> str:
        calls.append("pay")
        if len(calls) == 1:
            raise OSError("declined")
        return "paid"

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        return await ctx.run("pay", pay, at_most_once=True, retry=Retry(attempts=2, delay=0.001))

    async with memory_machine.running(main) as engine:
        run = await engine.start(main)
        assert await run.result() == "paid"
        assert kinds(await run.history()) == ["step_started", "step_retrying", "step_started", "step_done"]


async def test_the_error_is_a_failed_step(memory_machine: Machine) -> None:
    assert issubclass(StepInterruptedError, StepFailedError)
    started: list[int] = []

    async def pay() -> None:
        started.append(1)
        await asyncio.Event().wait()

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await ctx.run("pay", pay, at_most_once=True)

    async with memory_machine.crashing(main) as engine:
        await engine.start(main, run_id="r")
        while not started:
            await asyncio.sleep(0)
    async with memory_machine.running(main) as engine:
        with pytest.raises(Exception, match="StepInterruptedError: step 'pay' failed"):
            await (await engine.get("r")).result()
