"""Do anyio's task groups and cancel scopes come to rest, and replay, on the private loop?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from core.loop_driving import begin, deliver, fire_all, private_loop

from boxflow.loop import WorkflowLoop


def test_a_cancelled_group_with_a_shielded_child_rests_until_its_outcome_comes() -> None:
    async def shielded(step: asyncio.Future[Any]) -> None:
        with anyio.CancelScope(shield=True):
            seen.append(await step)
        seen.append("child left the shield")
        await anyio.sleep(0)
        seen.append("never")

    async def body() -> str:
        async with anyio.create_task_group() as group:
            group.start_soon(shielded, step)
            await anyio.sleep(0)
            group.cancel_scope.cancel()
        return "ended"

    seen: list[object] = []
    loop = WorkflowLoop(now=0.0)
    step = loop.create_future()
    _, task = begin(body(), loop=loop)
    assert not task.done()
    assert len(loop._ready) == 0
    deliver(step, "cleaned up")
    assert task.result() == "ended"
    assert seen == ["cleaned up", "child left the shield"]


def test_outcomes_for_others_do_not_wake_the_cancelled_group() -> None:
    async def shielded(step: asyncio.Future[Any]) -> None:
        with anyio.CancelScope(shield=True):
            await step

    async def cancelled() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(shielded, step)
            group.cancel_scope.cancel()

    async def other() -> None:
        for future in others:
            await future

    async def body() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(cancelled)
            group.start_soon(other)

    loop = WorkflowLoop(now=0.0)
    step, *others = (loop.create_future() for _ in range(4))
    _, task = begin(body(), loop=loop)
    for future in others:
        deliver(future)
        assert not task.done()
    deliver(step)
    assert task.done()
    assert task.exception() is None


def test_a_child_that_swallows_a_cancellation_is_cancelled_again_at_its_next_await() -> None:
    async def stubborn() -> None:
        for _ in range(3):
            try:
                await private_loop().create_future()
            except asyncio.CancelledError:
                seen.append("cancelled")
        await anyio.sleep(0)

    async def body() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(stubborn)
            await anyio.sleep(0)
            group.cancel_scope.cancel()

    seen: list[str] = []
    _, task = begin(body())
    task.result()
    assert seen == ["cancelled"] * 3


def test_a_child_that_only_yields_is_cancelled_too() -> None:
    async def busy() -> None:
        while True:
            await anyio.sleep(0)

    async def body() -> str:
        async with anyio.create_task_group() as group:
            group.start_soon(busy)
            await anyio.sleep(0)
            group.cancel_scope.cancel()
        return "ended"

    assert begin(body())[1].result() == "ended"


def test_two_cancelled_groups_with_shielded_children_both_rest() -> None:
    async def shielded(step: asyncio.Future[Any]) -> None:
        with anyio.CancelScope(shield=True):
            await step

    async def group_of(step: asyncio.Future[Any]) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(shielded, step)
            group.cancel_scope.cancel()

    async def body() -> str:
        async with anyio.create_task_group() as group:
            for step in steps:
                group.start_soon(group_of, step)
        return "ended"

    loop = WorkflowLoop(now=0.0)
    steps = [loop.create_future() for _ in range(3)]
    _, task = begin(body(), loop=loop)
    for step in steps:
        assert not task.done()
        deliver(step)
    assert task.result() == "ended"


def test_native_cancellation_reaches_a_group_that_rests() -> None:
    async def shielded(step: asyncio.Future[Any]) -> None:
        with anyio.CancelScope(shield=True):
            await step

    async def body() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(shielded, step)
            group.cancel_scope.cancel()

    loop = WorkflowLoop(now=0.0)
    step = loop.create_future()
    _, task = begin(body(), loop=loop)
    loop.set_time(1.0)
    task.cancel()
    loop.drain()
    deliver(step)
    assert task.cancelled()


def test_a_deadline_is_a_timer() -> None:
    async def body() -> str:
        with anyio.move_on_after(5) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            with anyio.fail_after(2):
                await anyio.Event().wait()
        return f"{anyio.current_time():g}"

    loop, task = begin(body(), now=1000.0)
    assert loop.next_due() == 1005.0
    fire_all(loop)
    assert task.result() == "1007"


def test_locks_events_streams_and_conditions_work() -> None:
    async def produce(stream: Any) -> None:
        async with stream:
            for number in range(5):
                await stream.send(number)

    async def body() -> list[int]:
        send, receive = anyio.create_memory_object_stream[int](1)
        got: list[int] = []
        lock, event, limiter = anyio.Lock(), anyio.Event(), anyio.CapacityLimiter(1)
        async with anyio.create_task_group() as group:
            group.start_soon(produce, send)
            async with receive:
                async for number in receive:
                    async with lock, limiter:
                        got.append(number)
            event.set()
            await event.wait()
        return got

    assert begin(body())[1].result() == [0, 1, 2, 3, 4]


def test_a_child_can_tell_that_it_has_started() -> None:
    async def service(*, task_status: anyio.abc.TaskStatus[str]) -> None:
        task_status.started("ready")
        await anyio.sleep(1)

    async def body() -> str:
        async with anyio.create_task_group() as group:
            return str(await group.start(service))

    loop, task = begin(body())
    fire_all(loop)
    assert task.result() == "ready"


def test_children_with_scopes_of_their_own_are_cancelled_in_the_order_of_their_creation() -> None:
    """anyio keeps child scopes in a set that hashes by memory address."""

    async def child(index: int) -> None:
        with anyio.move_on_after(100):
            try:
                await private_loop().create_future()
            finally:
                order.append(index)

    async def body() -> None:
        async with anyio.create_task_group() as group:
            for index in range(12):
                group.start_soon(child, index)
            await anyio.sleep(0)
            group.cancel_scope.cancel()

    order: list[int] = []
    keep: list[object] = []
    for round_ in range(20):
        keep.append([bytearray(64 + 16 * number) for number in range(round_ * 3)])
        order.clear()
        begin(body())[1].result()
        assert order == list(range(12))


def test_a_child_that_waits_for_several_keeps_their_order_when_it_is_cancelled() -> None:
    async def leaf(index: int) -> None:
        try:
            await private_loop().create_future()
        finally:
            order.append(index)

    async def child(first: int) -> None:
        with anyio.CancelScope():
            await asyncio.gather(leaf(first), leaf(first + 1))

    async def body() -> None:
        async with anyio.create_task_group() as group:
            for index in range(0, 12, 2):
                group.start_soon(child, index)
            for _ in range(3):
                await anyio.sleep(0)
            group.cancel_scope.cancel()

    order: list[int] = []
    keep: list[object] = []
    for round_ in range(20):
        keep.append([bytearray(48 + 16 * number) for number in range(round_ * 5)])
        order.clear()
        begin(body())[1].result()
        assert order == list(range(12))


def test_what_runs_in_the_body_knows_that_it_is_asyncio() -> None:
    async def body() -> tuple[str, str]:
        return anyio.get_current_task().name or "", type(anyio.get_running_tasks()).__name__

    assert begin(body())[1].result()[0] == "body"


async def gathered() -> None:
    await asyncio.gather(anyio.sleep(1), anyio.sleep(2))


async def grouped() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 1)
        group.start_soon(anyio.sleep, 2)


async def mixed() -> None:
    async with asyncio.TaskGroup() as group, anyio.create_task_group() as other:
        group.create_task(anyio.sleep(1))
        other.start_soon(asyncio.sleep, 2)


@pytest.mark.parametrize("body", [gathered, grouped, mixed])
def test_asyncio_and_anyio_mix(body: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> float:
        await body()
        return private_loop().time()

    loop, task = begin(whole(), now=0.0)
    fire_all(loop)
    assert task.result() == 2.0
