"""A step that ends failed raises `StepFailedError` in the body, where ordinary `try/except` handles it."""

from __future__ import annotations

import asyncio
import time

import pytest
from behaviour.support import Machine, kinds, until

from boxflow import (
    Context,
    NestedStepError,
    RunFailedError,
    RunStatus,
    StepFailedError,
    StepTimeoutError,
    step,
    workflow,
)
from boxflow.errors import RunEndedError, StepNotRunningError
from boxflow.model import StepFailed


async def test_the_error_keeps_the_type_the_message_and_the_traceback_of_its_cause(machine: Machine) -> None:
    class OutOfStock(Exception):
        pass

    async def order(item: str) -> None:
        raise OutOfStock(f"no {item} left")

    @workflow
    async def main(ctx: Context, payload: None) -> list[str]:
        try:
            await ctx.run("order", order, "tea")
        except StepFailedError as error:
            caught = [error.name, error.cause_type, error.cause_message, str(error.attempts), error.traceback]
        await ctx.wait_for_event("go", "go")
        return caught

    async with machine.crashing(main) as engine:
        run = await engine.start(main, run_id="r")
        await until(run, RunStatus.WAITING)
    async with machine.running(main) as engine:
        await engine.notify("go")
        name, cause_type, message, attempts, traceback = await (await engine.get("r")).result()
    assert (name, message, attempts) == ("order", "no tea left", "1")
    assert cause_type.endswith("OutOfStock")
    assert 'raise OutOfStock(f"no {item} left")' in traceback


async def test_a_failure_in_one_branch_leaves_the_others_to_the_body(memory_machine: Machine) -> None:
    async def divide(number: int) -> int:
        return 10 // number

    @workflow
    async def main(ctx: Context, payload: None) -> list[str]:
        results = await asyncio.gather(*(ctx.run("divide", divide, n) for n in (1, 0, 2)), return_exceptions=True)
        return [str(result) for result in results]

    async with memory_machine.running(main) as engine:
        ten, error, five = await engine.run(main)
        assert (ten, five) == ("10", "5")
        assert error.startswith("step 'divide' failed (tried once): ZeroDivisionError")


async def test_a_step_past_its_timeout_raises_a_timeout_error(memory_machine: Machine) -> None:
    cancelled: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("slow")
            raise

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            await ctx.run("slow", slow, timeout=0.01)
        except TimeoutError as error:
            assert isinstance(error, StepTimeoutError)
            return error.cause_message
        return "?"

    async with memory_machine.running(main) as engine:
        run = await engine.start(main)
        assert await run.result() == "no result within 0.01 s"
        (failed,) = await run.history()
        assert isinstance(failed, StepFailed)
        assert failed.reason == "timeout"
    assert cancelled == ["slow"]


async def test_a_timeout_error_of_the_step_itself_is_its_own_failure(memory_machine: Machine) -> None:
    async def raises() -> None:
        raise TimeoutError("the server took too long")

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            await ctx.run("raises", raises, timeout=10)
        except StepFailedError as error:
            return f"{type(error).__name__} {error.cause_message}"
        return "?"

    async with memory_machine.running(main) as engine:
        assert await engine.run(main) == "StepFailedError the server took too long"


async def test_a_plain_function_past_its_timeout_is_left_behind(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> bool:
        try:
            await ctx.run("slow", time.sleep, 0.2, timeout=0.01)
        except TimeoutError:
            return True
        return False

    async with memory_machine.running(main) as engine:
        assert await engine.run(main)


async def test_a_step_that_cancels_itself_has_failed(memory_machine: Machine) -> None:
    async def odd() -> None:
        raise asyncio.CancelledError("odd")

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            await ctx.run("odd", odd)
        except StepFailedError as error:
            return error.cause_type
        return "?"

    async with memory_machine.running(main) as engine:
        assert "CancelledError" in await engine.run(main)


@pytest.mark.parametrize("plain", [False, True])
async def test_steps_do_not_nest(memory_machine: Machine, plain: bool) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        async def inner() -> int:
            return 1

        async def outer() -> int:
            return await ctx.run("inner", inner)

        def plain_outer() -> int:
            return asyncio.run(outer())

        try:
            await ctx.run("outer", plain_outer if plain else outer)
        except StepFailedError as error:
            return f"{error.cause_type}: {error.cause_message}"
        return "?"

    async with memory_machine.running(main) as engine:
        said = await engine.run(main)
    assert said.startswith("NestedStepError: 'inner' was called inside step 'outer'; steps do not nest")
    assert issubclass(NestedStepError, RuntimeError)


async def test_a_durable_call_after_the_end_of_the_run_is_refused(memory_machine: Machine) -> None:
    kept: list[Context] = []

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        kept.append(ctx)

    async with memory_machine.running(main) as engine:
        await engine.run(main)
        with pytest.raises(RunEndedError, match=r"'late' was called on the context of run .*, which has ended"):
            await kept[0].run("late", lambda: 1)


async def test_tasks_that_the_body_leaves_behind_are_cancelled_and_may_clean_up(memory_machine: Machine) -> None:
    cleaned: list[str] = []

    async def clean() -> None:
        cleaned.append("clean")

    tasks: set[asyncio.Task[None]] = set()

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        async def background() -> None:
            try:
                await ctx.sleep("long", "1d")
            finally:
                await ctx.run("clean", clean)

        tasks.add(asyncio.create_task(background()))
        await asyncio.sleep(0)
        return "done"

    async with memory_machine.running(main) as engine:
        run = await engine.start(main)
        assert await run.result() == "done"
        assert kinds(await run.history()) == ["step_done"]
    assert cleaned == ["clean"]


async def test_step_tells_nothing_where_no_step_runs() -> None:
    with pytest.raises(StepNotRunningError, match="outside of a step"):
        step()


async def test_an_exception_with_text_that_is_no_utf8_is_kept(machine: Machine) -> None:
    async def broken() -> None:
        raise ValueError("half a pair: \ud800")

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await ctx.run("broken", broken)

    async with machine.running(main) as engine:
        with pytest.raises(RunFailedError, match="half a pair"):
            await engine.run(main)


async def test_an_exception_whose_str_fails_is_a_failure_like_any_other(memory_machine: Machine) -> None:
    class Bad(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    async def broken() -> None:
        raise Bad

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            await ctx.run("broken", broken)
        except StepFailedError as error:
            return error.cause_type
        return "?"

    async with memory_machine.running(main) as engine:
        assert (await engine.run(main)).endswith("Bad")


async def test_a_body_that_raises_an_exception_whose_str_fails_has_failed(memory_machine: Machine) -> None:
    class Bad(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        raise Bad

    async with memory_machine.running(main) as engine:
        with pytest.raises(RunFailedError, match="Bad"):
            await engine.run(main)
