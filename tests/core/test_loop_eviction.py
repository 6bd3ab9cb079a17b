"""Does a body leave memory without an exit, without noise, and without a trace?"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from core.loop_driving import begin, private_loop

from boxflow import loop as loop_module
from boxflow.loop import Evicted, WorkflowLoop


@pytest.fixture(autouse=True)
def no_noise(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """Nothing is logged and no finalizer complains; a test that expects a word clears the log."""
    complaints: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: complaints.append(repr(what.exc_value)))
    yield
    gc.collect()
    assert complaints == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def forever() -> asyncio.Future[Any]:
    return private_loop().create_future()


async def wait_forever() -> None:
    await forever()


async def in_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(wait_forever())
        group.create_task(wait_forever())
        await forever()


async def in_finished_part_of_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(wait_forever())


async def in_timeout() -> None:
    async with asyncio.timeout(60):
        await forever()


async def in_wait_for() -> None:
    await asyncio.wait_for(wait_forever(), 60)


async def in_gather() -> None:
    await asyncio.gather(wait_forever(), wait_forever())


async def in_wait() -> None:
    await asyncio.wait([asyncio.create_task(wait_forever())])


async def in_shield() -> None:
    await asyncio.shield(wait_forever())


async def in_anyio_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(wait_forever)
        group.start_soon(in_anyio_scope)
        await forever()


async def in_finished_part_of_anyio_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(wait_forever)


async def in_anyio_scope() -> None:
    with anyio.fail_after(60), anyio.CancelScope(shield=True):
        await forever()


async def in_cancelled_anyio_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(in_anyio_scope)
        await anyio.sleep(0)
        group.cancel_scope.cancel()


async def in_lock() -> None:
    lock = asyncio.Lock()
    async with lock, lock:
        pass


async def in_queue() -> None:
    await asyncio.Queue[int]().get()


async def in_condition() -> None:
    condition = asyncio.Condition()
    async with condition:
        await condition.wait()


async def in_semaphore() -> None:
    semaphore = asyncio.Semaphore(0)
    async with semaphore:
        pass


async def in_stack() -> None:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(wait_forever)
        await stack.enter_async_context(waiting_context())
        await forever()


@asynccontextmanager
async def waiting_context() -> AsyncIterator[None]:
    try:
        yield
    finally:
        await forever()


async def in_generator() -> None:
    async for _ in slow_numbers():
        pass


async def slow_numbers() -> AsyncIterator[int]:
    try:
        yield 1
        await forever()
    finally:
        await forever()


async def in_sleep() -> None:
    await asyncio.sleep(3600)


async def after_a_failure_that_nobody_has_looked_at() -> None:
    async def fail() -> None:
        raise LookupError("unseen")

    failed = asyncio.create_task(fail())
    await forever()
    await failed


async def with_a_task_that_never_started() -> None:
    stranger = asyncio.create_task(wait_forever())
    stranger.add_done_callback(print)
    raise KeyboardInterrupt


BODIES = [
    wait_forever,
    in_task_group,
    in_finished_part_of_task_group,
    in_timeout,
    in_wait_for,
    in_gather,
    in_wait,
    in_shield,
    in_anyio_group,
    in_finished_part_of_anyio_group,
    in_anyio_scope,
    in_cancelled_anyio_group,
    in_lock,
    in_queue,
    in_condition,
    in_semaphore,
    in_stack,
    in_generator,
    in_sleep,
    after_a_failure_that_nobody_has_looked_at,
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_a_body_leaves_without_noise_and_nothing_of_it_stays(body: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        try:
            await body()
        except Exception as error:
            seen.append(repr(error))
        finally:
            seen.append("finally")

    seen: list[str] = []
    loop, task = begin(whole())
    assert not task.done()
    loop.evict()
    assert loop.is_closed()
    assert loop.evicting
    assert loop.tasks() == []
    assert loop.next_due() is None
    assert seen == ["finally"]
    gone = weakref.ref(loop)
    coroutine = task.get_coro()
    assert coroutine.cr_frame is None
    del loop, task
    gc.collect()
    assert gone() is None


def test_it_is_thrown_as_the_signal_that_was_given() -> None:
    class Leaving(BaseException):
        pass

    async def body() -> None:
        try:
            await forever()
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    seen: list[str] = []
    loop, _ = begin(body())
    loop.evict(Leaving)
    assert seen == ["Leaving"]


def test_except_exception_does_not_see_it() -> None:
    assert not issubclass(Evicted, Exception)
    assert not issubclass(Evicted, asyncio.CancelledError)


def test_tasks_go_the_newest_first_each_as_itself_in_its_own_context() -> None:
    colour = contextvars.ContextVar[str]("colour")

    async def child(name: str) -> None:
        colour.set(name)
        try:
            await forever()
        finally:
            current = asyncio.current_task()
            assert current is not None
            seen.append((current.get_name(), colour.get(), asyncio.get_running_loop() is loop))

    async def body() -> None:
        tasks = [asyncio.create_task(child(name), name=name) for name in "abc"]
        await asyncio.gather(*tasks)

    seen: list[tuple[str, str, bool]] = []
    loop, _ = begin(body())
    loop.evict()
    assert seen == [("c", "c", True), ("b", "b", True), ("a", "a", True)]
    assert asyncio._get_running_loop() is None


def test_clean_up_that_awaits_is_not_waited_for() -> None:
    async def body() -> None:
        try:
            await forever()
        finally:
            seen.append(private_loop().evicting)
            try:
                await forever()
            finally:
                await asyncio.sleep(1)
                seen.append("never")

    seen: list[object] = []
    loop, _ = begin(body())
    assert not loop.evicting
    loop.evict()
    assert seen == [True]


def test_tasks_that_clean_up_makes_never_begin() -> None:
    async def clean_up() -> None:
        seen.append("begun")

    async def body() -> None:
        try:
            await forever()
        finally:
            async with asyncio.TaskGroup() as group:
                group.create_task(clean_up())
                await asyncio.gather(clean_up(), clean_up())

    seen: list[str] = []
    loop, _ = begin(body())
    loop.evict()
    assert seen == []
    assert loop.tasks() == []


def test_a_task_that_never_started_is_thrown_away_unrun() -> None:
    loop = WorkflowLoop(now=0.0)
    task = loop.create_task(with_a_task_that_never_started())
    with pytest.raises(KeyboardInterrupt):
        loop.drain()
    assert len(loop.tasks()) == 1
    loop.evict()
    assert task.done()
    assert loop.tasks() == []


def test_what_reaches_a_loop_that_was_evicted_does_nothing() -> None:
    loop, task = begin(wait_forever())
    waiter = loop.create_future()
    waiter.add_done_callback(print)
    loop.evict()
    loop.evict()
    waiter.set_result(None)
    assert loop.call_soon(print).cancelled()
    assert loop.call_later(1, print).cancelled()
    assert loop.call_soon_threadsafe(print).cancelled()
    loop.set_time(99.0)
    loop.drain()
    task.cancel()
    coroutine = wait_forever()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.create_task(coroutine)
    assert coroutine.cr_frame is None
    assert loop.violation is None


def test_a_body_that_swallows_everything_is_dropped_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def stubborn() -> None:
        while True:
            try:
                await forever()
            except BaseException:
                rounds.append(None)

    rounds: list[None] = []
    monkeypatch.setattr(loop_module, "_ignoring", [])
    loop, _ = begin(stubborn())
    with caplog.at_level(logging.WARNING, logger="boxflow"):
        loop.evict()
    assert "task 'body' swallowed its eviction 100 times" in caplog.text
    caplog.clear()
    count = len(rounds)
    assert count == loop_module.EVICTION_ROUNDS + 1
    del loop
    gc.collect()
    # It is not finalized, which would go on with it.
    assert len(rounds) == count
    loop_module._ignoring.clear()
    gc.collect()
    assert len(rounds) == count


def test_a_keyboard_interrupt_in_clean_up_comes_out_after_all_others_have_left() -> None:
    async def interrupted() -> None:
        try:
            await forever()
        finally:
            raise KeyboardInterrupt

    async def body() -> None:
        task = asyncio.create_task(interrupted())
        try:
            await forever()
        finally:
            seen.append("body left")
            task.cancel()

    seen: list[str] = []
    loop, _ = begin(body())
    with pytest.raises(KeyboardInterrupt):
        loop.evict()
    assert seen == ["body left"]
    assert loop.is_closed()


def test_a_running_body_is_not_evicted() -> None:
    async def body() -> None:
        private_loop().evict()

    _, task = begin(body())
    assert "evict it when the body waits" in str(task.exception())


def test_a_body_that_is_done_is_evicted_like_any_other() -> None:
    async def body() -> None:
        raise LookupError("unseen")

    loop, task = begin(body())
    loop.evict()
    assert task.done()
