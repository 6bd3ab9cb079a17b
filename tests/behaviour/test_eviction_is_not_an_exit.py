"""A run that only waits may leave memory: no durable call runs, no `except Exception` sees it, nothing is lost."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import anyio
import pytest
from behaviour.support import Machine, eventually, kinds, until

from boxflow import Context, Engine, RunStatus, workflow


async def evicted(engine: Engine, run_id: str) -> None:
    await eventually(lambda: engine._hub._residents.get(run_id) is None)


async def test_no_finally_and_no_except_exception_does_anything_durable(
    memory_machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []
    cleaned: list[str] = []

    async def clean() -> None:
        cleaned.append("clean")

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(ctx.sleep("nap", "1d"))
                    return str(await ctx.wait_for_event("wait", "go"))
            except Exception as error:
                seen.append(repr(error))
                raise
        finally:
            await ctx.run("clean", clean)

    async with memory_machine.running(main, max_resident_runs=0) as engine:
        run = await engine.start(main, run_id="r")
        await until(run, RunStatus.WAITING)
        await evicted(engine, "r")
        gc.collect()
        assert cleaned == []
        assert kinds(await run.history()) == []
        await run.cancel()
        await eventually(lambda: cleaned == ["clean"])
    assert seen == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_it_goes_on_where_it_was_as_often_as_something_comes(machine: Machine) -> None:
    lives: list[int] = []

    async def work(number: int) -> int:
        return number

    @workflow
    async def main(ctx: Context, payload: None) -> list[int]:
        lives.append(1)
        got: list[int] = []
        for number in range(5):
            got.append(await ctx.run("work", work, number))
            got.append(await ctx.wait_for_event("wait", "go", type=int))
        return got

    async with machine.running(main, max_resident_runs=0) as engine:
        run = await engine.start(main, run_id="r")
        for number in range(5):
            await until(run, RunStatus.WAITING)
            await evicted(engine, "r")
            await engine.notify("go", number * 10)
        assert await run.result() == [0, 0, 1, 10, 2, 20, 3, 30, 4, 40]
    assert len(lives) == 6


async def test_a_body_that_catches_everything_is_evicted_all_the_same(memory_machine: Machine) -> None:
    @workflow
    async def stubborn(ctx: Context, payload: None) -> str:
        while True:
            try:
                return str(await ctx.wait_for_event("wait", "go"))
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError):
                    raise

    async with memory_machine.running(stubborn, max_resident_runs=0) as engine:
        run = await engine.start(stubborn, run_id="r")
        await until(run, RunStatus.WAITING)
        await evicted(engine, "r")
        await engine.notify("go", "x")
        assert await run.result() == "x"


async def test_async_generators_and_anyio_scopes_are_left_without_a_word(
    memory_machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    left: list[str] = []

    @workflow
    async def main(ctx: Context, payload: None) -> list[str]:
        async def numbers():  # type: ignore[no-untyped-def] # a generator of the body's
            try:
                for number in range(3):
                    yield str(number) + str(await ctx.wait_for_event("wait", "go"))
            finally:
                await ctx.run("left", lambda: left.append("left"))

        got: list[str] = []
        async with anyio.create_task_group() as group:
            group.start_soon(ctx.sleep, "nap", "1d")
            async for text in numbers():
                got.append(text)  # noqa: PERF401 # one at a time, since the run leaves memory in between
            group.cancel_scope.cancel()
        return got

    async with memory_machine.running(main, max_resident_runs=0) as engine:
        run = await engine.start(main, run_id="r")
        for number in range(3):
            await until(run, RunStatus.WAITING)
            await evicted(engine, "r")
            gc.collect()
            assert left == []
            await engine.notify("go", number)
        assert await run.result() == ["00", "11", "22"]
        assert left == ["left"]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_the_body_is_really_gone_from_memory(memory_machine: Machine) -> None:
    class Big:
        pass

    alive: weakref.WeakSet[Big] = weakref.WeakSet()

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        big = Big()
        alive.add(big)
        await ctx.wait_for_event("wait", "go")
        del big

    async with memory_machine.running(main, max_resident_runs=0) as engine:
        for number in range(10):
            run = await engine.start(main, run_id=f"r{number}")
            await until(run, RunStatus.WAITING)
            await evicted(engine, run.id)
        gc.collect()
        assert len(alive) == 0


async def test_the_least_recently_active_run_goes_first(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> None:
        for _ in range(2):
            await ctx.wait_for_event("wait", f"go-{ctx.run_id}")

    async with memory_machine.running(main, max_resident_runs=2) as engine:
        for run_id in ("a", "b"):
            await until(await engine.start(main, run_id=run_id), RunStatus.WAITING)
        await eventually(lambda: all(engine._hub._residents.get(run_id) for run_id in ("a", "b")))
        await engine.notify("go-a")
        await until(await engine.get("a"), RunStatus.WAITING)
        await until(await engine.start(main, run_id="c"), RunStatus.WAITING)
        await evicted(engine, "b")
        assert engine._hub._residents.get("a") is not None
        assert engine._hub._residents.get("c") is not None


async def test_a_run_with_a_step_in_flight_is_not_evicted(memory_machine: Machine) -> None:
    release = asyncio.Event()
    starts: list[int] = []

    async def slow() -> str:
        starts.append(1)
        await release.wait()
        return "slow"

    @workflow
    async def main(ctx: Context, payload: None) -> list[object]:
        return list(await asyncio.gather(ctx.run("slow", slow), ctx.wait_for_event("wait", "go")))

    async with memory_machine.running(main, max_resident_runs=0) as engine:
        run = await engine.start(main)
        await eventually(lambda: bool(starts))
        await engine.notify("go", 1)
        release.set()
        assert await run.result() == ["slow", 1]
    assert starts == [1]
