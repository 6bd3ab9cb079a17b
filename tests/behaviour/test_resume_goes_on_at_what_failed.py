"""`resume` does the failed step again, and nothing of what had succeeded."""

from __future__ import annotations

import asyncio

import pytest
from behaviour.manual_clock import ManualClock
from behaviour.support import Machine, kinds, settle, until, until_recorded

from boxflow import ChildFailedError, Context, RunFailedError, RunFailure, RunStatus, StepFailedError, workflow
from boxflow.errors import RunStateError


class World:
    """What steps do, and whether they can."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.broken: set[str] = set()

    async def do(self, what: str) -> str:
        self.done.append(what)
        if what in self.broken:
            raise OSError(f"{what} is broken")
        return what


@pytest.fixture
def world() -> World:
    return World()


async def test_the_failed_step_is_done_again_and_the_others_are_not(machine: Machine, world: World) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> list[str]:
        return [await ctx.run(what, world.do, what) for what in ("a", "b", "c")]

    world.broken = {"b"}
    async with machine.running(main) as engine:
        run = await engine.start(main, run_id="r")
        with pytest.raises(RunFailedError, match="b is broken"):
            await run.result()
    world.broken = set()
    async with machine.crashing(main) as engine:
        run = await engine.get("r")
        await run.resume()
        assert await run.result() == ["a", "b", "c"]
        assert kinds(await run.history()) == ["step_done", "step_failed", "run_resumed", "step_done", "step_done"]
    async with machine.running(main) as engine:
        assert await (await engine.get("r")).result() == ["a", "b", "c"]
    assert world.done == ["a", "b", "b", "c"]


async def test_a_crash_right_after_resume_loses_nothing(machine: Machine, world: World) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        await ctx.run("a", world.do, "a")
        await ctx.run("b", world.do, "b")
        return str(await ctx.wait_for_event("wait", "go"))

    world.broken = {"b"}
    async with machine.crashing(main) as engine:
        run = await engine.start(main, run_id="r")
        with pytest.raises(RunFailedError):
            await run.result()
        world.broken = set()
        await run.resume()
        await until(run, RunStatus.WAITING)
    async with machine.running(main) as engine:
        await engine.notify("go", "x")
        assert await (await engine.get("r")).result() == "x"
    assert world.done == ["a", "b", "b"]


async def test_it_may_fail_and_be_resumed_again_and_again(machine: Machine, world: World) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        await ctx.run("a", world.do, "a")
        await ctx.run("b", world.do, "b")
        return await ctx.run("c", world.do, "c")

    world.broken = {"b", "c"}
    async with machine.running(main) as engine:
        run = await engine.start(main)
        for broken in ({"b", "c"}, {"c"}, {"c"}):
            with pytest.raises(RunFailedError):
                await run.result()
            world.broken = broken
            await run.resume()
        with pytest.raises(RunFailedError, match="c is broken"):
            await run.result()
        world.broken = set()
        await run.resume()
        assert await run.result() == "c"
    assert world.done == ["a", "b", "b", "b", "c", "c", "c"]


async def test_the_work_of_a_parallel_branch_is_kept(machine: Machine, world: World) -> None:
    failing = asyncio.Event()

    async def fail_later() -> str:
        await failing.wait()
        return await world.do("bad")

    @workflow
    async def main(ctx: Context, payload: None) -> list[str]:
        async def branch() -> str:
            first = await ctx.run("good-1", world.do, "good-1")
            return first + await ctx.run("good-2", world.do, "good-2")

        results = await asyncio.gather(ctx.run("bad", fail_later), branch())
        return [*results, await ctx.run("end", world.do, "end")]

    world.broken = {"bad"}
    async with machine.running(main) as engine:
        run = await engine.start(main)
        while len(world.done) < 2:
            await asyncio.sleep(0.001)
        await settle()
        failing.set()
        with pytest.raises(RunFailedError):
            await run.result()
        world.broken = set()
        await run.resume()
        assert await run.result() == ["bad", "good-1good-2", "end"]
    assert sorted(world.done) == ["bad", "bad", "end", "good-1", "good-2"]


async def test_a_failed_child_is_resumed_with_its_parent(machine: Machine, world: World) -> None:
    @workflow
    async def child(ctx: Context, payload: None) -> str:
        await ctx.run("a", world.do, "a")
        return await ctx.run("b", world.do, "b")

    @workflow
    async def parent(ctx: Context, payload: None) -> str:
        await ctx.run("before", world.do, "before")
        return await ctx.invoke("child", child)

    world.broken = {"b"}
    async with machine.running(parent, child) as engine:
        run = await engine.start(parent, run_id="p")
        with pytest.raises(RunFailedError, match="b is broken"):
            await run.result()
        world.broken = set()
        await run.resume()
        assert await run.result() == "b"
        assert await (await engine.get("p/child")).status() is RunStatus.COMPLETED
    assert world.done == ["before", "a", "b", "b"]


async def test_a_failure_that_the_body_had_handled_stays_handled(machine: Machine, world: World) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            await ctx.run("a", world.do, "a")
        except StepFailedError:
            await ctx.run("instead", world.do, "instead")
        return await ctx.run("b", world.do, "b")

    world.broken = {"a", "b"}
    async with machine.running(main) as engine:
        run = await engine.start(main)
        with pytest.raises(RunFailedError, match="b is broken"):
            await run.result()
        world.broken = set()
        await run.resume()
        assert await run.result() == "b"
    assert world.done == ["a", "instead", "b", "b"]


async def test_a_body_that_raised_by_itself_goes_on_with_mended_code(machine: Machine, world: World) -> None:
    async def body(ctx: Context, payload: None) -> str:
        await ctx.run("a", world.do, "a")
        if mended:
            return await ctx.run("b", world.do, "b")
        raise ZeroDivisionError

    mended = False
    before = workflow(name="main")(body)
    async with machine.running(before) as engine:
        run = await engine.start(before, run_id="r")
        with pytest.raises(RunFailedError, match="ZeroDivisionError"):
            await run.result()
    mended = True
    after = workflow(name="main")(body)
    async with machine.running(after) as engine:
        run = await engine.get("r")
        await run.resume()
        assert await run.result() == "b"
    assert world.done == ["a", "b"]


async def test_what_the_failure_function_did_is_done_again_when_it_fails_again(machine: Machine, world: World) -> None:
    async def clean(ctx: Context, failure: RunFailure) -> None:
        await ctx.run("clean", world.do, "clean")

    @workflow(failure_function=clean)
    async def main(ctx: Context, payload: None) -> str:
        await ctx.run("a", world.do, "a")
        return await ctx.run("b", world.do, "b")

    world.broken = {"b"}
    async with machine.running(main) as engine:
        run = await engine.start(main)
        for _ in range(2):
            with pytest.raises(RunFailedError):
                await run.result()
            await run.resume()
        with pytest.raises(RunFailedError):
            await run.result()
        world.broken = set()
        await run.resume()
        assert await run.result() == "b"
    assert world.done == ["a", "b", "clean", "b", "clean", "b", "clean", "b"]


async def test_mail_that_a_dropped_wait_had_taken_is_there_for_it_again(machine: Machine, world: World) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> list[object]:
        async def branch() -> list[object]:
            await ctx.run("gate", world.do, "gate")
            return [await ctx.wait_for_event("wait", "mail"), await ctx.wait_for_event("wait", "mail")]

        async def bad() -> None:
            await ctx.wait_for_event("fail", "fail")
            await ctx.run("bad", world.do, "bad")

        both = await asyncio.gather(branch(), bad())
        return both[0]

    world.broken = {"bad"}
    async with machine.running(main) as engine:
        run = await engine.start(main, run_id="r")
        await engine.notify("mail", 1, run_id="r")
        await until(run, RunStatus.WAITING)
        await engine.notify("fail")
        with pytest.raises(RunFailedError):
            await run.result()
        world.broken = set()
        await run.resume()
        await engine.notify("mail", 2, run_id="r")
        assert await run.result() == [1, 2]


async def test_a_timer_of_a_dropped_part_fires_again(machine: Machine, world: World) -> None:
    clock = ManualClock()

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        await ctx.run("a", world.do, "a")
        await ctx.sleep("pause", 10)
        return await ctx.run("b", world.do, "b")

    world.broken = {"b"}
    async with machine.running(main, clock=clock) as engine:
        run = await engine.start(main)
        await until(run, RunStatus.WAITING)
        clock.advance(10)
        with pytest.raises(RunFailedError):
            await run.result()
        world.broken = set()
        await run.resume()
        assert await run.result() == "b"


async def test_a_run_that_raised_before_its_first_outcome_can_be_resumed(machine: Machine) -> None:
    broken = True

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        if broken:
            raise ValueError("no")
        return "fine"

    async with machine.running(main) as engine:
        run = await engine.start(main)
        with pytest.raises(RunFailedError):
            await run.result()
        broken = False
        await run.resume()
        assert await run.result() == "fine"


async def test_only_a_failed_or_diverged_run_is_resumed(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        return str(await ctx.wait_for_event("wait", "go"))

    async with memory_machine.running(main) as engine:
        run = await engine.start(main, run_id="r")
        await until(run, RunStatus.WAITING)
        with pytest.raises(RunStateError, match="run 'r' is waiting; only a failed or diverged run is resumed"):
            await run.resume()
        await engine.notify("go")
        await run.result()
        with pytest.raises(RunStateError, match="completed"):
            await run.resume()


async def test_a_parent_is_told_of_the_end_of_a_child_that_was_resumed_by_hand(machine: Machine, world: World) -> None:
    @workflow
    async def child(ctx: Context, payload: None) -> str:
        return await ctx.run("b", world.do, "b")

    @workflow
    async def parent(ctx: Context, payload: None) -> str:
        try:
            return await ctx.invoke("child", child)
        except ChildFailedError:
            await ctx.wait_for_event("mended", "mended")
            return await ctx.invoke("again", child, run_id=f"{ctx.run_id}/child")

    world.broken = {"b"}
    async with machine.running(parent, child) as engine:
        run = await engine.start(parent, run_id="p")
        await until_recorded(run, "child_ended")
        world.broken = set()
        by_hand = await engine.get("p/child")
        await by_hand.resume()
        assert await by_hand.result() == "b"
        await engine.notify("mended")
        assert await run.result() == "b"
