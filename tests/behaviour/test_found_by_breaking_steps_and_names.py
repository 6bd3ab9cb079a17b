"""Whatever a step raises, and whatever text a body uses, harms one run at most."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from behaviour.manual_clock import ManualClock
from behaviour.support import Machine, until_recorded

from boxflow import Context, RetryAfterError, RunCancelledError, RunFailedError, workflow

LONE = "lone \ud800"


class HomeMadeError(BaseException):
    """Not an `Exception`: as pytest's `Failed`, or trio's `Cancelled`."""


class TextlessError(Exception):
    """`str()` of it fails, and not even with an `Exception`."""

    def __str__(self) -> str:
        raise HomeMadeError


ModulelessError = type("ModulelessError", (Exception,), {"__module__": None})


@workflow
async def other(ctx: Context, payload: None) -> str:
    return await ctx.run("fine", lambda: "fine", type=str)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SystemExit(3), "SystemExit"),
        (GeneratorExit(), "GeneratorExit"),
        (HomeMadeError("x"), "HomeMadeError"),
        (BaseExceptionGroup("g", [HomeMadeError()]), "BaseExceptionGroup"),
        (TextlessError(), "TextlessError"),
        (ModulelessError(), "ModulelessError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_whatever_a_step_raises_fails_that_step_and_nothing_else(
    machine: Machine, error: BaseException, kind: str, plain: bool
) -> None:
    async def on_loop() -> None:
        raise error

    def in_thread() -> None:
        raise error

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await ctx.run("bad", in_thread if plain else on_loop)

    async with machine.running(main, other) as engine:
        with pytest.raises(RunFailedError, match=kind):
            await engine.run(main)
        assert await engine.run(other) == "fine"


async def test_a_step_that_exits_the_program_fails(machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await ctx.run("exit", sys.exit, 3)

    async with machine.running(main, other) as engine:
        with pytest.raises(RunFailedError, match="SystemExit"):
            await engine.run(main)
        assert await engine.run(other) == "fine"


@pytest.mark.parametrize("delay", [-5, float("nan"), "soon"])
async def test_a_retry_after_that_is_no_pause_falls_back_to_the_policy(machine: Machine, delay: Any) -> None:
    tries: list[None] = []

    async def busy() -> int:
        tries.append(None)
        if len(tries) == 1:
            raise RetryAfterError("busy", delay)
        return len(tries)

    @workflow
    async def main(ctx: Context, payload: None) -> int:
        return await ctx.run("busy", busy)

    clock = ManualClock()
    async with machine.running(main, clock=clock) as engine:
        run = await engine.start(main)
        await until_recorded(run, "step_retrying")
        clock.advance(10)
        assert await run.result() == 2


CALLS: dict[str, Callable[[Context], Awaitable[object]]] = {
    "step": lambda ctx: ctx.run(LONE, int),
    "sleep": lambda ctx: ctx.sleep(LONE, 1),
    "event": lambda ctx: ctx.wait_for_event("e", LONE),
    "notify": lambda ctx: ctx.notify("n", LONE),
    "webhook": lambda ctx: ctx.create_webhook(LONE),
    "child": lambda ctx: ctx.invoke(LONE, other, None),
    "child id": lambda ctx: ctx.invoke("c", other, None, run_id=LONE),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_name_that_no_store_can_keep_fails_its_run_with_a_clear_error(machine: Machine, call: str) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await CALLS[call](ctx)

    async with machine.running(main, other) as engine:
        with pytest.raises(RunFailedError, match=r"ConfigurationError: .* without lone surrogates"):
            await engine.run(main)
        assert await engine.run(other) == "fine"


async def test_an_answer_of_patched_needs_a_name_that_can_be_kept(machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> bool:
        return ctx.patched(LONE)

    async with machine.running(main, other) as engine:
        with pytest.raises(RunFailedError, match="without lone surrogates"):
            await engine.run(main)
        assert await engine.run(other) == "fine"


@pytest.mark.parametrize("by_itself", [True, False])
async def test_a_cancel_arrives_whatever_its_reason_is(machine: Machine, by_itself: bool) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> None:
        if by_itself:
            await ctx.cancel(LONE)
        await ctx.wait_for_event("never", "never")

    async with machine.running(main, other) as engine:
        run = await engine.start(main)
        if not by_itself:
            await run.cancel(LONE)
        with pytest.raises(RunCancelledError, match=r"lone \\ud800"):
            await run.result()
        assert await engine.run(other) == "fine"


async def test_a_chain_of_causes_may_be_longer_than_the_stack_is_deep(machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> None:
        last: Exception | None = None
        for number in range(3000):
            error = ValueError(f"number {number}")
            error.__cause__, last = last, error
        assert last is not None
        raise last

    async with machine.running(main, other) as engine:
        with pytest.raises(RunFailedError, match="number 2999"):
            await engine.run(main)
