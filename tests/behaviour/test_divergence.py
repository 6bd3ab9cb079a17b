"""Code that no longer matches the journal stops the run before anything is executed, and nothing is lost."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from behaviour.support import Machine, kinds, until

from boxflow import Context, RunCancelledError, RunDivergedError, RunStatus, Workflow, workflow

done: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    done.clear()


async def do(what: str) -> str:
    done.append(what)
    return what


Body = Callable[[Context, None], Awaitable[list[str]]]


def deployed(body: Any) -> Workflow[None, list[str]]:
    """*body* as the code of workflow `main`."""
    return workflow(name="main")(body)


async def first_code(ctx: Context, payload: None) -> list[str]:
    got = [await ctx.run("a", do, "a"), await ctx.run("b", do, "b")]
    await ctx.wait_for_event("ask", "go")
    return [*got, await ctx.run("c", do, "c")]


async def changed_code(ctx: Context, payload: None) -> list[str]:
    got = [await ctx.run("a", do, "a"), await ctx.run("new", do, "new")]
    got.append(await ctx.run("b", do, "b"))
    await ctx.wait_for_event("ask", "go")
    return [*got, await ctx.run("c", do, "c")]


async def waiting_run(machine: Machine) -> None:
    old = deployed(first_code)
    async with machine.crashing(old) as engine:
        await until(await engine.start(old, run_id="r"), RunStatus.WAITING)
    done.clear()


async def test_it_stops_before_it_executes_anything(machine: Machine) -> None:
    await waiting_run(machine)
    new = deployed(changed_code)
    async with machine.running(new) as engine:
        await engine.notify("go")
        run = await engine.get("r")
        with pytest.raises(RunDivergedError):
            await run.result()
        assert await run.status() is RunStatus.DIVERGED
        assert kinds(await run.history()) == ["step_done", "step_done"]
    assert done == []


async def test_the_error_names_the_recorded_key_the_pending_keys_and_the_line_that_waits(machine: Machine) -> None:
    await waiting_run(machine)
    new = deployed(changed_code)
    source, first_line = inspect.getsourcelines(changed_code)
    line = first_line + next(number for number, text in enumerate(source) if '"new"' in text)
    async with machine.running(new) as engine:
        await engine.notify("go")
        with pytest.raises(RunDivergedError) as caught:
            await (await engine.get("r")).result()
    said = str(caught.value)
    assert "run 'r' of 'main' diverged: the journal has step done 'b' at position 2" in said
    assert "but the code now waits for step 'new'" in said
    assert re.search(rf"test_divergence\.py:{line} in changed_code", said)
    assert "Nothing was executed" in said
    assert "resume(accept_divergence=True)" in said


async def test_after_deploying_the_fixing_code_it_is_resumed_and_nothing_is_lost(machine: Machine) -> None:
    await waiting_run(machine)
    new, fixed = deployed(changed_code), deployed(first_code)
    async with machine.running(new) as engine:
        notified = await engine.notify("go")
        assert notified.kept
        await until(await engine.get("r"), RunStatus.DIVERGED)
    async with machine.running(fixed) as engine:
        run = await engine.get("r")
        assert await run.status() is RunStatus.DIVERGED
        await run.resume()
        assert await run.result() == ["a", "b", "c"]
    assert done == ["c"]


async def test_resuming_without_a_fix_diverges_again(machine: Machine) -> None:
    await waiting_run(machine)
    new = deployed(changed_code)
    async with machine.running(new) as engine:
        await engine.notify("go")
        run = await engine.get("r")
        for _ in range(2):
            with pytest.raises(RunDivergedError):
                await run.result()
            await run.resume()
        with pytest.raises(RunDivergedError):
            await run.result()
    assert done == []


async def test_accepting_skips_orphaned_outcomes_and_runs_new_steps(machine: Machine) -> None:
    await waiting_run(machine)
    new = deployed(changed_code)
    async with machine.crashing(new) as engine:
        await engine.notify("go")
        run = await engine.get("r")
        await until(run, RunStatus.DIVERGED)
        await run.resume(accept_divergence=True)
        assert await run.result() == ["a", "new", "b", "c"]
    async with machine.running(new) as engine:
        assert await (await engine.get("r")).result() == ["a", "new", "b", "c"]
        await until(await engine.get("r"), RunStatus.COMPLETED)
    assert done == ["new", "b", "c"]


async def test_an_accepted_divergence_survives_a_crash(machine: Machine) -> None:
    await waiting_run(machine)
    new = deployed(changed_code)
    async with machine.crashing(new) as engine:
        # Nothing rouses a run that only waits; something must come for it.
        await engine.notify("other")
        run = await engine.get("r")
        await engine.notify("go")
        await until(run, RunStatus.DIVERGED)
        await run.resume(accept_divergence=True)
    async with machine.running(new) as engine:
        assert await (await engine.get("r")).result() == ["a", "new", "b", "c"]


async def test_an_order_of_steps_that_changed_is_no_divergence_where_all_were_pending(machine: Machine) -> None:
    async def one(ctx: Context, payload: None) -> list[str]:
        got = await asyncio.gather(ctx.run("a", do, "a"), ctx.run("b", do, "b"))
        await ctx.wait_for_event("ask", "go")
        return list(got)

    async def other(ctx: Context, payload: None) -> list[str]:
        got = await asyncio.gather(ctx.run("b", do, "b"), ctx.run("a", do, "a"))
        await ctx.wait_for_event("ask", "go")
        return list(got)

    old, new = deployed(one), deployed(other)
    async with machine.crashing(old) as engine:
        await until(await engine.start(old, run_id="r"), RunStatus.WAITING)
    async with machine.running(new) as engine:
        await engine.notify("go")
        assert await (await engine.get("r")).result() == ["b", "a"]


async def test_a_call_of_another_kind_under_the_same_name_diverges(machine: Machine) -> None:
    async def other(ctx: Context, payload: None) -> list[str]:
        await ctx.run("a", do, "a")
        await ctx.sleep("b", 0.001)
        return []

    await waiting_run(machine)
    new = deployed(other)
    async with machine.running(new) as engine:
        await engine.notify("go")
        with pytest.raises(RunDivergedError, match="the code now waits for sleep 'b'"):
            await (await engine.get("r")).result()


async def test_code_that_returns_too_early_diverges(machine: Machine) -> None:
    async def shorter(ctx: Context, payload: None) -> list[str]:
        return [await ctx.run("a", do, "a")]

    await waiting_run(machine)
    new = deployed(shorter)
    async with machine.running(new) as engine:
        await engine.notify("go")
        with pytest.raises(RunDivergedError, match="the journal has step done 'b' at position 2"):
            await (await engine.get("r")).result()


async def test_a_body_that_is_not_deterministic_diverges_instead_of_doing_harm(machine: Machine) -> None:
    lives: list[int] = []

    @workflow(name="main")
    async def erratic(ctx: Context, payload: None) -> list[str]:
        lives.append(1)
        await ctx.run(f"step-{len(lives)}", do, "x")
        await ctx.wait_for_event("ask", "go")
        return []

    async with machine.running(erratic, max_resident_runs=0) as engine:
        run = await engine.start(erratic)
        await until(run, RunStatus.WAITING)
        await engine.notify("go")
        with pytest.raises(RunDivergedError, match="'step-1'"):
            await run.result()


async def test_a_diverged_run_can_be_cancelled(machine: Machine) -> None:
    await waiting_run(machine)
    new = deployed(changed_code)
    async with machine.running(new) as engine:
        await engine.notify("go")
        run = await engine.get("r")
        await until(run, RunStatus.DIVERGED)
        await run.cancel("give it up")
        with pytest.raises(RunCancelledError, match="give it up"):
            await run.result()
    assert done == []


async def test_a_recorded_value_that_no_longer_fits_its_type_raises_in_the_body(machine: Machine) -> None:
    async def text() -> str:
        return "text"

    async def number() -> int:
        return 1

    async def before(ctx: Context, payload: None) -> list[str]:
        await ctx.run("a", text)
        await ctx.wait_for_event("ask", "go")
        return []

    async def after(ctx: Context, payload: None) -> list[str]:
        try:
            await ctx.run("a", number)
        except ValueError as error:
            return [str(error)]
        return []

    old, new = deployed(before), deployed(after)
    async with machine.crashing(old) as engine:
        await until(await engine.start(old, run_id="r"), RunStatus.WAITING)
    async with machine.running(new) as engine:
        await engine.notify("go")
        (said,) = await (await engine.get("r")).result()
        assert "cannot be read as int" in said
