"""Cancel is an outcome in the journal: `CancelledError` reaches the body, which may clean up durably."""

from __future__ import annotations

import asyncio

import pytest
from behaviour.manual_clock import ManualClock
from behaviour.support import Machine, kinds, settle, until, until_recorded

from boxflow import Context, RunCancelledError, RunStatus, workflow
from boxflow.errors import RunNotFoundError
from boxflow.model import CancelAsked


async def test_cancelled_error_reaches_the_body_and_finally_blocks_run_durable_steps(machine: Machine) -> None:
    done: list[str] = []

    async def note(text: str) -> str:
        done.append(text)
        return text

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        try:
            await ctx.wait_for_event("wait", "never")
        except asyncio.CancelledError:
            await ctx.run("caught", note, "caught")
            raise
        finally:
            await ctx.sleep("pause", 0.001)
            await ctx.run("finally", note, "finally")

    async with machine.running(main) as engine:
        run = await engine.start(main)
        await until(run, RunStatus.WAITING)
        await run.cancel("changed my mind")
        with pytest.raises(RunCancelledError, match="was cancelled: changed my mind") as caught:
            await run.result()
        assert caught.value.reason == "changed my mind"
        assert await run.status() is RunStatus.CANCELLED
        history = await run.history()
        assert kinds(history) == ["cancel_asked", "step_done", "timer_fired", "step_done"]
        assert isinstance(history[0], CancelAsked)
        assert history[0].reason == "changed my mind"
    assert done == ["caught", "finally"]


async def test_a_clean_up_that_was_interrupted_by_a_crash_goes_on(machine: Machine) -> None:
    done: list[str] = []

    async def note(text: str) -> None:
        done.append(text)

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        try:
            await ctx.wait_for_event("wait", "never")
        finally:
            await ctx.run("one", note, "one")
            await ctx.wait_for_event("between", "between")
            await ctx.run("two", note, "two")

    async with machine.crashing(main) as engine:
        run = await engine.start(main, run_id="r")
        await until(run, RunStatus.WAITING)
        await run.cancel()
        await until_recorded(run, "step_done")
        await until(run, RunStatus.WAITING)
    async with machine.running(main) as engine:
        await engine.notify("between")
        with pytest.raises(RunCancelledError):
            await (await engine.get("r")).result()
    assert done == ["one", "two"]


async def test_steps_in_flight_are_cancelled(machine: Machine) -> None:
    seen: list[str] = []

    async def slow() -> None:
        seen.append("started")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await ctx.run("slow", slow)

    async with machine.running(main) as engine:
        run = await engine.start(main)
        while not seen:
            await asyncio.sleep(0)
        await run.cancel()
        with pytest.raises(RunCancelledError):
            await run.result()
        while len(seen) < 2:
            await asyncio.sleep(0)
        assert kinds(await run.history()) == ["cancel_asked"]
    assert seen == ["started", "cancelled"]


async def test_cancelling_twice_and_after_the_end_is_no_error(machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            await ctx.wait_for_event("wait", "never")
        finally:
            await asyncio.shield(ctx.wait_for_event("leave", "leave"))
        return "?"

    @workflow
    async def quick(ctx: Context, payload: None) -> str:
        return "done"

    async with machine.running(main, quick) as engine:
        run = await engine.start(main)
        await until(run, RunStatus.WAITING)
        await run.cancel("first")
        await until(run, RunStatus.WAITING)
        await engine.notify("leave")
        with pytest.raises(RunCancelledError):
            await run.result()
        await run.cancel("again")
        ended = await engine.start(quick)
        assert await ended.result() == "done"
        await ended.cancel()
        assert await ended.status() is RunStatus.COMPLETED


async def test_a_cancel_survives_a_crash_of_the_very_next_moment(machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await ctx.wait_for_event("wait", "never")

    async with machine.crashing(main) as engine:
        run = await engine.start(main, run_id="r")
        await until(run, RunStatus.WAITING)
        await run.cancel("enough")
    async with machine.running(main) as engine:
        with pytest.raises(RunCancelledError, match="enough"):
            await (await engine.get("r")).result()


async def test_a_run_that_has_not_begun_is_cancelled_without_ever_running(machine: Machine) -> None:
    clock = ManualClock()
    ran: list[int] = []

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        ran.append(1)

    async with machine.running(main, clock=clock) as engine:
        run = await engine.start(main, delay="1h")
        assert await run.status() is RunStatus.PENDING
        await run.cancel("not needed")
        with pytest.raises(RunCancelledError, match="not needed"):
            await run.result()
        clock.advance(7200)
        await settle()
        assert await run.status() is RunStatus.CANCELLED
    assert ran == []


async def test_an_evicted_run_can_be_cancelled(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await ctx.wait_for_event("wait", "never")

    async with memory_machine.running(main, max_resident_runs=0) as engine:
        run = await engine.start(main)
        await until(run, RunStatus.WAITING)
        await run.cancel()
        with pytest.raises(RunCancelledError):
            await run.result()


async def test_a_body_may_survive_a_cancel_and_complete(machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            await ctx.wait_for_event("wait", "never")
        except asyncio.CancelledError:
            return "gave up in good order"
        return "?"

    async with machine.running(main) as engine:
        run = await engine.start(main)
        await until(run, RunStatus.WAITING)
        await run.cancel()
        assert await run.result() == "gave up in good order"
        assert await run.status() is RunStatus.COMPLETED


async def test_a_body_may_cancel_its_own_run(machine: Machine) -> None:
    after: list[str] = []

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await ctx.cancel("nothing to do")
        after.append("never")

    async with machine.running(main) as engine:
        run = await engine.start(main)
        with pytest.raises(RunCancelledError, match="nothing to do"):
            await run.result()
        assert kinds(await run.history()) == ["cancel_asked"]
    assert after == []


async def test_a_step_may_cancel_the_run_it_belongs_to(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> None:
        async def stop() -> None:
            await (await engine.get(ctx.run_id)).cancel("by its step")

        await ctx.run("stop", stop)
        await ctx.wait_for_event("wait", "never")

    async with memory_machine.running(main) as engine:
        with pytest.raises(RunCancelledError, match="by its step"):
            await engine.run(main)


async def test_a_cancelled_run_is_not_cancelled_any_more_while_it_cleans_up_unless_asked_again(
    memory_machine: Machine,
) -> None:
    seen: list[str] = []

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        try:
            await ctx.wait_for_event("wait", "never")
        finally:
            try:
                await ctx.wait_for_event("stuck", "never")
            except asyncio.CancelledError:
                seen.append("second")

    async with memory_machine.running(main) as engine:
        run = await engine.start(main)
        await until(run, RunStatus.WAITING)
        await run.cancel("first")
        await until(run, RunStatus.WAITING)
        assert seen == []
        await run.cancel("second")
        with pytest.raises(RunCancelledError):
            await run.result()
    assert seen == ["second"]


async def test_a_run_that_does_not_exist_cannot_be_cancelled(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> None: ...

    async with memory_machine.running(main) as engine:
        run = await engine.start(main)
        await run.result()
        await engine.store.delete_run(run.id)
        with pytest.raises(RunNotFoundError):
            await run.cancel()


async def test_cancelling_a_task_inside_the_body_is_not_cancelling_the_run(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        task = asyncio.create_task(ctx.wait_for_event("wait", "never"))
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "only the task"
        return "?"

    async with memory_machine.running(main) as engine:
        assert await engine.run(main) == "only the task"
