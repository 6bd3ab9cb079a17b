"""Is the host the same after a drain, whatever it is and wherever the drain was called from?"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import anyio
import pytest
import uvloop
from core.loop_driving import begin, deliver, fire_all

from boxflow.loop import WorkflowLoop

HOSTS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "asyncio-debug": lambda: debugging(asyncio.new_event_loop()),
    "uvloop": uvloop.new_event_loop,
    "uvloop-debug": lambda: debugging(uvloop.new_event_loop()),
}
if sys.version_info >= (3, 12):
    HOSTS["asyncio-eager"] = lambda: eager(asyncio.new_event_loop())

Host = Callable[[Coroutine[Any, Any, Any]], Any]


def debugging(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    loop.set_debug(True)
    return loop


def eager(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore] # since 3.12
    return loop


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    """Runs a coroutine on a host loop."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=HOSTS[request.param]) as runner:
            return runner.run(main)

    return run


async def story() -> str:
    """Something of everything."""
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(1))
        group.create_task(asyncio.sleep(2))
    async with anyio.create_task_group() as other:
        other.start_soon(anyio.sleep, 1)
        with anyio.move_on_after(0.5):
            await anyio.sleep(5)
    try:
        async with asyncio.timeout(1):
            await asyncio.Event().wait()
    except TimeoutError:
        return "told"
    return "not told"


def test_a_body_drained_from_a_task_of_the_host_leaves_the_host_as_it_was(host: Host) -> None:
    async def main() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        hooks = sys.get_asyncgen_hooks()
        private, body = begin(story())
        fire_all(private)
        assert body.result() == "told"
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is task
        assert sys.get_asyncgen_hooks() == hooks
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await asyncio.create_task(asyncio.sleep(0.001))

    host(main())


def test_a_body_is_drained_from_a_callback_of_the_host(host: Host) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        told = loop.create_future()

        def callback() -> None:
            private, body = begin(story())
            fire_all(private)
            assert asyncio.get_running_loop() is loop
            assert asyncio.current_task() is None
            told.set_result(body.result())

        loop.call_soon(callback)
        assert await told == "told"

    host(main())


def test_a_body_is_evicted_from_a_task_of_the_host(host: Host) -> None:
    async def main() -> None:
        task = asyncio.current_task()
        private, _ = begin(story())
        private.evict()
        assert asyncio.current_task() is task
        await asyncio.sleep(0)

    host(main())


def test_bodies_of_many_runs_take_turns_with_tasks_of_the_host(host: Host) -> None:
    async def body(step: Callable[[], asyncio.Future[int]]) -> int:
        return sum([await step() for _ in range(5)])

    async def run(number: int) -> int:
        private = WorkflowLoop(now=0.0)
        waiting: list[asyncio.Future[int]] = []

        def step() -> asyncio.Future[int]:
            future = private.create_future()
            waiting.append(future)
            return future

        _, task = begin(body(step), loop=private)
        while not task.done():
            await asyncio.sleep(0)
            deliver(waiting.pop(), number)
        return int(task.result())

    async def main() -> list[int]:
        return await asyncio.gather(*(run(number) for number in range(20)))

    assert host(main()) == [5 * number for number in range(20)]


def test_a_body_is_drained_without_a_host() -> None:
    private, body = begin(story())
    fire_all(private)
    assert body.result() == "told"
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_generators_of_the_body_are_none_of_the_hosts(host: Host) -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async def body() -> None:
        async for _ in numbers():
            break

    async def main() -> None:
        begin(body())
        assert seen == ["closed"]

    seen: list[str] = []
    host(main())
    assert seen == ["closed"]


def test_a_keyboard_interrupt_in_the_body_finds_the_host_restored(host: Host) -> None:
    async def body() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(KeyboardInterrupt):
            begin(body())
        assert asyncio.get_running_loop() is loop

    host(main())


def test_a_body_does_not_see_the_task_of_the_host() -> None:
    async def body() -> tuple[str, bool]:
        current = asyncio.current_task()
        assert current is not None
        return current.get_name(), asyncio.all_tasks() == {current}

    async def main() -> None:
        _, task = begin(body())
        assert task.result() == ("body", True)

    asyncio.run(main())
