"""A run whose agent works waits with no execution: it leaves memory, holds no slot, and comes back with the result."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from agents.line_agent import LineAgent
from behaviour.manual_clock import ManualClock
from behaviour.support import eventually, in_memory, is_alive

from boxflow import Context, Engine, RunStatus, workflow
from boxflow.errors import AgentTimeoutError, RunCancelledError
from boxflow.execution import Execution
from boxflow_backends.local_sandbox import LocalSandbox

LINE = LineAgent()


@workflow
async def ported(ctx: Context, prompt: str) -> str:
    async with ctx.box("worker") as box:
        return (await box.agent.run(prompt, agent=LINE)).text


@workflow
async def quick(ctx: Context, number: int) -> int:
    return await ctx.run("double", lambda: 2 * number)


async def at_work(engine: Engine, directory: Path, name: str = "r") -> Path:
    """The box's working directory, once the agent works and the run has left memory."""
    await eventually(lambda: bool(list(directory.glob("*/work/ran"))))
    await eventually(lambda: engine._hub.resident(name) is None)
    return next(directory.glob("*/work"))


async def test_the_run_leaves_memory_and_comes_back_with_the_result(tmp_path: Path) -> None:
    async with in_memory(sandbox=LocalSandbox(tmp_path), max_resident_runs=0).running(ported) as engine:
        run = await engine.start(ported, "count ran\nuntil go\nsay done\nresult null", run_id="r")
        work = await at_work(engine, tmp_path)
        assert await run.status() is RunStatus.WAITING
        (work / "go").touch()
        assert await run.result(timeout=30) == "done"
        assert [o.name for o in await run.history()] == ["worker.create", "worker.agent.run", "worker.delete"]
        assert not engine._hub._job_steps._steps


async def test_nothing_of_the_execution_is_kept_while_the_agent_works(tmp_path: Path) -> None:
    def executions() -> list[Execution]:
        gc.collect()
        return [thing for thing in gc.get_objects() if type(thing) is Execution and thing.record.run_id == "lean"]

    async with in_memory(sandbox=LocalSandbox(tmp_path), max_resident_runs=0).running(ported) as engine:
        run = await engine.start(ported, "count ran\nuntil go\nresult null", run_id="lean")
        work = await at_work(engine, tmp_path, "lean")
        await eventually(lambda: not executions())
        (work / "go").touch()
        await run.result(timeout=30)


async def test_an_agent_at_work_takes_no_slot_of_the_steps(tmp_path: Path) -> None:
    async with in_memory(sandbox=LocalSandbox(tmp_path), max_concurrent_steps=1).running(ported, quick) as engine:
        runs = [await engine.start(ported, "count ran\nuntil go\nsay x\nresult null") for _ in range(3)]
        await eventually(lambda: len(list(tmp_path.glob("*/work/ran"))) == 3)
        assert await engine.run(quick, 21) == 42
        for work in tmp_path.glob("*/work"):
            (work / "go").touch()
        assert [await run.result(timeout=30) for run in runs] == ["x"] * 3


async def test_cancelling_a_run_that_is_out_of_memory_kills_its_agent(tmp_path: Path) -> None:
    async with in_memory(sandbox=LocalSandbox(tmp_path), max_resident_runs=0).running(ported) as engine:
        run = await engine.start(ported, "daemon\ncount ran\nforever", run_id="r")
        pid = int((await at_work(engine, tmp_path) / "daemon").read_text())
        await run.cancel("enough")
        with pytest.raises(RunCancelledError):
            await run.result(timeout=30)
        await eventually(lambda: not is_alive(pid))
        assert not list(tmp_path.glob("*/work"))
        assert not engine._hub._job_steps._steps


async def test_a_body_that_no_longer_wants_the_agent_ends_it(tmp_path: Path) -> None:
    @workflow
    async def impatient(ctx: Context, _: None) -> str:
        async with ctx.box("worker") as box:
            try:
                async with asyncio.timeout(3600):
                    await box.agent.run("daemon\ncount ran\nforever", agent=LINE)
            except TimeoutError:
                again = await box.agent.run("say second\nresult null", agent=LINE)
                return again.text
        return "not reached"

    clock = ManualClock()
    machine = in_memory(sandbox=LocalSandbox(tmp_path), max_resident_runs=0, clock=clock)
    async with machine.running(impatient) as engine:
        run = await engine.start(impatient, run_id="r")
        pid = int((await at_work(engine, tmp_path) / "daemon").read_text())
        clock.advance(3601)
        assert await run.result(timeout=30) == "second"
        await eventually(lambda: not is_alive(pid))


async def test_several_agents_of_one_run_work_while_it_is_out_of_memory(tmp_path: Path) -> None:
    @workflow
    async def parallel(ctx: Context, _: None) -> list[str]:
        async with ctx.box("worker") as box:
            prompts = [f"count ran\nuntil go{n}\nsay {n}\nresult null" for n in range(3)]
            runs = await asyncio.gather(*(box.agent.run(prompt, agent=LINE) for prompt in prompts))
            return [run.text for run in runs]

    async with in_memory(sandbox=LocalSandbox(tmp_path), max_resident_runs=0).running(parallel) as engine:
        run = await engine.start(parallel, run_id="r")
        work = await at_work(engine, tmp_path)
        for n in (2, 0, 1):
            (work / f"go{n}").touch()
        assert await run.result(timeout=30) == ["0", "1", "2"]


async def test_an_agents_own_deadline_holds_while_the_run_is_out_of_memory(tmp_path: Path) -> None:
    @workflow
    async def bounded(ctx: Context, _: None) -> str:
        async with ctx.box("worker") as box:
            try:
                await box.agent.run("count ran\nforever", agent=LINE, timeout=1)
            except AgentTimeoutError as error:
                return str(error)
        return "not reached"

    async with in_memory(sandbox=LocalSandbox(tmp_path), max_resident_runs=0).running(bounded) as engine:
        assert "was killed after 1 s" in await engine.run(bounded)
