"""`resume` after failures that are hard to go on from: children, mailboxes, `at_most_once`, two at a time."""

from __future__ import annotations

import asyncio

import pytest
from behaviour.support import Machine, kinds, until

from boxflow import Context, RunFailedError, RunStatus, StepInterruptedError, WebhookRequest, workflow
from boxflow.errors import RunStateError


class World:
    """Whether its step can succeed, and how often it was tried."""

    def __init__(self) -> None:
        self.broken = True
        self.tries = 0

    async def act(self) -> int:
        self.tries += 1
        if self.broken:
            raise OSError("broken")
        return 1


@pytest.mark.parametrize("grouped", [False, True], ids=["gather", "TaskGroup"])
async def test_children_that_ended_because_a_sibling_failed_go_on_with_their_parent(
    machine: Machine, grouped: bool
) -> None:
    world, prepared = World(), list[int]()

    async def prepare(number: int) -> None:
        prepared.append(number)

    @workflow
    async def child(ctx: Context, number: int) -> int:
        if number == 0:
            await ctx.wait_for_event("start", "start")
            return await ctx.run("act", world.act)
        await ctx.run("prepare", prepare, number)
        return int(await ctx.wait_for_event("wait", f"wait-{number}"))

    @workflow
    async def main(ctx: Context, payload: None) -> list[int]:
        calls = [ctx.invoke(f"c{number}", child, number) for number in range(3)]
        if not grouped:
            return list(await asyncio.gather(*calls))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(call) for call in calls]
        finally:
            await ctx.run("last", int)
        return [task.result() for task in tasks]

    async with machine.running(main, child) as engine:
        run = await engine.start(main, run_id="p")
        for number in range(3):
            await until_id(engine, f"p/c{number}")
            await until(await engine.get(f"p/c{number}"), RunStatus.WAITING)
        await engine.notify("start")
        with pytest.raises(RunFailedError):
            await run.result()
    world.broken = False
    async with machine.crashing(main, child) as engine:
        run = await engine.get("p")
        await run.resume()
        await engine.notify("wait-1", 10)
    async with machine.running(main, child) as engine:
        await engine.notify("wait-2", 20)
        assert await (await engine.get("p")).result() == [1, 10, 20]
    assert sorted(prepared) == [1, 2]


async def until_id(engine: object, run_id: str) -> None:
    while await engine.store.get_run(run_id) is None:  # type: ignore[attr-defined]  # an Engine
        await asyncio.sleep(0.001)


async def test_mail_that_was_kept_for_a_failed_run_is_there_when_it_goes_on(machine: Machine) -> None:
    world, tokens = World(), list[str]()

    async def publish(token: str) -> None:
        tokens.append(token)

    @workflow
    async def main(ctx: Context, payload: None) -> list[int]:
        hook = await ctx.create_webhook("hook")
        await ctx.run("publish", publish, hook.token)
        await ctx.wait_for_event("start", "start")
        await ctx.run("act", world.act)
        call = await ctx.wait_for_webhook("call", hook)
        return [call.json(int), await ctx.wait_for_event("event", "e", type=int)]

    async with machine.running(main) as engine:
        run = await engine.start(main, run_id="r")
        await until(run, RunStatus.WAITING)
        await engine.deliver_webhook(tokens[0], WebhookRequest(method="POST", body=b"1"))
        await engine.notify("e", 2, run_id="r")
        await engine.notify("start")
        with pytest.raises(RunFailedError):
            await run.result()
    world.broken = False
    async with machine.running(main) as engine:
        run = await engine.get("r")
        await run.resume()
        assert await run.result() == [1, 2]


async def test_mail_of_several_resumptions_keeps_its_order(machine: Machine) -> None:
    world = World()

    @workflow
    async def main(ctx: Context, payload: None) -> list[str]:
        await ctx.wait_for_event("start", "start")
        found: list[str] = []
        for _ in range(4):
            event = asyncio.create_task(ctx.wait_for_event("a", "a", type=str))
            found.append(await event)
            if len(found) == payload_of_failure[0]:
                raise ValueError("mend the code")
        await ctx.run("act", world.act)
        return found

    payload_of_failure = [1]
    world.broken = False
    async with machine.running(main) as engine:
        run = await engine.start(main, run_id="r")
        await until(run, RunStatus.WAITING)
        for letter in "wxyz":
            await engine.notify("a", letter, run_id="r")
        await engine.notify("start")
        for failing_next in (2, 3, 0):
            with pytest.raises(RunFailedError, match="mend the code"):
                await run.result()
            payload_of_failure[0] = failing_next
            await run.resume()
        assert await run.result() == list("wxyz")


async def test_an_at_most_once_step_that_failed_is_done_again_by_resume(machine: Machine) -> None:
    world = World()

    @workflow
    async def main(ctx: Context, payload: None) -> int:
        return await ctx.run("act", world.act, at_most_once=True)

    async with machine.running(main) as engine:
        run = await engine.start(main, run_id="r")
        with pytest.raises(RunFailedError, match="broken"):
            await run.result()
    world.broken = False
    async with machine.running(main) as engine:
        run = await engine.get("r")
        await run.resume()
        assert await run.result() == 1
    assert world.tries == 2


async def test_an_at_most_once_step_that_was_interrupted_is_not_done_again_by_resume(machine: Machine) -> None:
    started: list[None] = []

    async def act() -> None:
        started.append(None)
        await asyncio.Event().wait()

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await ctx.run("act", act, at_most_once=True)

    async with machine.crashing(main) as engine:
        await engine.start(main, run_id="r")
        while not started:
            await asyncio.sleep(0.001)
    async with machine.running(main) as engine:
        run = await engine.get("r")
        for _ in range(2):
            with pytest.raises(RunFailedError, match=StepInterruptedError.__name__):
                await run.result()
            await run.resume()
        with pytest.raises(RunFailedError, match=StepInterruptedError.__name__):
            await run.result()
    assert len(started) == 1


async def test_of_several_resumptions_at_once_exactly_one_wins(machine: Machine) -> None:
    world = World()

    @workflow
    async def main(ctx: Context, payload: None) -> int:
        return await ctx.run("act", world.act)

    async with machine.running(main) as engine:
        run = await engine.start(main)
        with pytest.raises(RunFailedError):
            await run.result()
        world.broken = False
        answers = await asyncio.gather(*(run.resume() for _ in range(3)), return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["NoneType", "RunStateError", "RunStateError"]
        assert RunStateError in {type(answer) for answer in answers}
        assert await run.result() == 1
        assert kinds(await run.history()) == ["step_failed", "run_resumed", "step_done"]


async def test_several_cancels_of_a_run_that_has_not_begun_are_one(machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> None: ...

    async with machine.running(main) as engine:
        run = await engine.start(main, delay="1h")
        await asyncio.gather(*(run.cancel() for _ in range(3)))
        assert await run.status() is RunStatus.CANCELLED
        assert kinds(await run.history()) == ["cancel_asked"]


async def test_who_asks_to_resume_and_is_cancelled_leaves_no_run_standing_still(machine: Machine) -> None:
    world = World()

    @workflow
    async def main(ctx: Context, payload: None) -> int:
        return await ctx.run("act", world.act)

    for turns in range(40):
        world.broken = True
        async with machine.running(main) as engine:
            run = await engine.start(main, run_id=f"r{turns}")
            with pytest.raises(RunFailedError):
                await run.result()
            world.broken = False
            asking = asyncio.create_task(run.resume())
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
            if "run_resumed" in kinds(await run.history()):
                assert await run.result() == 1
