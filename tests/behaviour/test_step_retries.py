"""Retries back off, are visible in the history, and survive a crash with attempt count and next time."""

from __future__ import annotations

import pytest
from behaviour.manual_clock import ManualClock
from behaviour.support import Machine, eventually, kinds, settle, until_recorded

from boxflow import (
    Context,
    NonRetryableError,
    Retry,
    RetryAfterError,
    RunFailedError,
    StepFailedError,
    step,
    workflow,
)
from boxflow.model import StepDone, StepFailed, StepRetrying


async def test_pauses_grow_and_stand_in_the_history(memory_machine: Machine) -> None:
    clock = ManualClock()
    attempts: list[float] = []

    async def flaky() -> str:
        attempts.append(clock.now())
        if len(attempts) < 4:
            raise OSError(f"attempt {len(attempts)}")
        return "done"

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        return await ctx.run("flaky", flaky, retry=Retry(attempts=4, delay=10, factor=3, max_delay=60, jitter=0))

    async with memory_machine.running(main, clock=clock) as engine:
        begin = clock.now()
        run = await engine.start(main)
        for pause, number in ((10, 1), (30, 2), (60, 3)):
            await until_recorded(run, "step_retrying", number)
            clock.advance(pause - 1)
            await settle()
            assert len(attempts) == number
            clock.advance(1)
        assert await run.result() == "done"
        history = await run.history()
    assert [attempt - begin for attempt in attempts] == [0, 10, 40, 100]
    assert kinds(history) == ["step_retrying"] * 3 + ["step_done"]
    retrying = [outcome for outcome in history if isinstance(outcome, StepRetrying)]
    assert [(one.attempt, one.next_at - begin, str(one.error)) for one in retrying] == [
        (1, 10, "OSError: attempt 1"),
        (2, 40, "OSError: attempt 2"),
        (3, 100, "OSError: attempt 3"),
    ]
    assert isinstance(history[-1], StepDone)
    assert history[-1].attempt == 4


async def test_attempt_count_and_next_time_survive_a_crash(machine: Machine) -> None:
    clock = ManualClock()
    attempts: list[tuple[int, float]] = []

    async def flaky() -> str:
        attempts.append((step().attempt, clock.now()))
        if len(attempts) < 3:
            raise OSError("no")
        return "done"

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        return await ctx.run("flaky", flaky, retry=Retry(attempts=3, delay=100, factor=2, jitter=0, max_delay="1h"))

    begin = clock.now()
    async with machine.crashing(main, clock=clock) as engine:
        run = await engine.start(main, run_id="r")
        await until_recorded(run, "step_retrying")
    clock.advance(40)
    async with machine.crashing(main, clock=clock) as engine:
        run = await engine.get("r")
        clock.advance(59)
        await settle(200)
        assert len(attempts) == 1
        clock.advance(1)
        await until_recorded(run, "step_retrying", 2)
    async with machine.running(main, clock=clock) as engine:
        clock.advance(200)
        assert await (await engine.get("r")).result() == "done"
    assert [(number, at - begin) for number, at in attempts] == [(1, 0), (2, 100), (3, 300)]


async def test_an_attempt_that_was_due_while_the_engine_was_down_runs_at_once(machine: Machine) -> None:
    clock = ManualClock()
    attempts: list[int] = []

    async def flaky() -> int:
        attempts.append(step().attempt)
        if len(attempts) < 2:
            raise OSError("no")
        return step().attempt

    @workflow
    async def main(ctx: Context, payload: None) -> int:
        return await ctx.run("flaky", flaky, retry=Retry(attempts=2, delay=100))

    async with machine.crashing(main, clock=clock) as engine:
        run = await engine.start(main, run_id="r")
        await until_recorded(run, "step_retrying")
    clock.advance(1000)
    async with machine.running(main, clock=clock) as engine:
        assert await (await engine.get("r")).result() == 2


@pytest.mark.parametrize("residents", [0, 1000])
async def test_a_retrying_step_does_not_hold_up_its_siblings(memory_machine: Machine, residents: int) -> None:
    clock = ManualClock()

    async def fails_once() -> int:
        if step().attempt == 1:
            raise OSError("no")
        return step().attempt

    async def quick() -> str:
        return "quick"

    @workflow
    async def main(ctx: Context, payload: None) -> list[object]:
        import asyncio

        return list(
            await asyncio.gather(
                ctx.run("slow", fails_once, retry=Retry(attempts=2, delay=50)),
                ctx.run("quick", quick),
                ctx.wait_for_event("event", "event"),
            )
        )

    async with memory_machine.running(main, clock=clock, max_resident_runs=residents) as engine:
        run = await engine.start(main)
        await until_recorded(run, "step_done")
        await engine.notify("event", "data")
        await until_recorded(run, "event_arrived")
        clock.advance(60)
        assert await run.result() == [2, "quick", "data"]


async def test_attempts_that_are_used_up_fail_the_step_with_the_last_cause(memory_machine: Machine) -> None:
    async def broken() -> None:
        raise LookupError(f"attempt {step().attempt}")

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            await ctx.run("broken", broken, retry=Retry(attempts=3, delay=0.001))
        except StepFailedError as error:
            return f"{error.attempts} {error.cause_type} {error.cause_message}"
        return "?"

    async with memory_machine.running(main) as engine:
        run = await engine.start(main)
        assert await run.result() == "3 LookupError attempt 3"
        assert kinds(await run.history()) == ["step_retrying", "step_retrying", "step_failed"]


async def test_only_the_errors_that_the_policy_names_are_retried(memory_machine: Machine) -> None:
    calls: list[str] = []

    async def broken() -> None:
        calls.append("call")
        raise KeyError("other")

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await ctx.run("broken", broken, retry=Retry(attempts=5, delay=0.001, on=(OSError, TimeoutError)))

    async with memory_machine.running(main) as engine:
        with pytest.raises(RunFailedError, match="tried once"):
            await engine.run(main)
    assert calls == ["call"]


async def test_a_non_retryable_error_fails_the_step_at_once(memory_machine: Machine) -> None:
    calls: list[str] = []

    class WrongCard(NonRetryableError):
        pass

    async def pay() -> None:
        calls.append("call")
        raise WrongCard("expired")

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await ctx.run("pay", pay, retry=Retry(attempts=5, delay=0.001))

    async with memory_machine.running(main) as engine:
        with pytest.raises(RunFailedError, match="WrongCard: expired"):
            await engine.run(main)
    assert calls == ["call"]


@pytest.mark.parametrize("retry", [None, Retry(attempts=3, delay=1000)])
async def test_retry_after_says_when_the_next_attempt_is(memory_machine: Machine, retry: Retry | None) -> None:
    clock = ManualClock()
    begin = clock.now()

    async def limited() -> int:
        if step().attempt == 1:
            raise RetryAfterError("slow down", "45s")
        return step().attempt

    @workflow
    async def main(ctx: Context, payload: None) -> int:
        return await ctx.run("limited", limited, retry=retry)

    async with memory_machine.running(main, clock=clock) as engine:
        run = await engine.start(main)
        await until_recorded(run, "step_retrying")
        (retrying,) = await run.history()
        assert isinstance(retrying, StepRetrying)
        assert retrying.next_at == begin + 45
        clock.advance(45)
        assert await run.result() == 2


async def test_retry_after_is_bounded_by_the_attempts(memory_machine: Machine) -> None:
    async def limited() -> None:
        raise RetryAfterError("slow down", 0.001)

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await ctx.run("limited", limited, retry=Retry(attempts=2))

    async with memory_machine.running(main) as engine:
        run = await engine.start(main)
        with pytest.raises(RunFailedError, match="tried 2 times"):
            await run.result()
        last = (await run.history())[-1]
        assert isinstance(last, StepFailed)
        assert last.attempt == 2


async def test_the_workflows_retry_is_the_default_of_its_steps(memory_machine: Machine) -> None:
    counts: dict[str, int] = {}

    async def broken(name: str) -> None:
        counts[name] = counts.get(name, 0) + 1
        raise OSError

    @workflow(retry=Retry(attempts=3, delay=0.001))
    async def main(ctx: Context, payload: None) -> None:
        for name, retry in (("default", None), ("own", Retry(attempts=1))):
            try:
                await ctx.run(name, broken, name, retry=retry)
            except StepFailedError:
                ctx.log.info("as expected")

    async with memory_machine.running(main) as engine:
        await engine.run(main)
    assert counts == {"default": 3, "own": 1}


async def test_a_retry_without_a_limit_goes_on_until_it_succeeds(memory_machine: Machine) -> None:
    async def flaky() -> int:
        if step().attempt < 8:
            raise OSError
        return step().attempt

    @workflow
    async def main(ctx: Context, payload: None) -> int:
        return await ctx.run("flaky", flaky, retry=Retry(attempts=None, delay=0, jitter=0))

    async with memory_machine.running(main) as engine:
        assert await engine.run(main) == 8


async def test_a_cancel_ends_the_waiting_for_the_next_attempt(memory_machine: Machine) -> None:
    clock = ManualClock()
    calls: list[int] = []

    async def broken() -> None:
        calls.append(1)
        raise OSError

    @workflow
    async def main(ctx: Context, payload: None) -> None:
        await ctx.run("broken", broken, retry=Retry(attempts=5, delay=100))

    async with memory_machine.running(main, clock=clock) as engine:
        run = await engine.start(main)
        await until_recorded(run, "step_retrying")
        await run.cancel()

        async def over() -> bool:
            return (await run.status()).is_final

        await eventually(over)
        clock.advance(1000)
        await settle()
        assert kinds(await run.history()) == ["step_retrying", "cancel_asked"]
    assert calls == [1]
