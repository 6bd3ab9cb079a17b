"""Children get the id `parent/name`; their failure raises in the parent, whose cancel cancels them."""

from __future__ import annotations

import asyncio

import pytest
from behaviour.support import Machine, eventually, keys, kinds, until

from boxflow import (
    ChildFailedError,
    Context,
    Engine,
    RunCancelledError,
    RunFailedError,
    RunStatus,
    workflow,
)
from boxflow.errors import WorkflowNotFoundError


@workflow
async def double(ctx: Context, number: int) -> int:
    return number * 2


@workflow
async def patient(ctx: Context, event_id: str) -> object:
    return await ctx.wait_for_event("wait", event_id)


@workflow
async def broken(ctx: Context, message: str) -> None:
    raise ValueError(message)


async def ids(engine: Engine) -> set[str]:
    return {run.id async for run in engine.runs()}


async def test_a_child_has_the_parents_id_the_name_and_a_number_from_the_second_on(machine: Machine) -> None:
    @workflow
    async def parent(ctx: Context, payload: None) -> list[int]:
        first = [await ctx.invoke("d", double, 1), await ctx.invoke("d", double, 2)]
        return [*first, await ctx.invoke("other", double, 3), await ctx.invoke("own", double, 4, run_id="my-id")]

    async with machine.running(parent, double) as engine:
        run = await engine.start(parent, run_id="p", labels=["x"])
        assert await run.result() == [2, 4, 6, 8]
        assert await ids(engine) == {"p", "p/d", "p/d#2", "p/other", "my-id"}
        assert (await engine.get("p/d")).labels == ("x",)
        assert keys(await run.history())[:2] == [("child_ended", "d", 1), ("child_ended", "d", 2)]


async def test_children_run_in_parallel_and_each_result_reaches_its_own_branch(machine: Machine) -> None:
    @workflow
    async def parent(ctx: Context, count: int) -> list[object]:
        children = (ctx.invoke(f"c{n}", patient, f"e{n}") for n in range(count))
        return list(await asyncio.gather(*children))

    async with machine.running(parent, patient, max_resident_runs=0) as engine:
        run = await engine.start(parent, 5)
        await until(run, RunStatus.WAITING)
        for number in (3, 1, 4, 0, 2):
            await engine.notify(f"e{number}", number)
        assert await run.result() == [0, 1, 2, 3, 4]


async def test_a_childs_failure_raises_child_failed_error_in_the_parent(machine: Machine) -> None:
    @workflow
    async def parent(ctx: Context, payload: None) -> str:
        try:
            await ctx.invoke("child", broken, "out of paper")
        except ChildFailedError as error:
            assert (error.name, error.run_id, error.status) == ("child", "p/child", "failed")
            return str(error)
        return "?"

    async with machine.running(parent, broken) as engine:
        said = await engine.run(parent, run_id="p")
    assert said == "child 'child' (run 'p/child') ended failed: ValueError: out of paper"


async def test_a_failure_that_nobody_catches_passes_up_and_names_its_origin(memory_machine: Machine) -> None:
    @workflow
    async def middle(ctx: Context, payload: None) -> None:
        await ctx.invoke("child", broken, "out of paper")

    @workflow
    async def top(ctx: Context, payload: None) -> None:
        await ctx.invoke("middle", middle)

    async with memory_machine.running(top, middle, broken) as engine:
        with pytest.raises(RunFailedError, match="ValueError: out of paper"):
            await engine.run(top, run_id="t")
        assert await ids(engine) == {"t", "t/middle", "t/middle/child"}


async def test_a_child_that_was_cancelled_raises_child_failed_error(memory_machine: Machine) -> None:
    @workflow
    async def parent(ctx: Context, payload: None) -> str:
        try:
            await ctx.invoke("child", patient, "never")
        except ChildFailedError as error:
            return error.status
        return "?"

    async with memory_machine.running(parent, patient) as engine:
        run = await engine.start(parent, run_id="p")
        await until(run, RunStatus.WAITING)
        await (await engine.get("p/child")).cancel("by hand")
        assert await run.result() == "cancelled"


async def test_cancelling_the_parent_cancels_its_children_and_it_ends_after_them(machine: Machine) -> None:
    order: list[str] = []

    async def note(text: str) -> None:
        order.append(text)

    @workflow
    async def child(ctx: Context, name: str) -> None:
        try:
            await ctx.wait_for_event("wait", "never")
        finally:
            await ctx.sleep("last words", 0.005)
            await ctx.run("note", note, name)

    @workflow
    async def parent(ctx: Context, payload: None) -> None:
        await asyncio.gather(ctx.invoke("a", child, "a"), ctx.invoke("b", child, "b"))

    async with machine.running(parent, child) as engine:
        run = await engine.start(parent, run_id="p")
        await until(run, RunStatus.WAITING)
        await until(await engine.get("p/b"), RunStatus.WAITING)
        await run.cancel("enough")
        with pytest.raises(RunCancelledError, match="enough"):
            await run.result()
        assert sorted(order) == ["a", "b"]
        for child_id in ("p/a", "p/b"):
            assert await (await engine.get(child_id)).status() is RunStatus.CANCELLED


async def test_a_wait_for_a_child_that_is_given_up_cancels_it(memory_machine: Machine) -> None:
    @workflow
    async def parent(ctx: Context, payload: None) -> str:
        try:
            async with asyncio.timeout(0.01):
                await ctx.invoke("child", patient, "never")
        except TimeoutError:
            return "too long"
        return "?"

    async with memory_machine.running(parent, patient) as engine:
        assert await engine.run(parent, run_id="p") == "too long"
        assert await (await engine.get("p/child")).status() is RunStatus.CANCELLED


async def test_a_parent_that_returns_without_awaiting_its_child_ends_only_after_it(memory_machine: Machine) -> None:
    kept: list[asyncio.Task[object]] = []

    @workflow
    async def parent(ctx: Context, payload: None) -> str:
        kept.append(asyncio.create_task(ctx.invoke("child", patient, "never")))
        await asyncio.sleep(0)
        return "gone"

    async with memory_machine.running(parent, patient) as engine:
        assert await engine.run(parent, run_id="p") == "gone"
        assert await (await engine.get("p/child")).status() is RunStatus.CANCELLED


async def test_a_child_that_ended_while_the_parent_was_out_of_memory_is_heard_of(machine: Machine) -> None:
    @workflow
    async def parent(ctx: Context, payload: None) -> object:
        return await ctx.invoke("child", patient, "a")

    async with machine.crashing(parent, patient) as engine:
        await until(await engine.start(parent, run_id="p"), RunStatus.WAITING)
        await until(await engine.get("p/child"), RunStatus.WAITING)
    async with machine.crashing(patient, parent) as engine:
        await engine.notify("a", "news")
        await eventually_final(engine, "p/child")
    async with machine.running(patient, parent) as engine:
        assert await (await engine.get("p")).result() == "news"


async def eventually_final(engine: Engine, run_id: str) -> None:
    async def over() -> bool:
        return (await (await engine.get(run_id)).status()).is_final

    await eventually(over)


async def test_a_child_is_not_started_twice_after_a_crash(machine: Machine) -> None:
    starts: list[str] = []

    async def note() -> None:
        starts.append("child")

    @workflow
    async def child(ctx: Context, payload: None) -> object:
        await ctx.run("note", note)
        return await ctx.wait_for_event("wait", "a")

    @workflow
    async def parent(ctx: Context, payload: None) -> object:
        return await ctx.invoke("child", child)

    async with machine.crashing(parent, child) as engine:
        await engine.start(parent, run_id="p")
        await eventually(lambda: bool(starts))
        await until(await engine.get("p/child"), RunStatus.WAITING)
    async with machine.running(parent, child) as engine:
        await engine.notify("a", 1)
        assert await (await engine.get("p")).result() == 1
    assert starts == ["child"]


async def test_two_parents_may_wait_for_one_child_by_its_id(memory_machine: Machine) -> None:
    @workflow
    async def parent(ctx: Context, payload: None) -> object:
        return await ctx.invoke("shared", patient, "a", run_id="shared")

    async with memory_machine.running(parent, patient) as engine:
        runs = [await engine.start(parent) for _ in range(2)]
        for run in runs:
            await until(run, RunStatus.WAITING)
        await engine.notify("a", "for both")
        assert [await run.result() for run in runs] == ["for both", "for both"]


async def test_a_child_of_a_workflow_that_is_not_registered_raises_in_the_body(memory_machine: Machine) -> None:
    @workflow
    async def parent(ctx: Context, payload: None) -> str:
        try:
            await ctx.invoke("child", double, 1)
        except WorkflowNotFoundError as error:
            return str(error)
        return "?"

    async with memory_machine.running(parent) as engine:
        assert "workflow 'double' is not registered with this engine" in await engine.run(parent)


async def test_a_child_may_be_invoked_by_name(memory_machine: Machine) -> None:
    @workflow
    async def parent(ctx: Context, payload: None) -> int:
        return int(await ctx.invoke("child", "double", 21))

    async with memory_machine.running(parent, double) as engine:
        assert await engine.run(parent) == 42


async def test_a_child_id_that_belongs_to_another_workflow_fails_the_child(memory_machine: Machine) -> None:
    @workflow
    async def parent(ctx: Context, payload: None) -> str:
        try:
            await ctx.invoke("child", double, 1, run_id="taken")
        except ChildFailedError as error:
            return str(error.error)
        return "?"

    async with memory_machine.running(parent, double, patient) as engine:
        await engine.start(patient, "never", run_id="taken")
        assert "run 'taken' exists already, of workflow 'patient'" in await engine.run(parent)


async def test_a_workflow_called_as_a_function_runs_inline(memory_machine: Machine) -> None:
    @workflow
    async def parent(ctx: Context, payload: None) -> int:
        return await double(ctx, 4)

    async with memory_machine.running(parent) as engine:
        run = await engine.start(parent)
        assert await run.result() == 8
        assert kinds(await run.history()) == []
