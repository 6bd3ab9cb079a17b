"""A step runs at least once, its outcome is recorded exactly once, and found again after a crash."""

from __future__ import annotations

import asyncio
import threading

from behaviour.support import Machine, keys, until

from boxflow import Context, RunStatus, step, workflow


async def test_a_step_that_succeeded_is_not_done_again_after_a_crash(machine: Machine) -> None:
    calls: list[str] = []

    async def fetch(page: int) -> str:
        calls.append(f"fetch {page}")
        return f"page {page}"

    @workflow
    async def main(ctx: Context, payload: int) -> list[str]:
        pages = [await ctx.run("fetch", fetch, page) for page in range(payload)]
        await ctx.wait_for_event("go", "go")
        return [*pages, await ctx.run("fetch", fetch, 99)]

    async with machine.crashing(main) as engine:
        run = await engine.start(main, 2, run_id="r")
        await until(run, RunStatus.WAITING)
    async with machine.running(main) as engine:
        await engine.notify("go")
        run = await engine.get("r")
        assert await run.result() == ["page 0", "page 1", "page 99"]
        assert keys(await run.history()) == [
            ("step_done", "fetch", 1),
            ("step_done", "fetch", 2),
            ("event_arrived", "go", 1),
            ("step_done", "fetch", 3),
        ]
    assert calls == ["fetch 0", "fetch 1", "fetch 99"]


async def test_a_step_that_was_running_in_a_crash_runs_again(machine: Machine) -> None:
    attempts: list[tuple[int, str]] = []
    started = asyncio.Event()

    async def charge() -> str:
        attempts.append((step().attempt, step().idempotency_key))
        started.set()
        if len(attempts) == 1:
            await asyncio.Event().wait()
        return "charged"

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        return await ctx.run("charge", charge)

    async with machine.crashing(main) as engine:
        run = await engine.start(main, run_id="r")
        await started.wait()
        assert await run.status() == RunStatus.RUNNING
    async with machine.running(main) as engine:
        run = await engine.get("r")
        assert await run.result() == "charged"
        assert keys(await run.history()) == [("step_done", "charge", 1)]
    # The first attempt ended without a word, so it was never counted; its key is the same.
    assert attempts == [(1, "r:charge:1"), (1, "r:charge:1")]


async def test_a_step_that_was_running_when_the_engine_stopped_in_good_order_runs_again(machine: Machine) -> None:
    starts: list[int] = []

    async def work() -> int:
        starts.append(1)
        if len(starts) == 1:
            await asyncio.Event().wait()
        return len(starts)

    @workflow
    async def main(ctx: Context, payload: None) -> int:
        return await ctx.run("work", work)

    async with machine.running(main) as engine:
        await engine.start(main, run_id="r")
        while not starts:
            await asyncio.sleep(0)
    async with machine.running(main) as engine:
        assert await (await engine.get("r")).result() == 2


async def test_the_idempotency_key_is_stable_across_attempts_and_differs_between_occurrences(
    memory_machine: Machine,
) -> None:
    from boxflow import Retry

    seen: list[tuple[str, int]] = []

    def flaky() -> None:
        info = step()
        seen.append((info.idempotency_key, info.attempt))
        if info.attempt < 3:
            raise OSError("not yet")

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        for _ in range(2):
            await ctx.run("flaky", flaky, retry=Retry(attempts=3, delay=0.001))

    async with memory_machine.running(main) as engine:
        await engine.run(main, run_id="r")
    assert seen == [
        ("r:flaky:1", 1),
        ("r:flaky:1", 2),
        ("r:flaky:1", 3),
        ("r:flaky:2", 1),
        ("r:flaky:2", 2),
        ("r:flaky:2", 3),
    ]


async def test_a_coroutine_function_runs_on_the_hosts_loop_and_a_plain_function_in_a_worker_thread(
    memory_machine: Machine,
) -> None:
    host_loop, host_thread = asyncio.get_running_loop(), threading.get_ident()

    async def on_loop() -> bool:
        return asyncio.get_running_loop() is host_loop and threading.get_ident() == host_thread

    def in_thread() -> bool:
        return threading.get_ident() != host_thread and step().name == "in-thread"

    class Caller:
        async def __call__(self) -> bool:
            return threading.get_ident() == host_thread

    @workflow
    async def main(ctx: Context, payload: None) -> list[bool]:
        return [
            await ctx.run("on-loop", on_loop),
            await ctx.run("in-thread", in_thread),
            await ctx.run("callable", Caller()),
            await ctx.run("lambda", lambda: on_loop()),
        ]

    async with memory_machine.running(main) as engine:
        assert await engine.run(main) == [True, True, True, True]


async def test_steps_in_parallel_branches_run_at_the_same_time(memory_machine: Machine) -> None:
    meeting = asyncio.Barrier(3)

    async def meet(number: int) -> int:
        await meeting.wait()
        return number

    @workflow
    async def main(ctx: Context, payload: None) -> list[int]:
        return await asyncio.gather(*(ctx.run("meet", meet, number) for number in range(3)))

    async with memory_machine.running(main) as engine:
        assert await engine.run(main) == [0, 1, 2]


async def test_no_more_steps_run_at_once_than_the_engine_allows(memory_machine: Machine) -> None:
    running: set[int] = set()
    most = 0

    async def work(number: int) -> None:
        nonlocal most
        running.add(number)
        most = max(most, len(running))
        await asyncio.sleep(0.001)
        running.discard(number)

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await asyncio.gather(*(ctx.run("work", work, number) for number in range(20)))

    async with memory_machine.running(main, max_concurrent_steps=4) as engine:
        await engine.run(main)
    assert most == 4


async def test_a_step_can_be_named_like_any_other_and_used_many_times(memory_machine: Machine) -> None:
    async def echo(value: int) -> int:
        return value

    @workflow
    async def main(ctx: Context, payload: None) -> list[int]:
        first = await asyncio.gather(*(ctx.run("x", echo, number) for number in range(5)))
        return [*first, *[await ctx.run("x", echo, number) for number in range(5, 8)]]

    async with memory_machine.running(main) as engine:
        assert await engine.run(main) == list(range(8))
