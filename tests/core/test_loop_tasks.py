"""Are the private loop's tasks and futures the same whenever the same code runs again?"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import random
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import coroutine
from typing import Any

import pytest
from core.loop_driving import begin, deliver, fire_all, private_loop

from boxflow.errors import NotDurableError
from boxflow.loop import WorkflowLoop

COLOUR = contextvars.ContextVar("COLOUR", default="none")


async def wait_for(future: asyncio.Future[Any]) -> Any:
    return await future


def test_tasks_are_named_by_their_number_in_this_loop() -> None:
    async def body() -> list[str]:
        tasks = [asyncio.create_task(asyncio.sleep(0)) for _ in range(3)]
        return [task.get_name() for task in tasks]

    for _ in range(2):
        _, task = begin(body())
        assert task.result() == ["Task-2", "Task-3", "Task-4"]


def test_sets_of_tasks_iterate_in_the_order_of_their_creation() -> None:
    async def body() -> tuple[list[str], list[str]]:
        tasks = [asyncio.create_task(asyncio.sleep(index % 2)) for index in range(20)]
        done, pending = await asyncio.wait(set(tasks), return_when=asyncio.FIRST_COMPLETED)
        return [task.get_name() for task in done], [task.get_name() for task in pending]

    orders = set[tuple[tuple[str, ...], tuple[str, ...]]]()
    for _ in range(20):
        garbage = [object() for _ in range(7)]
        _, task = begin(body())
        done, pending = task.result()
        orders.add((tuple(done), tuple(pending)))
        del garbage
    assert len(orders) == 1


def test_sets_of_futures_iterate_in_the_order_of_their_creation() -> None:
    loop = WorkflowLoop(now=0.0)
    futures = [loop.create_future() for _ in range(6)]
    assert list({*futures[3:], *futures[:3]}) == list({*futures})
    assert futures[0] == futures[0]
    assert futures[0] != futures[1]


def test_tasks_of_many_loops_do_not_share_their_hashes() -> None:
    tasks = [begin(asyncio.sleep(0))[1] for _ in range(100)]
    assert len({hash(task) for task in tasks}) == 100


def test_a_task_group_cancels_its_children_in_the_order_of_their_creation() -> None:
    async def child(index: int) -> None:
        try:
            await private_loop().create_future()
        finally:
            order.append(index)

    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            for index in range(9):
                group.create_task(child(index))
            await asyncio.sleep(0)
            raise LookupError("enough")

    order: list[int] = []
    _, task = begin(body())
    assert isinstance(task.exception(), ExceptionGroup)
    assert sorted(order) == list(range(9))
    first = list(order)
    for _ in range(5):
        order.clear()
        begin(body())[1].exception()
        assert order == first


def test_a_task_never_starts_eagerly() -> None:
    async def child() -> None:
        seen.append("child")

    async def body() -> None:
        loop = private_loop()
        if sys.version_info >= (3, 12):
            loop.set_task_factory(asyncio.eager_task_factory)
        task = loop.create_task(child(), eager_start=True)
        seen.append("body")
        await task
        assert loop.get_task_factory() is None

    seen: list[str] = []
    _, task = begin(body())
    task.result()
    assert seen == ["body", "child"]


def test_a_task_factory_of_another_kind_is_refused() -> None:
    with pytest.raises(NotDurableError, match="makes its own tasks"):
        WorkflowLoop(now=0.0).set_task_factory(lambda loop, coro: asyncio.Task(coro, loop=loop))


def test_tasks_that_are_not_done_are_listed_in_the_order_of_their_creation() -> None:
    async def body() -> None:
        kept.extend(asyncio.create_task(wait_for(private_loop().create_future())) for _ in range(3))
        asyncio.create_task(asyncio.sleep(0))  # noqa: RUF006 # the loop holds it
        await private_loop().create_future()

    kept: list[asyncio.Task[Any]] = []
    loop, task = begin(body())
    assert loop.tasks() == [task, *kept]


def test_a_waiting_task_that_nobody_holds_is_not_collected() -> None:
    async def body() -> None:
        asyncio.create_task(wait_for(private_loop().create_future()), name="lonely")  # noqa: RUF006 # that is the test

    loop, _ = begin(body())
    gc.collect()
    assert [task.get_name() for task in loop.tasks()] == ["lonely"]
    loop.evict()


def test_thousands_of_finished_tasks_are_not_kept() -> None:
    async def body() -> None:
        for _ in range(2_000):
            await asyncio.create_task(asyncio.sleep(0))
        await private_loop().create_future()

    loop, _ = begin(body())
    assert len(loop._tasks) < 50


def test_a_task_runs_in_a_copy_of_the_context_that_made_it() -> None:
    async def child() -> str:
        seen = COLOUR.get()
        COLOUR.set("blue")
        return seen

    async def body() -> list[str]:
        COLOUR.set("red")
        return [await asyncio.create_task(child()), COLOUR.get()]

    _, task = begin(body())
    assert task.result() == ["red", "red"]
    assert COLOUR.get() == "none"


def test_a_task_runs_in_the_context_that_it_is_given() -> None:
    async def child() -> None:
        COLOUR.set("green")

    context = contextvars.copy_context()
    loop = WorkflowLoop(now=0.0)
    loop.create_task(child(), context=context)
    loop.drain()
    assert context[COLOUR] == "green"
    assert COLOUR.get() == "none"


def test_a_task_tells_where_it_waits() -> None:
    async def inner() -> None:
        await private_loop().create_future()

    async def body() -> None:
        await inner()

    loop, task = begin(body())
    assert "body() running at" in repr(task)
    frames = task.get_stack()
    assert [frame.f_code.co_name for frame in frames] == ["body"]
    assert task.get_coro().cr_await.__name__ == "inner"
    loop.evict()


def test_only_coroutines_become_tasks() -> None:
    with pytest.raises(TypeError, match="a coroutine was expected, got 7"):
        WorkflowLoop(now=0.0).create_task(7)


def test_a_drain_runs_until_nothing_is_ready() -> None:
    async def body() -> None:
        for _ in range(100):
            await asyncio.sleep(0)

    _, task = begin(body())
    assert task.done()


def test_a_failing_callback_goes_to_the_exception_handler_and_the_rest_runs() -> None:
    def fail() -> None:
        raise LookupError("gone")

    loop = WorkflowLoop(now=0.0)
    contexts: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    seen: list[str] = []
    loop.call_soon(fail)
    loop.call_soon(seen.append, "rest")
    loop.drain()
    assert seen == ["rest"]
    assert repr(contexts[0]["exception"]) == "LookupError('gone')"
    assert loop.get_exception_handler() is not None


def test_without_a_handler_an_uncaught_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise LookupError("gone")

    loop = WorkflowLoop(now=0.0)
    loop.call_soon(fail)
    with caplog.at_level(logging.ERROR, logger="boxflow"):
        loop.drain()
    assert "a callback failed" in caplog.text
    assert "LookupError: gone" in caplog.text


def test_a_failing_exception_handler_is_reported_too(caplog: pytest.LogCaptureFixture) -> None:
    def handler(_loop: object, _context: object) -> None:
        raise OSError("handler")

    loop = WorkflowLoop(now=0.0)
    loop.set_exception_handler(handler)
    loop.call_exception_handler({"message": "first"})
    assert "the exception handler failed" in caplog.text
    with pytest.raises(TypeError, match="callable"):
        loop.set_exception_handler(7)


def test_a_keyboard_interrupt_leaves_the_drain_and_the_next_one_goes_on() -> None:
    async def body() -> None:
        raise KeyboardInterrupt

    loop = WorkflowLoop(now=0.0)
    task = loop.create_task(body())
    seen: list[str] = []
    loop.call_soon(seen.append, "after")
    with pytest.raises(KeyboardInterrupt):
        loop.drain()
    assert asyncio._get_running_loop() is None
    assert not loop.is_running()
    assert isinstance(task.exception(), KeyboardInterrupt)
    loop.drain()
    assert seen == ["after"]


def test_a_drain_in_a_drain_is_refused() -> None:
    async def body() -> None:
        private_loop().drain()

    _, task = begin(body())
    assert "a drain is not re-entrant" in str(task.exception())


def test_a_closed_loop_takes_nothing() -> None:
    loop = WorkflowLoop(now=0.0)
    assert not loop.is_closed()
    loop.close()
    loop.close()
    assert loop.is_closed()
    assert "closed" in repr(loop)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.call_soon(print)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.call_later(1, print)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.create_task(asyncio.sleep(0))


def test_a_running_loop_is_not_closed() -> None:
    async def body() -> None:
        assert private_loop().is_running()
        private_loop().close()

    _, task = begin(body())
    assert "Cannot close a running event loop" in str(task.exception())


def test_debug_mode_can_be_turned_on() -> None:
    loop = WorkflowLoop(now=0.0)
    assert not loop.get_debug()
    loop.set_debug(True)
    assert loop.get_debug()
    assert "created at" in repr(loop.create_future())


# --- as_completed ----------------------------------------------------------------------------------------------------


async def noting(index: int, order: list[int]) -> int:
    order.append(index)
    await asyncio.sleep(100 - index)
    return index


def shuffled(order: list[int], seed: int, count: int = 12) -> list[Any]:
    """Coroutines whose memory addresses have another order than they."""
    made = [noting(index, order) for index in range(count)]
    places = list(range(count))
    random.Random(seed).shuffle(places)
    coroutines: list[Any] = [None] * count
    for place, coro in zip(places, made, strict=True):
        coroutines[place] = coro
    return coroutines


@pytest.mark.parametrize("container", [list, tuple, dict.fromkeys, deque], ids=["list", "tuple", "dict", "deque"])
def test_as_completed_starts_what_it_is_given_in_its_order(container: Callable[[list[Any]], Any]) -> None:
    async def body() -> list[int]:
        coroutines = shuffled(order, seed)
        expected.extend(coro.cr_frame.f_locals["index"] for coro in coroutines)
        return [await each for each in asyncio.as_completed(container(coroutines))]

    for seed in range(5):  # noqa: B007 # the body reads it
        order: list[int] = []
        expected: list[int] = []
        loop, task = begin(body())
        assert order == expected
        fire_all(loop)
        assert task.result() == list(reversed(range(12)))
        assert [each.get_name() for each in loop.tasks()] == []


def test_as_completed_takes_tasks_and_coroutines_mixed_and_repeated() -> None:
    async def body() -> list[int]:
        order: list[int] = []
        first = asyncio.create_task(noting(1, order))
        second, third = noting(2, order), noting(3, order)
        found = [await each for each in asyncio.as_completed([third, first, second, third], timeout=200)]
        assert order == [1, 3, 2]
        return found

    loop, task = begin(body())
    fire_all(loop)
    assert task.result() == [3, 2, 1]


@pytest.mark.parametrize("container", [iter, set])
def test_as_completed_says_so_when_the_order_is_lost(container: Callable[[list[Any]], Any]) -> None:
    async def body() -> None:
        for each in asyncio.as_completed(container(made)):
            await each

    made = [noting(index, []) for index in range(3)]
    _, task = begin(body())
    assert isinstance(task.exception(), NotDurableError)
    assert "pass a list of them" in str(task.exception())
    for coro in made:
        coro.close()


def test_as_completed_of_a_set_of_tasks_has_their_order() -> None:
    async def body() -> list[int]:
        tasks = {asyncio.create_task(noting(index, [])) for index in range(3)}
        return [await each for each in asyncio.as_completed(tasks)]

    loop, task = begin(body())
    fire_all(loop)
    assert task.result() == [2, 1, 0]


# --- asynchronous generators -----------------------------------------------------------------------------------------


async def counting(name: str, seen: list[str]) -> AsyncIterator[int]:
    try:
        yield 1
        yield 2
    finally:
        await asyncio.sleep(0)
        seen.append(name)


def test_a_generator_that_the_body_drops_is_closed_in_the_same_drain() -> None:
    async def body() -> None:
        async for _ in counting("dropped", seen):
            break
        await private_loop().create_future()

    seen: list[str] = []
    loop, _ = begin(body())
    assert seen == ["dropped"]
    loop.evict()


def test_the_collector_does_not_run_in_a_drain() -> None:
    async def body() -> bool:
        return gc.isenabled()

    assert gc.isenabled()
    _, task = begin(body())
    assert task.result() is False
    assert gc.isenabled()


def test_generators_found_by_the_collector_between_drains_are_closed_at_the_shutdown_in_order() -> None:
    async def body() -> None:
        for name in ("first", "second", "third"):
            generator = counting(name, seen)
            await anext(generator)
            holder: list[Any] = [generator]
            holder.append(holder)
            if name == "second":
                kept.append(generator)
            del generator, holder
        await gate
        await private_loop().shutdown_asyncgens()

    seen: list[str] = []
    kept: list[Any] = []
    loop = WorkflowLoop(now=0.0)
    gate = loop.create_future()
    _, task = begin(body(), loop=loop)
    gc.collect()
    assert seen == []
    deliver(gate)
    task.result()
    assert seen == ["first", "second", "third"]


def test_a_generator_that_fails_to_close_is_reported() -> None:
    async def stubborn() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise LookupError("no")

    async def body() -> None:
        generator = stubborn()
        await anext(generator)  # type: ignore[call-overload]
        await private_loop().shutdown_asyncgens()

    contexts: list[dict[str, Any]] = []
    loop = WorkflowLoop(now=0.0)
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    begin(body(), loop=loop)
    assert [repr(context["exception"]) for context in contexts] == ["LookupError('no')"]


def test_generators_of_a_dropped_run_vanish_without_a_word() -> None:
    async def body() -> None:
        generator = counting("never", seen)
        await anext(generator)
        kept.append(generator)
        await private_loop().create_future()

    seen: list[str] = []
    kept: list[Any] = []
    loop, _ = begin(body())
    loop.evict()
    kept.clear()
    gc.collect()
    assert seen == []


# --- coroutines of other kinds ---------------------------------------------------------------------------------------


def test_a_coroutine_like_object_that_is_no_native_one_runs_too() -> None:
    @coroutine
    def old_style() -> Iterator[Any]:
        yield
        value = yield from asyncio.sleep(1, "woken").__await__()
        return value

    async def body() -> Any:
        return await old_style()

    loop, task = begin(body())
    fire_all(loop)
    assert task.result() == "woken"


def test_a_result_of_many_kinds_passes_the_guard() -> None:
    async def give(value: object) -> object:
        return value

    for value in (None, (1, 2), StopIteration, [StopIteration(3)], 0):
        _, task = begin(give(value))
        assert task.result() == value


def test_an_exception_passes_the_guard_as_the_very_same_object() -> None:
    error = LookupError("mine")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise error

    _, task = begin(fail())
    assert task.exception() is error
    with pytest.raises(LookupError, match="mine"):
        task.result()
