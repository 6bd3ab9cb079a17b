"""`ctx.patched` and `version=` are the planned ways to change code under waiting runs."""

from __future__ import annotations

from typing import Any

import pytest
from behaviour.support import Machine, until

from boxflow import Context, RunStatus, Workflow, workflow
from boxflow.errors import DuplicateWorkflowError

done: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    done.clear()


async def do(what: str) -> str:
    done.append(what)
    return what


def deployed(body: Any) -> Workflow[None, list[str]]:
    return workflow(name="main")(body)


async def original(ctx: Context, payload: None) -> list[str]:
    got = [await ctx.run("a", do, "a")]
    await ctx.wait_for_event("ask", "go")
    return [*got, await ctx.run("b", do, "b")]


async def patched(ctx: Context, payload: None) -> list[str]:
    got = [await ctx.run("a", do, "a")]
    if ctx.patched("check-first"):
        got.append(await ctx.run("check", do, "check"))
    await ctx.wait_for_event("ask", "go")
    return [*got, await ctx.run("b", do, "b")]


async def test_a_run_that_was_past_the_line_goes_the_old_way_and_a_new_run_the_new_way(machine: Machine) -> None:
    old, new = deployed(original), deployed(patched)
    async with machine.crashing(old) as engine:
        await until(await engine.start(old, run_id="old"), RunStatus.WAITING)
    async with machine.crashing(new) as engine:
        await until(await engine.start(new, run_id="new"), RunStatus.WAITING)
    async with machine.running(new) as engine:
        await engine.notify("go")
        assert await (await engine.get("old")).result() == ["a", "b"]
        assert await (await engine.get("new")).result() == ["a", "check", "b"]
    assert done.count("check") == 1


async def test_a_run_that_reaches_the_line_after_the_deployment_goes_the_new_way(machine: Machine) -> None:
    async def before(ctx: Context, payload: None) -> list[str]:
        await ctx.wait_for_event("ask", "go")
        return [await ctx.run("b", do, "b")]

    async def after(ctx: Context, payload: None) -> list[str]:
        await ctx.wait_for_event("ask", "go")
        if ctx.patched("other"):
            return [await ctx.run("c", do, "c")]
        return [await ctx.run("b", do, "b")]

    old, new = deployed(before), deployed(after)
    async with machine.crashing(old) as engine:
        await until(await engine.start(old, run_id="r"), RunStatus.WAITING)
    async with machine.running(new) as engine:
        await engine.notify("go")
        assert await (await engine.get("r")).result() == ["c"]


async def test_the_answer_is_recorded_and_stays(machine: Machine) -> None:
    answers: list[bool] = []

    @workflow
    async def main(ctx: Context, payload: None) -> list[bool]:
        answers.append(ctx.patched("x"))
        await ctx.wait_for_event("ask", "go")
        return [ctx.patched("x"), ctx.patched("y")]

    for _ in range(2):
        async with machine.crashing(main) as engine:
            run = await engine.start(main, run_id="r")
            await until(run, RunStatus.WAITING)
    async with machine.running(main) as engine:
        await engine.notify("go")
        assert await (await engine.get("r")).result() == [True, True]
    assert set(answers) == {True}


async def test_patched_answers_alike_for_evicted_runs(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> list[bool]:
        answers: list[bool] = []
        for number in range(4):
            answers.append(ctx.patched(f"change-{number}"))
            await ctx.wait_for_event("ask", "go")
            answers.append(ctx.patched(f"change-{number}"))
        return answers

    async with memory_machine.running(main, max_resident_runs=0) as engine:
        run = await engine.start(main, run_id="r")
        for _ in range(4):
            await until(run, RunStatus.WAITING)
            await engine.notify("go", run_id="r")
        assert await run.result() == [True] * 8


async def test_a_run_goes_on_with_the_version_it_began_with_and_a_new_run_takes_the_newest(machine: Machine) -> None:
    @workflow(name="main", version=9)
    async def nine(ctx: Context, payload: None) -> str:
        await ctx.wait_for_event("ask", "go")
        return "nine"

    @workflow(name="main", version=10)
    async def ten(ctx: Context, payload: None) -> str:
        await ctx.wait_for_event("ask", "go")
        return "ten"

    async with machine.crashing(nine) as engine:
        await until(await engine.start("main", run_id="old"), RunStatus.WAITING)
    async with machine.running(ten, nine) as engine:
        await until(await engine.start("main", run_id="new"), RunStatus.WAITING)
        explicit = await engine.start(nine, run_id="explicit")
        await until(explicit, RunStatus.WAITING)
        await engine.notify("go")
        results = [await (await engine.get(run_id)).result() for run_id in ("old", "new", "explicit")]
        assert results == ["nine", "ten", "nine"]
        assert {run.id async for run in engine.runs(workflow="main")} == {"old", "new", "explicit"}


async def test_two_workflows_of_one_name_and_version_are_refused(memory_machine: Machine) -> None:
    one, other = deployed(original), deployed(patched)
    with pytest.raises(DuplicateWorkflowError, match=r"two workflows are called 'main': .*give one another name="):
        async with memory_machine.running(one, other):
            pass


async def test_a_run_whose_version_is_not_deployed_is_left_as_it_is_until_it_is(machine: Machine) -> None:
    @workflow(name="main", version=1)
    async def one(ctx: Context, payload: None) -> str:
        return str(await ctx.wait_for_event("ask", "go"))

    @workflow(name="main", version=2)
    async def two(ctx: Context, payload: None) -> str:
        return "two"

    async with machine.crashing(one) as engine:
        await until(await engine.start(one, run_id="r"), RunStatus.WAITING)
    async with machine.running(two) as engine:
        assert (await engine.notify("go", "kept")).kept
    async with machine.running(one, two) as engine:
        assert await (await engine.get("r")).result() == "kept"
