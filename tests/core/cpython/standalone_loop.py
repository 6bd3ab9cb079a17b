"""How do CPython's own asyncio tests run on the private loop? With what they expect of a loop that stands alone.

`StandaloneLoop` adds only the driving: it drains, and when nothing is ready its time jumps to the next timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from boxflow.loop import WorkflowLoop

T = TypeVar("T")


class StandaloneLoop(WorkflowLoop):
    """A private loop that drives itself, in virtual time that begins at 1,000 s."""

    def __init__(self) -> None:
        super().__init__(now=1000.0)
        self._stopping = False

    def run_until_complete(self, future: Awaitable[T]) -> T:
        """Run until *future* is done, then until nothing is ready.

        :raises RuntimeError: nothing is left to do and it is not done
        """
        self._open()
        task = asyncio.ensure_future(future, loop=self)
        self._drive(task)
        return task.result()

    def run_forever(self) -> None:
        """Run until `stop()` is called and what was ready is done."""
        self._open()
        self._stopping = False
        self._drive(None)

    def stop(self) -> None:
        """End `run_forever`."""
        self._stopping = True

    def _open(self) -> None:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("This event loop is already running")
        self._check_open()
        # Tests touch the loop between two runs; in a run, `set_time` says that an outcome is delivered.
        self.set_time(self.time())

    def _drive(self, task: asyncio.Future[Any] | None) -> None:
        while True:
            self.drain()
            if self._stopping if task is None else task.done():
                break
            due = self.next_due()
            if due is None:
                raise RuntimeError(f"nothing is left to do, and {task!r} is not done")
            self.fire(due, due)
        self.set_time(self.time())


class StandalonePolicy(asyncio.DefaultEventLoopPolicy):
    """Makes standalone loops."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """A new standalone loop."""
        return StandaloneLoop()
