"""`restart` begins anew; `fork` makes a new run that shares the past up to a call."""

from __future__ import annotations

import asyncio

import pytest
from behaviour.support import Machine, keys, until

from boxflow import Context, Engine, RunFailedError, RunStatus, workflow

done: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    done.clear()


async def do(what: str) -> str:
    done.append(what)
    return what


@workflow
async def main(ctx: Context, payload: str) -> list[str]:
    first = await ctx.run("a", do, "a")
    answer = await ctx.wait_for_event("ask", "answer", type=str)
    return [payload, first, answer, await ctx.run("b", do, "b"), await ctx.run("b", do, "b again")]


async def test_restart_is_a_new_run_with_the_same_payload_and_labels(machine: Machine) -> None:
    async with machine.running(main) as engine:
        run = await engine.start(main, "payload", labels=["x"])
        await engine.notify("answer", "one")
        assert await run.result() == ["payload", "a", "one", "b", "b again"]
        again = await run.restart()
        assert again.id != run.id
        assert (again.workflow, again.labels) == ("main", ("x",))
        await engine.notify("answer", "two")
        assert await again.result() == ["payload", "a", "two", "b", "b again"]
        assert await run.result() == ["payload", "a", "one", "b", "b again"]
    assert done == ["a", "b", "b again"] * 2


async def test_a_failed_run_can_be_restarted(memory_machine: Machine) -> None:
    @workflow
    async def broken(ctx: Context, payload: None) -> None:
        raise ValueError

    async with memory_machine.running(broken) as engine:
        run = await engine.start(broken)
        with pytest.raises(RunFailedError):
            await run.result()
        with pytest.raises(RunFailedError):
            await (await run.restart()).result()


async def test_a_fork_shares_the_past_and_makes_the_call_again(machine: Machine) -> None:
    async with machine.running(main) as engine:
        run = await engine.start(main, "payload", labels=["x"])
        await engine.notify("answer", "one")
        await run.result()
        fork = await run.fork(before="ask")
        assert fork.id != run.id
        assert fork.labels == ("x",)
        await until(fork, RunStatus.WAITING)
        await engine.notify("answer", "two")
        assert await fork.result() == ["payload", "a", "two", "b", "b again"]
        assert keys(await fork.history()) == keys(await run.history())
    assert done == ["a", "b", "b again", "b", "b again"]


async def test_a_fork_before_the_second_call_of_a_name(machine: Machine) -> None:
    async with machine.running(main) as engine:
        run = await engine.start(main, "payload")
        await engine.notify("answer", "one")
        await run.result()
        done.clear()
        fork = await run.fork(before="b", occurrence=2)
        assert await fork.result() == ["payload", "a", "one", "b", "b again"]
    assert done == ["b again"]


async def test_a_fork_of_a_running_run_leaves_it_alone(machine: Machine) -> None:
    async with machine.running(main) as engine:
        run = await engine.start(main, "payload", run_id="r")
        await until(run, RunStatus.WAITING)
        fork = await run.fork(before="a")
        await until(fork, RunStatus.WAITING)
        assert await run.status() is RunStatus.WAITING
        notified = await engine.notify("answer", "both")
        assert set(notified.run_ids) == {"r", fork.id}
        assert await run.result() == await fork.result()
    assert done == ["a", "a", "b", "b again", "b", "b again"] or sorted(done) == sorted(["a", "b", "b again"] * 2)


async def test_a_fork_before_what_never_was_is_refused_and_says_what_there_is(memory_machine: Machine) -> None:
    async with memory_machine.running(main) as engine:
        run = await engine.start(main, "p", run_id="r")
        await engine.notify("answer", "one")
        await run.result()
        with pytest.raises(LookupError, match=r"run 'r' has no outcome of 'x' .*; its journal has 'a', 'ask', 'b'"):
            await run.fork(before="x")
        assert [each.id async for each in engine.runs()] == ["r"]


async def test_a_fork_survives_a_crash(machine: Machine) -> None:
    async with machine.crashing(main) as engine:
        run = await engine.start(main, "payload", run_id="r")
        await engine.notify("answer", "one")
        await run.result()
        fork = await run.fork(before="ask")
        await until(fork, RunStatus.WAITING)
    async with machine.running(main) as engine:
        await engine.notify("answer", "two")
        assert (await (await engine.get(fork.id)).result())[2] == "two"


async def test_a_fork_draws_the_random_numbers_of_its_past_and_then_its_own(machine: Machine) -> None:
    @workflow
    async def draws(ctx: Context, payload: None) -> list[str]:
        drawn: list[str] = []
        for _ in range(6):
            # The name comes from the numbers: were they others, the copied outcomes would have no place.
            drawn.append(str(ctx.uuid4()))
            await ctx.run(f"step-{drawn[-1]}", do, "step")
        return drawn

    async with machine.crashing(draws) as engine:
        first = await engine.start(draws)
        numbers = await first.result()
        second = await first.fork(before=(await first.history())[2].name)
        other = await second.result()
        third = await second.fork(before=(await second.history())[4].name)
        last = await third.result()
        early = await third.fork(before=(await third.history())[1].name)
        early_numbers = await early.result()
    assert other[:2] == numbers[:2]
    assert last[:4] == other[:4]
    assert early_numbers[:1] == numbers[:1]
    assert len({*numbers, *other, *last, *early_numbers}) == 6 + 4 + 2 + 5
    async with machine.running(draws) as engine:
        # Rebuilt from its journal it is the same.
        again = await (await engine.get(third.id)).fork(before=(await names_of(engine, third.id))[5])
        assert (await again.result())[:5] == last[:5]


async def names_of(engine: Engine, run_id: str) -> list[str]:
    return [outcome.name for outcome in await (await engine.get(run_id)).history()]


async def test_a_fork_takes_no_pending_branch_for_done(machine: Machine) -> None:
    @workflow
    async def parallel(ctx: Context, payload: None) -> list[str]:
        return list(await asyncio.gather(ctx.run("x", do, "x"), ctx.run("y", do, "y"), ctx.run("z", do, "z")))

    async with machine.running(parallel) as engine:
        run = await engine.start(parallel)
        await run.result()
        last = (await run.history())[-1].name
        done.clear()
        fork = await run.fork(before=last)
        assert await fork.result() == ["x", "y", "z"]
    assert done == [last]
