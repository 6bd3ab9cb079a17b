"""Does the body learn, where it stands, that it touches the world or what no journal records?"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from core.loop_driving import begin, deliver, private_loop

from boxflow import loop as loop_module
from boxflow.errors import NotDurableError
from boxflow.loop import WorkflowLoop
from boxflow.loop_refusals import REMEDIES

STEP = "await ctx.run("


def in_host(body: Callable[[asyncio.AbstractEventLoop], Awaitable[None]]) -> None:
    """Run *body* with the host's loop, on one."""

    async def main() -> None:
        await body(asyncio.get_running_loop())

    asyncio.run(main())


# --- the world -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", sorted(REMEDIES))
def test_a_method_that_touches_the_world_says_what_to_write_instead(call: str) -> None:
    loop = WorkflowLoop(now=0.0)
    with pytest.raises(NotDurableError, match=f"`loop.{call}\\(\\)`") as caught:
        getattr(loop, call)(1, 2, three=4)
    assert str(caught.value).endswith(REMEDIES[call])


def test_every_method_of_an_event_loop_is_there_or_refused() -> None:
    missing = [
        name
        for name, method in inspect.getmembers(asyncio.AbstractEventLoop, inspect.isfunction)
        if not name.startswith("_") and getattr(WorkflowLoop, name) is method
    ]
    assert missing == []


WORLD: dict[str, Callable[[], Awaitable[object]]] = {
    "to_thread": lambda: asyncio.to_thread(os.getpid),
    "open_connection": lambda: asyncio.open_connection("localhost", 9),
    "start_server": lambda: asyncio.start_server(lambda _r, _w: None, "localhost", 0),
    "subprocess_exec": lambda: asyncio.create_subprocess_exec("true"),
    "subprocess_shell": lambda: asyncio.create_subprocess_shell("true"),
    "getaddrinfo": lambda: asyncio.get_running_loop().getaddrinfo("localhost", 80),
    "sock_connect": lambda: asyncio.get_running_loop().sock_connect(socket.socket(), ("localhost", 9)),
    "anyio.open_process": lambda: anyio.open_process(["true"]),
    "anyio.getaddrinfo": lambda: anyio.getaddrinfo("localhost", 80),
}


@pytest.mark.parametrize("name", WORLD)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_touches_the_world_raises_in_the_body(name: str) -> None:
    async def body() -> str:
        try:
            await WORLD[name]()
        except NotDurableError as error:
            return str(error)
        return "it worked"

    loop, task = begin(body())
    assert STEP in task.result()
    assert loop.violation is None


# --- objects of other loops ------------------------------------------------------------------------------------------


def test_awaiting_a_future_of_the_host_raises_at_the_await() -> None:
    async def body(foreign: asyncio.Future[Any]) -> str:
        try:
            await foreign
        except NotDurableError as error:
            assert isinstance(error.__cause__, RuntimeError)
            assert "attached to a different loop" in str(error.__cause__)
            await asyncio.sleep(0)
            return str(error)
        return "it worked"

    async def main(host: asyncio.AbstractEventLoop) -> None:
        _, task = begin(body(host.create_future()))
        assert "belongs to another event loop" in task.result()
        assert STEP in task.result()

    in_host(main)


def test_awaiting_a_task_of_the_host_raises_at_the_await() -> None:
    async def body(foreign: asyncio.Future[Any]) -> None:
        with pytest.raises(NotDurableError):
            await foreign
        with pytest.raises(NotDurableError):
            await asyncio.shield(foreign)
        # Before 3.12 `wait_for` finds out by itself, with another error.
        with pytest.raises((NotDurableError, ValueError)):
            await asyncio.wait_for(foreign, 1)

    async def main(host: asyncio.AbstractEventLoop) -> None:
        foreign = host.create_task(asyncio.sleep(0.001, "the host's"))
        _, task = begin(body(foreign))
        task.result()
        assert await foreign == "the host's"

    in_host(main)


def test_awaiting_a_future_of_another_run_raises_at_the_await() -> None:
    async def body() -> None:
        with pytest.raises(NotDurableError):
            await WorkflowLoop(now=0.0).create_future()

    begin(body())[1].result()


def test_a_body_that_does_not_catch_it_ends_with_it() -> None:
    async def inner(foreign: asyncio.Future[Any]) -> None:
        await foreign

    async def body(foreign: asyncio.Future[Any]) -> None:
        await asyncio.create_task(inner(foreign))

    _, task = begin(body(WorkflowLoop(now=0.0).create_future()))
    assert isinstance(task.exception(), NotDurableError)


def test_gathering_futures_of_two_loops_ends_the_body_with_a_clear_error() -> None:
    async def body() -> None:
        await asyncio.gather(private_loop().create_future(), WorkflowLoop(now=0.0).create_future())

    _, task = begin(body())
    error = task.exception()
    assert isinstance(error, NotDurableError)
    assert isinstance(error.__cause__, ValueError)


def test_a_lock_of_the_host_ends_the_body_with_a_clear_error() -> None:
    lock = asyncio.Lock()

    async def body() -> None:
        async with lock:
            raise AssertionError("the host holds it")

    async def main(host: asyncio.AbstractEventLoop) -> None:
        await lock.acquire()
        waiter = host.create_task(lock.acquire())
        await asyncio.sleep(0)
        _, task = begin(body())
        error = task.exception()
        assert isinstance(error, NotDurableError)
        assert "is bound to a different event loop" in str(error.__cause__)
        assert error.__traceback__ is not None
        assert task.exception() is error
        with pytest.raises(NotDurableError):
            task.result()
        lock.release()
        await waiter

    in_host(main)


def test_other_runtime_errors_pass_as_they_are() -> None:
    async def body() -> None:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(RuntimeError, match="cannot await on itself"):
            await task
        raise RuntimeError("mine")

    _, task = begin(body())
    assert type(task.exception()) is RuntimeError


def test_a_task_of_the_host_given_to_wait_is_a_violation_instead_of_a_wake_up_that_no_journal_has() -> None:
    async def body(foreign: asyncio.Future[Any]) -> None:
        await asyncio.wait([foreign])

    async def main(host: asyncio.AbstractEventLoop) -> None:
        reports: list[NotDurableError] = []
        unhandled: list[dict[str, Any]] = []
        host.set_exception_handler(lambda _, context: unhandled.append(context))
        foreign = host.create_future()
        loop = WorkflowLoop(now=0.0)
        loop.on_violation = reports.append
        _, task = begin(body(foreign), loop=loop)
        foreign.set_result(None)
        await asyncio.sleep(0)
        assert "something outside the workflow body reached into it" in str(loop.violation)
        assert STEP in str(loop.violation)
        assert reports == [loop.violation]
        # Another outcome does not wake it up.
        loop.set_time(1.0)
        loop.drain()
        assert not task.done()
        # The engine ends the body then.
        task.cancel()
        loop.drain()
        assert task.cancelled()

    in_host(main)


def test_a_task_made_from_outside_is_refused() -> None:
    loop, _ = begin(asyncio.sleep(0))
    with pytest.raises(NotDurableError, match="made on the loop of a workflow body from outside"):
        loop.create_task(asyncio.sleep(0))


def test_a_timer_set_from_outside_is_refused() -> None:
    loop, _ = begin(asyncio.sleep(0))
    with pytest.raises(NotDurableError, match="reached into it"):
        loop.call_later(1, print)
    assert loop.next_due() is None


# --- threads ---------------------------------------------------------------------------------------------------------


def test_the_body_itself_cannot_use_the_threadsafe_call() -> None:
    async def body() -> None:
        private_loop().call_soon_threadsafe(print)

    loop, task = begin(body())
    assert isinstance(task.exception(), NotDurableError)
    assert loop.violation is None


def test_a_thread_that_answers_the_body_is_a_violation() -> None:
    def answer(loop: WorkflowLoop, future: asyncio.Future[Any]) -> None:
        try:
            loop.call_soon_threadsafe(future.set_result, 1)
        except NotDurableError as error:
            raised.append(error)

    async def body() -> None:
        future = private_loop().create_future()
        thread = threading.Thread(target=answer, args=(private_loop(), future))
        thread.start()
        thread.join()
        await future

    raised: list[NotDurableError] = []
    reports: list[NotDurableError] = []
    loop = WorkflowLoop(now=0.0)
    loop.on_violation = reports.append
    begin(body(), loop=loop)
    assert raised == reports == [loop.violation]
    assert "the answer of a thread is in no journal" in str(loop.violation)
    loop.evict()


def test_anyio_to_thread_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    def function() -> None:
        threads.append(threading.current_thread())

    async def body() -> None:
        await anyio.to_thread.run_sync(function)

    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: died.append(args.exc_value))
    threads: list[threading.Thread] = []
    reported = threading.Event()
    loop = WorkflowLoop(now=0.0)
    loop.on_violation = lambda _: reported.set()
    _, task = begin(body(), loop=loop)
    assert reported.wait(10)
    threads[0].join(10)
    assert died == [loop.violation]
    assert "anyio.to_thread" in str(loop.violation)
    task.cancel()
    loop.drain()
    assert task.done()


def test_a_coroutine_sent_from_another_thread_is_a_violation() -> None:
    async def sent() -> None:
        pass

    loop, _ = begin(asyncio.sleep(0))
    coroutine = sent()
    with pytest.raises(NotDurableError):
        asyncio.run_coroutine_threadsafe(coroutine, loop)
    coroutine.close()
    assert loop.violation is not None


# --- a body that never waits -----------------------------------------------------------------------------------------


def test_a_body_that_spins_is_named_and_does_not_hang_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async def body() -> None:
        await asyncio.create_task(spin(), name="poller")

    monkeypatch.setattr(loop_module, "MAX_CALLBACKS", 1_000)
    loop = WorkflowLoop(now=0.0)
    loop.create_task(body())
    with pytest.raises(NotDurableError, match=r"the workflow body spins: 1,000 callbacks.*task 'poller'.*spin\(\)"):
        loop.drain()
    assert loop.violation is not None
    assert not loop.is_running()
    loop.evict()


def test_the_bound_is_in_the_millions() -> None:
    assert loop_module.MAX_CALLBACKS >= 1_000_000


def test_the_private_loop_is_pure() -> None:
    for name in ("loop", "loop_tasks", "loop_refusals"):
        source = Path(loop_module.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        for forbidden in (
            "import time",
            "import random",
            "import os",
            "import socket",
            "import uuid",
            "import datetime",
        ):
            assert forbidden not in source


def test_a_delivered_error_is_raised_at_the_await() -> None:
    loop = WorkflowLoop(now=0.0)
    answer = loop.create_future()

    async def body() -> str:
        try:
            await answer
        except LookupError as error:
            return str(error)
        return "it worked"

    _, task = begin(body(), loop=loop)
    deliver(answer, LookupError("none"))
    assert task.result() == "none"
