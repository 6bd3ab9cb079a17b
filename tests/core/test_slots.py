"""No more steps run at once than there are slots, those that wait come in their order, and no slot is ever lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from boxflow.steps import Slots


async def use(slots: Slots, hold: asyncio.Event, came: list[int], number: int) -> None:
    if not slots.take():
        await slots.wait()
    try:
        came.append(number)
        await hold.wait()
    finally:
        slots.give()


async def test_those_that_wait_come_in_their_order() -> None:
    slots, hold, came = Slots(2), asyncio.Event(), list[int]()
    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(use(slots, hold, came, number))
        await asyncio.sleep(0)
        assert came == [0, 1]
        hold.set()
    assert came == list(range(6))


async def test_a_slot_that_comes_together_with_a_cancel_goes_to_the_next() -> None:
    slots, hold, came = Slots(1), asyncio.Event(), list[int]()
    assert slots.take()
    first, second = (asyncio.create_task(use(slots, hold, came, number)) for number in (1, 2))
    await asyncio.sleep(0)
    hold.set()
    slots.give()
    first.cancel()  # The slot is its own already, and it has not run yet.
    await second
    assert came == [2]
    with pytest.raises(asyncio.CancelledError):
        await first
    assert slots.take() and not slots.take()


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_is_cancelled_no_slot_is_lost_and_none_is_made(seed: int) -> None:
    chance, slots, running = random.Random(seed), Slots(3), 0

    async def work() -> None:
        nonlocal running
        if not slots.take():
            await slots.wait()
        try:
            running += 1
            assert running <= 3
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            running -= 1
            slots.give()

    tasks = list[asyncio.Task[None]]()
    for _ in range(200):
        tasks.append(asyncio.create_task(work()))
        if chance.random() < 0.4:
            chance.choice(tasks).cancel()
        if chance.random() < 0.4:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [slots.take() for _ in range(4)] == [True, True, True, False]
