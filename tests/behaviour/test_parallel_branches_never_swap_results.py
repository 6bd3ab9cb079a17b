"""Parallel branches with equal step names never swap results, in whatever order the steps end, live and on replay."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import anyio
import pytest
from behaviour.support import Machine, until, until_recorded

from boxflow import Context, NotDurableError, RunStatus, workflow


class Steps:
    """Steps that end when, and in the order in which, the test says."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Event] = {}

    async def echo(self, number: int) -> int:
        self.waiting[number] = asyncio.Event()
        await self.waiting[number].wait()
        return number

    async def release(self, order: list[int]) -> None:
        for number in order:
            while number not in self.waiting:
                await asyncio.sleep(0)
            self.waiting[number].set()
            for _ in range(3):
                await asyncio.sleep(0)


Gather = Callable[[Context, Steps, int], Awaitable[list[int]]]


async def with_gather(ctx: Context, steps: Steps, count: int) -> list[int]:
    return list(await asyncio.gather(*(ctx.run("same", steps.echo, n) for n in range(count))))


async def with_task_group(ctx: Context, steps: Steps, count: int) -> list[int]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ctx.run("same", steps.echo, n)) for n in range(count)]
    return [task.result() for task in tasks]


async def with_wait(ctx: Context, steps: Steps, count: int) -> list[int]:
    tasks = {asyncio.create_task(ctx.run("same", steps.echo, n)): n for n in range(count)}
    pending, found = set(tasks), dict[int, int]()
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        found.update({tasks[task]: task.result() for task in done})
    return [found[n] for n in range(count)]


async def with_as_completed(ctx: Context, steps: Steps, count: int) -> list[int]:
    async def numbered(n: int) -> tuple[int, int]:
        return n, await ctx.run("same", steps.echo, n)

    found = dict([await one for one in asyncio.as_completed([numbered(n) for n in range(count)])])
    return [found[n] for n in range(count)]


async def with_anyio(ctx: Context, steps: Steps, count: int) -> list[int]:
    found: dict[int, int] = {}

    async def one(n: int) -> None:
        found[n] = await ctx.run("same", steps.echo, n)

    async with anyio.create_task_group() as group:
        for n in range(count):
            group.start_soon(one, n)
    return [found[n] for n in range(count)]


@pytest.mark.parametrize("gather", [with_gather, with_task_group, with_wait, with_as_completed, with_anyio])
@pytest.mark.parametrize("seed", range(4))
async def test_each_branch_gets_its_own_result_live_and_on_replay(machine: Machine, gather: Gather, seed: int) -> None:
    steps, count = Steps(), 12
    order = list(range(count))
    random.Random(seed).shuffle(order)

    @workflow
    async def main(ctx: Context, payload: None) -> list[int]:
        found = await gather(ctx, steps, count)
        await ctx.wait_for_event("wait", "go")
        return found

    async with machine.crashing(main) as engine:
        run = await engine.start(main, run_id="r")
        await steps.release(order)
        await until_recorded(run, "step_done", count)
        await until(run, RunStatus.WAITING)
        assert [outcome.occurrence - 1 for outcome in await run.history()] == order
    async with machine.running(main) as engine:
        await engine.notify("go")
        assert await (await engine.get("r")).result() == list(range(count))


@pytest.mark.parametrize("seed", range(6))
async def test_a_crash_in_the_middle_swaps_nothing_either(machine: Machine, seed: int) -> None:
    count, rng = 10, random.Random(seed)
    order = list(range(count))
    rng.shuffle(order)
    steps = Steps()

    @workflow
    async def main(ctx: Context, payload: None) -> list[str]:
        async def branch(n: int) -> str:
            first = await ctx.run("same", steps.echo, n)
            second = await ctx.run("same", steps.echo, n + 100)
            return f"{first}-{second}"

        return list(await asyncio.gather(*(branch(n) for n in range(count))))

    half = [*order[:6], *(n + 100 for n in order[:3])]
    async with machine.crashing(main) as engine:
        run = await engine.start(main, run_id="r")
        await steps.release(half)
        await until_recorded(run, "step_done", len(half))
    steps.waiting.clear()
    rest = [*order[6:], *(n + 100 for n in order[3:])]
    rng.shuffle(rest)
    async with machine.running(main) as engine:
        run = await engine.get("r")
        ready = asyncio.create_task(steps.release(sorted(rest, key=lambda n: n >= 100)))
        assert await run.result() == [f"{n}-{n + 100}" for n in range(count)]
        await ready


async def test_what_finished_first_is_first_on_replay_too(machine: Machine) -> None:
    steps = Steps()

    @workflow
    async def main(ctx: Context, payload: None) -> list[int]:
        order = [await one for one in asyncio.as_completed([ctx.run("same", steps.echo, n) for n in range(6)])]
        await ctx.wait_for_event("wait", "go")
        return order

    order = [4, 0, 5, 2, 1, 3]
    async with machine.crashing(main) as engine:
        run = await engine.start(main, run_id="r")
        await steps.release(order)
        await until_recorded(run, "step_done", 6)
    async with machine.running(main) as engine:
        await engine.notify("go")
        assert await (await engine.get("r")).result() == order


async def test_locks_queues_and_semaphores_work_in_a_body_and_replay(machine: Machine) -> None:
    async def work(n: int) -> int:
        await asyncio.sleep(0.001 * (n % 3))
        return n

    lives: list[list[str]] = []

    @workflow
    async def main(ctx: Context, payload: None) -> int:
        queue: asyncio.Queue[int] = asyncio.Queue(2)
        lock, gate, log = asyncio.Lock(), asyncio.Semaphore(2), list[str]()
        lives.append(log)

        async def produce() -> None:
            for n in range(8):
                await queue.put(n)

        async def consume(name: str) -> None:
            while True:
                n = await queue.get()
                async with gate:
                    done = await ctx.run("work", work, n)
                async with lock:
                    log.append(f"{name}{done}")
                queue.task_done()

        workers = [asyncio.create_task(consume(name)) for name in "abc"]
        await produce()
        await queue.join()
        for worker in workers:
            worker.cancel()
        await ctx.wait_for_event("wait", "go")
        return len(log)

    async with machine.crashing(main) as engine:
        await until(await engine.start(main, run_id="r"), RunStatus.WAITING)
    async with machine.running(main) as engine:
        await engine.notify("go")
        assert await (await engine.get("r")).result() == 8
    assert lives[0] == lives[-1]
    assert len(lives) == 2


async def test_as_completed_refuses_what_has_no_order_of_its_own(memory_machine: Machine) -> None:
    async def echo(n: int) -> int:
        return n

    @workflow
    async def main(ctx: Context, payload: None) -> list[str]:
        said: list[str] = []
        for unordered in (iter, set):
            coroutines = [ctx.run("same", echo, n) for n in range(3)]
            try:
                for one in asyncio.as_completed(unordered(coroutines)):
                    await one
            except NotDurableError as error:
                said.append(str(error))
            for coroutine in coroutines:
                coroutine.close()
        return said

    async with memory_machine.running(main) as engine:
        from_iterator, from_set = await engine.run(main)
    assert "`asyncio.as_completed` got coroutines in a list_iterator" in from_iterator
    assert "in a set, and begins them in the order of their memory addresses" in from_set
    assert "pass a list of them" in from_set


async def test_as_completed_takes_tasks_in_whatever_they_come(memory_machine: Machine) -> None:
    async def echo(n: int) -> int:
        return n

    @workflow
    async def main(ctx: Context, payload: None) -> list[int]:
        tasks = {asyncio.create_task(ctx.run("same", echo, n)) for n in range(3)}
        return sorted([await one for one in asyncio.as_completed(tasks)])

    async with memory_machine.running(main) as engine:
        assert await engine.run(main) == [0, 1, 2]
