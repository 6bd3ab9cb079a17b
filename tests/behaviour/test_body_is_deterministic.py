"""What a body may read is the same on replay; what would touch the world is refused; what blocks is reported."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime
from uuid import UUID

import pytest
from behaviour.support import Machine, settle, until

from boxflow import Context, NotDurableError, RunFailedError, RunStatus, workflow


async def test_now_uuid4_and_random_are_the_same_on_replay_and_differ_between_runs(machine: Machine) -> None:
    lives: dict[str, list[tuple[datetime, UUID, float]]] = {}

    async def work() -> None:
        await asyncio.sleep(0.001)

    @workflow
    async def main(ctx: Context, payload: None) -> UUID:
        seen = lives.setdefault(ctx.run_id, [])
        for _ in range(3):
            seen.append((ctx.now(), ctx.uuid4(), ctx.random.random()))
            await ctx.run("work", work)
        await ctx.wait_for_event("wait", "go")
        return ctx.uuid4()

    async with machine.crashing(main) as engine:
        for run_id in ("a", "b"):
            await until(await engine.start(main, run_id=run_id), RunStatus.WAITING)
    async with machine.running(main) as engine:
        await engine.notify("go")
        ids = {await (await engine.get(run_id)).result() for run_id in ("a", "b")}
    assert len(ids) == 2
    for seen in lives.values():
        assert seen[:3] == seen[3:]
        assert [moment for moment, _, _ in seen[:3]] == sorted(moment for moment, _, _ in seen[:3])
        assert {each.version for _, each, _ in seen} == {4}
    assert not {each for _, each, _ in lives["a"]} & {each for _, each, _ in lives["b"]}


async def test_the_log_is_silent_on_replay_and_names_the_run(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "boxflow.workflow")

    async def work() -> None: ...

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        ctx.log.info("begin")
        await ctx.run("work", work)
        ctx.log.info("worked")
        await ctx.wait_for_event("wait", "go")
        ctx.log.info("end")

    async with machine.crashing(main) as engine:
        await until(await engine.start(main, run_id="r"), RunStatus.WAITING)
    async with machine.running(main) as engine:
        await engine.notify("go")
        await (await engine.get("r")).result()
    records = [record for record in caplog.records if record.name == "boxflow.workflow"]
    assert [record.getMessage() for record in records] == ["begin", "worked", "end"]
    assert {(getattr(record, "run_id", ""), getattr(record, "workflow", "")) for record in records} == {("r", "main")}


@pytest.mark.parametrize(
    "touch",
    [
        lambda: asyncio.to_thread(time.time),
        lambda: asyncio.get_running_loop().run_in_executor(None, time.time),
        lambda: asyncio.open_connection("127.0.0.1", 9),
        lambda: asyncio.create_subprocess_exec("true"),
        lambda: asyncio.create_subprocess_shell("true"),
        lambda: asyncio.get_running_loop().getaddrinfo("localhost", 80),
        lambda: asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0),
    ],
    ids=["to_thread", "executor", "connection", "exec", "shell", "getaddrinfo", "server"],
)
async def test_what_would_touch_the_world_raises_and_says_to_put_it_in_a_step(memory_machine: Machine, touch) -> None:  # type: ignore[no-untyped-def] # a lambda of any call
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            await touch()
        except NotDurableError as error:
            return str(error)
        return "?"

    async with memory_machine.running(main) as engine:
        assert 'put it in a step: `await ctx.run("name", function, ...)`' in await engine.run(main)


async def test_a_future_of_the_host_that_the_body_awaits_fails_the_run(memory_machine: Machine) -> None:
    foreign = asyncio.get_running_loop().create_future()

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await foreign

    async with memory_machine.running(main) as engine:
        with pytest.raises(
            RunFailedError, match="NotDurableError: the workflow body waits for something that belongs to"
        ):
            await engine.run(main)


async def test_a_context_used_outside_of_its_body_is_refused(memory_machine: Machine) -> None:
    kept: list[Context] = []

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        kept.append(ctx)
        await ctx.wait_for_event("wait", "go")

    async with memory_machine.running(main) as engine:
        run = await engine.start(main, run_id="r")
        await until(run, RunStatus.WAITING)
        with pytest.raises(NotDurableError, match="'x' was called outside of the workflow body of run 'r'"):
            await kept[0].run("x", lambda: 1)


async def test_a_durable_call_needs_a_name(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            await ctx.run("", lambda: 1)
        except ValueError as error:
            return str(error)
        return "?"

    async with memory_machine.running(main) as engine:
        assert await engine.run(main) == "a durable call needs a name, a non-empty text; got ''"


async def test_a_body_that_blocks_the_loop_is_reported_with_its_line(
    memory_machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> None:
        time.sleep(0.2)

    async with memory_machine.running(main, blocking_limit=0.02) as engine:
        await engine.run(main, run_id="r")
        await settle()
    (said,) = [record.getMessage() for record in caplog.records if "blocked the event loop" in record.getMessage()]
    line = main.function.__code__.co_firstlineno + 2
    assert "the body of run 'r'" in said
    assert f"test_body_is_deterministic.py:{line} in " in said
    assert "await ctx.run(name, fn)" in said


async def test_a_run_that_waits_for_nothing_that_can_come_is_reported(
    memory_machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await asyncio.Event().wait()

    async with memory_machine.running(main) as engine:
        run = await engine.start(main, run_id="r")
        await until(run, RunStatus.WAITING)
        assert "run 'r' waits for nothing that can come" in caplog.text
        await run.cancel()
        while not (await run.status()).is_final:
            await asyncio.sleep(0)
