"""Events are never lost: each wakes every run that waits, or is kept for the next wait."""

from __future__ import annotations

import asyncio

import pytest
from behaviour.manual_clock import ManualClock
from behaviour.support import Machine, keys, kinds, settle, until

from boxflow import Context, Engine, Notified, RunStatus, WaitTimeoutError, workflow
from boxflow.errors import ConfigurationError, EventsFullError, RunEndedError, RunNotFoundError
from boxflow.model import EventArrived


@workflow
async def wait(ctx: Context, event_id: str) -> object:
    return await ctx.wait_for_event("wait", event_id)


@workflow
async def wait_thrice(ctx: Context, event_id: str) -> list[object]:
    return [await ctx.wait_for_event("wait", event_id) for _ in range(3)]


@workflow
async def wait_shortly(ctx: Context, event_id: str) -> str:
    try:
        return str(await ctx.wait_for_event("wait", event_id, timeout="10s"))
    except WaitTimeoutError as error:
        return str(error)


async def test_an_event_wakes_every_run_that_waits_for_it(machine: Machine) -> None:
    async with machine.running(wait, max_resident_runs=2) as engine:
        runs = [await engine.start(wait, "a", run_id=f"r{number}") for number in range(5)]
        other = await engine.start(wait, "b")
        for run in [*runs, other]:
            await until(run, RunStatus.WAITING)
        notified = await engine.notify("a", {"n": 1})
        assert sorted(notified.run_ids) == ["r0", "r1", "r2", "r3", "r4"]
        assert not notified.kept
        assert [await run.result() for run in runs] == [{"n": 1}] * 5
        assert await other.status() is RunStatus.WAITING


async def test_an_event_for_which_nobody_waits_is_kept_for_the_next_wait_and_consumed_by_it(machine: Machine) -> None:
    async with machine.crashing(wait) as engine:
        assert await engine.notify("a", "first") == Notified(kept=True)
        assert await engine.notify("a", "second") == Notified(kept=True)
    async with machine.running(wait) as engine:
        assert await engine.run(wait, "a") == "first"
        assert await engine.run(wait, "a") == "second"
        third = await engine.start(wait, "a", run_id="third")
        await until(third, RunStatus.WAITING)
        await settle()
        assert await engine.notify("a", "third") == Notified(run_ids=("third",))


async def test_an_event_wakes_a_run_that_had_waited_in_an_earlier_life(machine: Machine) -> None:
    async with machine.crashing(wait) as engine:
        await until(await engine.start(wait, "a", run_id="r"), RunStatus.WAITING)
    async with machine.running(wait) as engine:
        assert await engine.notify("a", 5) == Notified(run_ids=("r",))
        assert await (await engine.get("r")).result() == 5


async def test_an_acknowledged_event_survives_a_crash_of_the_very_next_moment(machine: Machine) -> None:
    async with machine.crashing(wait) as engine:
        await until(await engine.start(wait, "a", run_id="r"), RunStatus.WAITING)
        await engine.notify("a", 5)
    async with machine.running(wait) as engine:
        assert await (await engine.get("r")).result() == 5


async def test_a_run_takes_one_event_for_each_wait_in_order(machine: Machine) -> None:
    async with machine.running(wait_thrice) as engine:
        run = await engine.start(wait_thrice, "a")
        await until(run, RunStatus.WAITING)
        for number in range(3):
            await engine.notify("a", number)
        assert await run.result() == [0, 1, 2]


async def test_with_a_run_id_it_goes_to_that_runs_own_mailbox_in_order(machine: Machine) -> None:
    async with machine.crashing(wait, wait_thrice) as engine:
        await engine.start(wait_thrice, "a", run_id="mine", delay="1h")
        for number in range(3):
            assert await engine.notify("a", number, run_id="mine") == Notified(kept=True)
        other = await engine.start(wait, "a", run_id="other")
        await until(other, RunStatus.WAITING)
        await settle()
        assert await other.status() is RunStatus.WAITING
    async with machine.running(wait, wait_thrice) as engine:
        stranger = await engine.start(wait_thrice, "a", run_id="stranger")
        await until(stranger, RunStatus.WAITING)
        assert await engine.notify("a", "x", run_id="stranger") == Notified(run_ids=("stranger",))


async def test_mail_of_a_run_is_taken_in_order_after_a_crash(machine: Machine) -> None:
    clock = ManualClock()
    async with machine.crashing(wait_thrice, clock=clock) as engine:
        await engine.start(wait_thrice, "a", run_id="mine", delay="1h")
        for number in range(3):
            await engine.notify("a", number, run_id="mine")
    clock.advance(3600)
    async with machine.running(wait_thrice, clock=clock) as engine:
        assert await (await engine.get("mine")).result() == [0, 1, 2]


async def test_mail_to_no_run_and_to_a_run_that_is_over_is_refused(memory_machine: Machine) -> None:
    async with memory_machine.running(wait) as engine:
        with pytest.raises(RunNotFoundError, match="no run 'nobody'"):
            await engine.notify("a", run_id="nobody")
        run = await engine.start(wait, "a", run_id="r")
        await engine.notify("a", 1)
        await run.result()
        with pytest.raises(RunEndedError, match="'r' is over"):
            await engine.notify("a", run_id="r")


async def test_a_kept_event_expires(machine: Machine) -> None:
    clock = ManualClock()
    async with machine.running(wait, clock=clock, keep_events="1h") as engine:
        await engine.notify("a", "old")
        clock.advance(3599)
        await engine.notify("a", "new")
        clock.advance(2)
        assert await engine.run(wait, "a") == "new"


async def test_how_many_events_are_kept_is_bounded(memory_machine: Machine) -> None:
    clock = ManualClock()
    async with memory_machine.running(wait, clock=clock, max_kept_events=3, keep_events="1h") as engine:
        for number in range(3):
            await engine.notify("a", number)
        with pytest.raises(EventsFullError, match="3 events are kept"):
            await engine.notify("b")
        assert await engine.run(wait, "a") == 0
        await engine.notify("b", "has room")
        clock.advance(3700)
        await settle()
        await engine.notify("b", "has room, since the others expired")


async def test_the_bound_holds_across_a_restart(machine: Machine) -> None:
    async with machine.crashing(wait, max_kept_events=2) as engine:
        await engine.notify("a")
        await engine.notify("a")
    async with machine.running(wait, max_kept_events=2) as engine:
        await settle()
        with pytest.raises(EventsFullError):
            await engine.notify("a")


async def test_a_wait_past_its_timeout_raises_wait_timeout_error(machine: Machine) -> None:
    clock = ManualClock()
    assert issubclass(WaitTimeoutError, TimeoutError)
    async with machine.running(wait_shortly, clock=clock) as engine:
        run = await engine.start(wait_shortly, "a", run_id="r")
        await until(run, RunStatus.WAITING)
        clock.advance(10)
        assert await run.result() == "wait 'wait' got no event 'a' within 10 s"
        assert keys(await run.history()) == [("timer_fired", "wait", 1)]


async def test_a_timeout_that_passed_while_the_engine_was_down_fires_at_the_start(machine: Machine) -> None:
    clock = ManualClock()
    async with machine.crashing(wait_shortly, clock=clock) as engine:
        await until(await engine.start(wait_shortly, "a", run_id="r"), RunStatus.WAITING)
    clock.advance(11)
    async with machine.running(wait_shortly, clock=clock) as engine:
        assert "within 10 s" in await (await engine.get("r")).result()


async def test_of_an_event_and_a_timeout_at_the_same_moment_exactly_one_wins_and_the_event_is_not_lost(
    machine: Machine,
) -> None:
    clock = ManualClock()
    async with machine.running(wait, wait_shortly, clock=clock) as engine:
        for number in range(20):
            run = await engine.start(wait_shortly, "a", run_id=f"r{number}")
            await until(run, RunStatus.WAITING)

            async def send(data: str = f"data {number}") -> Notified:
                return await engine.notify("a", data)

            sending = asyncio.create_task(send())
            for _ in range(number % 7):
                await asyncio.sleep(0)
            clock.advance(10)
            result, notified = await run.result(), await sending
            if notified.run_ids:
                assert result == f"data {number}"
            else:
                assert "within 10 s" in result
                assert await engine.run(wait, "a") == f"data {number}"
            assert len(await run.history()) == 1


async def test_a_wait_that_the_body_gave_up_takes_no_event(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> list[object]:
        first = asyncio.ensure_future(ctx.wait_for_event("first", "a"))
        await ctx.wait_for_event("ready", "ready")
        first.cancel()
        await asyncio.wait([first])
        await ctx.wait_for_event("go", "go")
        return [await ctx.wait_for_event("second", "a")]

    async with memory_machine.running(main) as engine:
        run = await engine.start(main, run_id="r")
        await until(run, RunStatus.WAITING)
        await engine.notify("ready")
        await until(run, RunStatus.WAITING)
        assert (await engine.notify("a", "kept")).kept
        await engine.notify("go")
        assert await run.result() == ["kept"]


async def test_two_waits_of_one_run_for_one_event_take_one_each(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> list[object]:
        return list(await asyncio.gather(*(ctx.wait_for_event("wait", "a") for _ in range(3))))

    async with memory_machine.running(main) as engine:
        run = await engine.start(main)
        await until(run, RunStatus.WAITING)
        for number in range(3):
            assert (await engine.notify("a", number)).run_ids == (run.id,)
        assert await run.result() == [0, 1, 2]


async def test_events_sent_at_the_same_time_are_each_taken_once(machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, count: int) -> list[int]:
        return [await ctx.wait_for_event("wait", "a", type=int) for _ in range(count)]

    async with machine.running(main, max_resident_runs=0) as engine:
        run = await engine.start(main, 30)
        await asyncio.gather(*(engine.notify("a", number) for number in range(30)))
        assert sorted(await run.result()) == list(range(30))


async def test_a_body_may_notify_and_that_is_a_step(machine: Machine) -> None:
    @workflow
    async def tell(ctx: Context, payload: None) -> list[Notified]:
        sent = [await ctx.notify("tell", "a", {"n": number}) for number in range(2)]
        await ctx.wait_for_event("go", "go")
        return sent

    async with machine.crashing(tell, wait) as engine:
        waiting = await engine.start(wait, "a", run_id="w")
        await until(waiting, RunStatus.WAITING)
        run = await engine.start(tell, run_id="t")
        await until(run, RunStatus.WAITING)
    async with machine.running(tell, wait) as engine:
        await engine.notify("go")
        run = await engine.get("t")
        assert await run.result() == [Notified(run_ids=("w",)), Notified(kept=True)]
        assert keys(await run.history())[:2] == [("step_done", "tell", 1), ("step_done", "tell", 2)]
        assert await (await engine.get("w")).result() == {"n": 0}
        (arrived,) = await (await engine.get("w")).history()
        assert isinstance(arrived, EventArrived)
        assert arrived.source == "t:tell:1"


async def test_two_runs_may_talk_to_each_other(machine: Machine) -> None:
    @workflow
    async def ping(ctx: Context, rounds: int) -> int:
        for number in range(rounds):
            await ctx.notify("serve", "pong", number)
            assert await ctx.wait_for_event("return", "ping", type=int) == number
        return rounds

    @workflow
    async def pong(ctx: Context, rounds: int) -> int:
        for _ in range(rounds):
            await ctx.notify("return", "ping", await ctx.wait_for_event("serve", "pong", type=int))
        return rounds

    async with machine.running(ping, pong, max_resident_runs=0) as engine:
        runs = [await engine.start(ping, 10), await engine.start(pong, 10)]
        assert [await run.result() for run in runs] == [10, 10]


async def test_an_event_id_is_a_printable_text_of_bounded_length(memory_machine: Machine) -> None:
    async with memory_machine.running(wait) as engine:
        for wrong in ("", "x" * 401, "a\nb"):
            with pytest.raises(ConfigurationError, match="must be a printable text"):
                await engine.notify(wrong)


async def test_notify_takes_data_that_is_sent_by_its_structure(memory_machine: Machine) -> None:
    async with memory_machine.running(wait) as engine:
        await engine.notify("a", {"set": {1}, "tuple": (1, 2)})
        assert await engine.run(wait, "a") == {"set": [1], "tuple": [1, 2]}


async def test_a_sender_that_is_cancelled_leaves_the_event_whole_or_unsent(machine: Machine) -> None:
    async def sent(engine: Engine, event_id: str) -> None:
        await engine.notify(event_id, "x")

    async with machine.running(wait) as engine:
        for turns in range(12):
            run = await engine.start(wait, f"a{turns}", run_id=f"r{turns}")
            await until(run, RunStatus.WAITING)
            await settle(5)
            sending = asyncio.create_task(sent(engine, f"a{turns}"))
            for _ in range(turns):
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait([sending])
            await settle()
            if not (await run.status()).is_final:
                # Of its own, so that no other turn takes it where this one had got the first.
                await engine.notify(f"a{turns}", "y")
            assert await run.result() in {"x", "y"}
            assert kinds(await run.history()) == ["event_arrived"]
