"""Are the private loop's timers those of the journal?"""

from __future__ import annotations

import asyncio
import math

import pytest
from core.loop_driving import begin, deliver, fire_all, fire_next, private_loop

from boxflow.loop import WorkflowLoop


def test_time_is_what_was_set_and_never_goes_back() -> None:
    loop = WorkflowLoop(now=1000.0)
    assert loop.time() == 1000.0
    loop.set_time(1500.0)
    loop.set_time(1200.0)
    assert loop.time() == 1500.0


def test_a_sleep_is_a_timer_that_somebody_fires() -> None:
    async def body() -> float:
        await asyncio.sleep(30)
        return private_loop().time()

    loop, task = begin(body(), now=1000.0)
    assert loop.next_due() == 1030.0
    assert not task.done()
    assert loop.fire(1030.0, 1031.5) == 1
    loop.drain()
    assert task.result() == 1031.5
    assert loop.next_due() is None


def test_timers_fire_by_instant_then_in_the_order_in_which_they_were_made() -> None:
    seen: list[str] = []

    async def body() -> None:
        loop = private_loop()
        for name, delay in [("b", 2.0), ("a", 1.0), ("c", 2.0), ("d", 1.0)]:
            loop.call_later(delay, seen.append, name)

    loop, _ = begin(body())
    assert loop.fire(1001.0, 1001.0) == 2
    loop.drain()
    assert seen == ["a", "d"]
    fire_all(loop)
    assert seen == ["a", "d", "b", "c"]


def test_firing_late_fires_only_what_was_due_then() -> None:
    async def body() -> None:
        await asyncio.gather(asyncio.sleep(1), asyncio.sleep(2))

    loop, _ = begin(body())
    assert loop.fire(1001.0, 1005.0) == 1
    assert loop.time() == 1005.0
    assert loop.next_due() == 1002.0


def test_what_is_due_already_needs_no_timer() -> None:
    async def body() -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.sleep(5)
        await asyncio.sleep(0)
        await asyncio.sleep(-1)
        private_loop().call_later(0, seen.append, "later")
        private_loop().call_at(1.0, seen.append, "at")
        await asyncio.sleep(0)
        return "done"

    seen: list[str] = []
    loop, task = begin(body())
    assert task.result() == "done"
    assert seen == ["later", "at"]
    assert loop.next_due() is None


def test_a_named_timer_tells_its_name_and_a_plain_one_has_none() -> None:
    loop = WorkflowLoop(now=0.0)
    loop.call_at_named(7.0, ("nap", 1), print)
    assert loop.due_name() == ("nap", 1)
    plain = loop.call_at(5.0, print)
    assert loop.due_name() is None
    plain.cancel()
    assert loop.due_name() == ("nap", 1)


def test_a_cancelled_timer_is_never_due() -> None:
    async def body() -> None:
        async with asyncio.timeout(10):
            await asyncio.sleep(3)

    loop, task = begin(body())
    assert fire_next(loop) == 1003.0
    assert task.done()
    assert loop.next_due() is None


def test_a_timer_cancelled_between_its_firing_and_its_turn_does_not_run() -> None:
    seen: list[str] = []
    loop = WorkflowLoop(now=0.0)
    loop.call_at(1.0, lambda: second.cancel())
    second = loop.call_at(1.0, seen.append, "second")
    loop.fire(1.0, 1.0)
    loop.drain()
    assert seen == []
    assert second.cancelled()


def test_thousands_of_cancelled_timers_are_not_kept() -> None:
    async def body() -> None:
        gate: asyncio.Queue[int] = asyncio.Queue()
        for number in range(5_000):
            gate.put_nowait(number)
            async with asyncio.timeout(3600):
                await gate.get()
        await private_loop().create_future()

    loop, _ = begin(body())
    assert loop.next_due() is None
    assert len(loop._timers) < 100


def test_an_endless_sleep_is_never_due() -> None:
    loop, task = begin(asyncio.sleep(math.inf))
    assert loop.next_due() is None
    loop.set_time(loop.time())
    task.cancel()
    loop.drain()
    assert task.cancelled()


def test_a_timer_at_no_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="a timer needs an instant; got nan"):
        WorkflowLoop(now=0.0).call_later(math.nan, print)


def test_a_timer_knows_its_instant() -> None:
    loop = WorkflowLoop(now=0.0)
    timer = loop.call_later(2.5, print)
    assert timer.when() == 2.5
    assert not timer.cancelled()
    assert "at 2.5" in repr(timer)
    timer.cancel()
    assert repr(timer) == "<WorkflowTimer at 2.5 cancelled>"


def test_a_timeout_that_loses_against_an_outcome_changes_nothing() -> None:
    async def body() -> object:
        async with asyncio.timeout(60):
            return await answer

    loop = WorkflowLoop(now=0.0)
    answer = loop.create_future()
    _, task = begin(body(), loop=loop)
    deliver(answer, "in time")
    assert task.result() == "in time"
    assert loop.next_due() is None
