"""Where do the lives of an engine happen, so that one can die? On an event loop of their own, inside the test's.

A life that was killed runs nothing more: its tasks stand where they stood, as those of a process that was killed. What
goes on in boxes goes on. Only when all has been compared are the tasks cancelled, so that nothing is left.
"""

# pyright: reportPrivateUsage=false
# The private functions of asyncio are those with which every event loop is made.

from __future__ import annotations

import asyncio
import sys
from asyncio.events import _get_running_loop, _set_running_loop
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, cast

from boxflow.testing.fake_sandbox.process import in_box

if sys.version_info >= (3, 14):
    from asyncio.tasks import _swap_current_task

T = TypeVar("T")

_life: ContextVar[int] = ContextVar("boxflow_life", default=0)
"""To which life of its loop a task belongs."""


class Killed(SystemExit):
    """The life is over. A `SystemExit`, since these alone leave an event loop at once."""


class LifeLoop(asyncio.SelectorEventLoop):
    """An event loop for lives after one another. It can run while another loop does."""

    def __init__(self) -> None:
        self._lives = 0
        self._deaths: set[int] = set()
        #: What dead lives would have run.
        self._late: list[asyncio.Handle] = []
        self._dying = False
        #: All tasks of this life. Nothing else may hold them when it is killed, and the garbage collector would close
        #: them in the middle of the next one.
        self._made: list[asyncio.Task[Any]] = []
        self._left: list[asyncio.Task[Any]] = []
        super().__init__()
        self.set_task_factory(self._make_task)

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **options: Any,
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(cast("Coroutine[Any, Any, Any]", coroutine), loop=loop, **options)
        self._made.append(task)
        return task

    def _call_later_lives(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.Handle:
        """In the place of asyncio's `_call_soon`, from the first death on."""
        context = copy_context() if context is None else context
        handle = asyncio.Handle(callback, args, self, context)
        (self._late if self._is_dead(context) else self._queue()).append(handle)
        return handle

    def _is_dead(self, context: Context) -> bool:
        return context.get(_life, 0) in self._deaths and not context.get(in_box, False)

    def _queue(self) -> Any:
        return vars(self)["_ready"]

    def live(self, main: Coroutine[Any, Any, T]) -> T:
        """Run *main* to its end, as a new life.

        :raises Killed: it called `die`
        """
        self._lives += 1
        # An empty context: a life has nothing of the test's, as a process has nothing of another.
        context = Context()
        context.run(_life.set, self._lives)
        try:
            return self._run_inside(context.run(self.create_task, main))
        except Killed:
            self._freeze()
            raise
        finally:
            self._left += [task for task in self._made if not task.done()]
            self._made = []

    def _freeze(self) -> None:
        """Have nothing of this life run any more."""
        self._dying = False
        self._deaths.add(self._lives)
        queue = self._queue()
        handles: list[Any] = list(queue)
        queue.clear()
        for handle in handles:
            (self._late if self._is_dead(handle._context) else queue).append(handle)  # noqa: SLF001 # `get_context` is of 3.12
        vars(self)["_call_soon"] = self._call_later_lives

    def _run_inside(self, task: asyncio.Task[T]) -> T:
        host = _get_running_loop()
        host_task: Any = None
        if sys.version_info >= (3, 14) and host is not None:
            host_task = _swap_current_task(host, None)
        _set_running_loop(None)
        try:
            return self.run_until_complete(task)
        finally:
            _set_running_loop(host)
            if sys.version_info >= (3, 14) and host_task is not None:
                _swap_current_task(host, host_task)

    def kill(self) -> None:
        """End this life at the next await that waits for something."""
        if not self._dying:
            self._dying = True
            self._queue().appendleft(asyncio.Handle(_die, (), self, Context()))

    async def die(self) -> None:
        """End this life here."""
        self.kill()
        await self.create_future()  # No deadline: nothing of this life runs any more.

    def abandon(self) -> None:
        """Cancel what has been left, and close the loop."""
        self._deaths.clear()
        self.set_exception_handler(lambda _loop, _context: None)
        self._queue().extend(self._late)  # Else tasks would wait for it for ever, a cancel or not.
        left = self._left
        for _ in range(20):  # What refuses to be cancelled so often is left to the garbage collector.
            left = [task for task in (*left, *self._made) if not task.done()]
            self._made = []
            if not left:
                break
            for task in left:
                task.cancel()
            self._run_inside(self.create_task(_turns()))
        self.close()


async def _turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def _die() -> None:
    raise Killed
