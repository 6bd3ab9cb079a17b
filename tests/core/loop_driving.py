"""How do the tests drive a private loop? As the engine does: deliver one thing, drain."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from boxflow.loop import WorkflowLoop
from boxflow.loop_tasks import WorkflowTask


def begin(
    body: Coroutine[Any, Any, Any], *, now: float = 1000.0, loop: WorkflowLoop | None = None
) -> tuple[WorkflowLoop, WorkflowTask[Any]]:
    """Run *body* on a new private loop until it waits."""
    loop = loop or WorkflowLoop(now=now)
    task = loop.create_task(body, name="body")
    loop.drain()
    return loop, task


def deliver(future: asyncio.Future[Any], value: object = None) -> None:
    """Resolve *future* with *value* and run the body until it waits again."""
    loop = future.get_loop()
    assert isinstance(loop, WorkflowLoop)
    loop.set_time(loop.time())
    if isinstance(value, BaseException):
        future.set_exception(value)
    else:
        future.set_result(value)
    loop.drain()


def fire_next(loop: WorkflowLoop) -> float:
    """Fire the timers that are due first, and drain; return when that was."""
    due = loop.next_due()
    assert due is not None, f"{loop!r} has no timers"
    loop.fire(due, due)
    loop.drain()
    return due


def fire_all(loop: WorkflowLoop) -> None:
    """Fire timers until there is none."""
    while loop.next_due() is not None:
        fire_next(loop)


def private_loop() -> WorkflowLoop:
    """The loop that runs the caller."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, WorkflowLoop)
    return loop
