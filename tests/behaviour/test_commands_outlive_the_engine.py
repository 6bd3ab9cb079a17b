"""A command of a workflow body is a job: it goes on while the engine is away, runs once, and its result arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from behaviour.support import Machine, eventually, in_memory, is_alive

from boxflow import Boxes, Context, RunCancelledError, RunStatus, workflow
from boxflow.errors import BoxNotFoundError, CommandTimeoutError, JobLostError, SandboxError
from boxflow_backends.local_sandbox import LocalSandbox

WAITING = "echo ran >> ran; echo $$ > pid; until [ -e go ]; do sleep 0.01; done; cat ran; echo result"


@workflow
async def patient(ctx: Context, _: None) -> str:
    async with ctx.box("worker") as box:
        return (await box.exec.command(WAITING)).stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return in_memory(sandbox=LocalSandbox(tmp_path))


@asynccontextmanager
async def looking(directory: Path) -> AsyncIterator[Boxes]:
    async with Boxes(LocalSandbox(directory)) as boxes:
        yield boxes


async def the_file(directory: Path, name: str) -> Path:
    """The file of that name in the only box, once it is there and holds something."""
    found: list[Path] = []

    def there() -> bool:
        found[:] = [path for path in directory.glob(f"*/work/{name}") if path.stat().st_size]
        return bool(found)

    await eventually(there)
    return found[0]


async def test_a_command_goes_on_while_the_engine_is_stopped_and_its_result_arrives(
    machine: Machine, tmp_path: Path
) -> None:
    async with machine.running(patient) as engine:
        await engine.start(patient, run_id="r")
        pid = int((await the_file(tmp_path, "pid")).read_text())
    assert is_alive(pid)
    (await the_file(tmp_path, "ran")).with_name("go").touch()
    async with machine.running(patient) as engine:
        assert await (await engine.get("r")).result(timeout=30) == "ran\nresult\n"
    assert not list(tmp_path.glob("[!.]*"))


async def test_a_command_that_ended_while_the_engine_was_dead_is_not_run_again(
    machine: Machine, tmp_path: Path
) -> None:
    async with machine.crashing(patient) as engine:
        await engine.start(patient, run_id="r")
        ran = await the_file(tmp_path, "ran")
        ran.with_name("go").touch()
        await eventually(lambda: bool(list(tmp_path.glob("*/jobs/**/exit"))))
    async with machine.running(patient) as engine:
        run = await engine.get("r")
        assert await run.result(timeout=30) == "ran\nresult\n"
        assert [(o.kind, o.name) for o in await run.history()] == [
            ("step_done", "worker.create"),
            ("step_done", "worker.exec.command"),
            ("step_done", "worker.delete"),
        ]


async def test_cancelling_the_run_ends_the_command_and_the_box(machine: Machine, tmp_path: Path) -> None:
    async with machine.running(patient) as engine:
        run = await engine.start(patient)
        pid = int((await the_file(tmp_path, "pid")).read_text())
        await run.cancel()
        with pytest.raises(RunCancelledError):
            await run.result(timeout=30)
    assert not is_alive(pid)
    assert not list(tmp_path.glob("[!.]*"))


async def test_a_branch_that_is_given_up_ends_its_command_only(machine: Machine, tmp_path: Path) -> None:
    @workflow
    async def racing(ctx: Context, _: None) -> list[str]:
        async with ctx.box("worker") as box:
            lost = asyncio.create_task(box.exec.command("echo $$ > pid; sleep 600"))
            won = await box.exec.command("until [ -s pid ]; do sleep 0.01; done; echo won")
            lost.cancel()
            await asyncio.wait({lost})
            left = await box.exec.command("until ! kill -0 $(cat pid) 2>/dev/null; do sleep 0.01; done; echo gone")
            return [won.stdout, left.stdout]

    async with machine.running(racing) as engine:
        assert await engine.run(racing) == ["won\n", "gone\n"]


async def test_the_deadline_counts_from_the_command_s_own_start(machine: Machine, tmp_path: Path) -> None:
    @workflow
    async def late(ctx: Context, _: None) -> str:
        async with ctx.box("worker") as box:
            try:
                await box.exec.command("echo some; echo x > begun; sleep 600", timeout=1)
            except CommandTimeoutError as error:
                return f"{error}: {error.stdout!r}"
            return "in time"

    async with machine.running(late) as engine:
        await engine.start(late, run_id="r")
        await the_file(tmp_path, "begun")
    await asyncio.sleep(1.1)
    async with machine.running(late) as engine:
        told = await (await engine.get("r")).result(timeout=30)
    assert told == "command 'echo some; echo x > begun; sleep 600' was killed after 1 s: 'some\\n'"


async def test_git_and_code_of_a_body_are_run_once_too(machine: Machine, tmp_path: Path) -> None:
    @workflow
    async def twice(ctx: Context, _: None) -> list[str]:
        async with ctx.box("worker") as box:
            await box.git.exec("init", "-q", "-b", "main")
            await box.files.write("f", "x")
            commit = await box.git.commit("first", author="A <a@b>")
            code = await box.exec.code("import sys; print(6 * 7)", "python")
            jobs = await box.jobs.list()
            return [str(len(commit)), code.stdout, *(job.command for job in jobs)]

    async with machine.running(twice) as engine:
        assert await engine.run(twice) == ["40", "42\n", "git init -q -b main", "git commit", "python code"]


async def test_a_job_of_a_body_is_started_once_and_waited_for(machine: Machine, tmp_path: Path) -> None:
    @workflow
    async def apart(ctx: Context, _: None) -> str:
        async with ctx.box("worker") as box:
            job = await box.jobs.start("echo ran >> ran; until [ -e go ]; do sleep 0.01; done; cat ran")
            await ctx.wait_for_event("go", "go")
            return (await job.wait()).stdout

    async with machine.running(apart) as engine:
        await engine.start(apart, run_id="r")
        ran = await the_file(tmp_path, "ran")
    ran.with_name("go").touch()
    async with machine.running(apart) as engine:
        await engine.notify("go")
        assert await (await engine.get("r")).result(timeout=30) == "ran\n"


async def test_errors_of_boxes_reach_a_body_as_themselves(machine: Machine, tmp_path: Path) -> None:
    @workflow
    async def wrong(ctx: Context, _: None) -> list[str]:
        told: list[str] = []
        box = await ctx.box("worker")
        await box.exec.command('set -- "$BOXFLOW_JOBS"/j*/pid; read pid _ < "$1"; kill -9 $pid; sleep 600')
        return told

    @workflow
    async def caught(ctx: Context, _: None) -> list[str]:
        told: list[str] = []
        async with ctx.box("worker") as box:
            try:
                await box.exec.command(["no-such-program"])
            except SandboxError as error:
                told.append(str(error))
            except Exception as error:
                told.append(f"{type(error).__name__}")
            other = await ctx.boxes.create("other")
            await other.delete()
            try:
                await other.exec.command("true")
            except BoxNotFoundError as error:
                told.append(type(error).__name__)
        return told

    async with machine.running(wrong, caught) as engine:
        run = await engine.start(wrong)
        await eventually(lambda: _over(run))
        assert "JobLostError" in str((await run.history())[1])
        assert JobLostError.told("x").job_id == ""
        assert (await engine.run(caught))[-1] == "BoxNotFoundError"


async def test_a_resumed_run_starts_a_command_again_that_was_lost(machine: Machine, tmp_path: Path) -> None:
    @workflow
    async def fragile(ctx: Context, _: None) -> list[str]:
        box = await ctx.box("worker", keep=True)
        script = (
            'if [ -e again ]; then echo done; else set -- "$BOXFLOW_JOBS"/j*/pid; read pid _ < "$1"; kill -9 $pid; fi'
        )
        result = await box.exec.command(script + "; sleep 0.1")
        return [result.stdout, *(info.status.value for info in await box.jobs.list())]

    async with machine.running(fragile) as engine:
        run = await engine.start(fragile)
        await eventually(lambda: _over(run))
        assert "~lost1" in str((await run.history())[1])
        next(tmp_path.glob("*/work")).joinpath("again").touch()
        await run.resume()
        assert await run.result(timeout=30) == ["done\n", "lost", "exited"]


async def _over(run: object) -> bool:
    return await run.status() in (RunStatus.FAILED, RunStatus.COMPLETED)  # type: ignore[attr-defined] # a Run
