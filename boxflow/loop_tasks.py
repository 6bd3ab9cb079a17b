"""What are the private loop's handles, timers, futures and tasks, and what makes them deterministic?

Futures and tasks hash by creation number, so that the sets in which asyncio keeps and returns them iterate in the same
order whenever the same code runs again. (Ordinary ones hash by memory address.)
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
from abc import ABCMeta
from collections.abc import Callable, Collection, Coroutine, Set
from contextvars import Context
from functools import partial
from types import CodeType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from boxflow.errors import NotDurableError
from boxflow.loop_refusals import as_not_durable

T = TypeVar("T")

ANYIO_REASON = "Cancelled via cancel scope "
"""How anyio's message for `Task.cancel` begins, since 4.0."""


class Owner(Protocol):
    """What tasks and timers ask of their loop."""

    def timer_cancelled(self) -> None:
        """One of the scheduled timers will not fire."""
        ...

    def cancel_in_order(self, number: int, reason: str, cancel: Callable[[str], bool]) -> bool:
        """Call `cancel(reason)` for the object of that *number*, as one of several that are cancelled together."""
        ...


# pyright: reportPrivateUsage=false, reportIncompatibleVariableOverride=false
# asyncio's C code and its helpers for `repr` look for some private attributes by name.


class WorkflowHandle(asyncio.Handle):
    """A callback in the ready queue. It keeps no traceback and asks no loop for its debug mode."""

    __slots__ = ("args", "callback", "context", "dropped")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.dropped = False

    def cancel(self) -> None:
        """Never run it."""
        self.dropped = True
        # What it held may be large, and the queue holds the handle until its turn.
        self.callback = _nothing
        self.args = ()

    def cancelled(self) -> bool:
        """Whether it is never to be run."""
        return self.dropped

    def get_context(self) -> Context:
        """The context in which it runs."""
        return self.context

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'cancelled' if self.dropped else repr(self.callback)}>"


class Retry(WorkflowHandle):
    """A callback that runs again and again while it has something to do, and rests when that is fruitless.

    :param run: decides whether it is run, or rests
    """

    __slots__ = ("again", "tries", "wanted")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context,
        run: Callable[[Retry], None],
    ) -> None:
        super().__init__(run, (self,), context)
        #: Runs it; it makes a new handle when it wants to run again.
        self.again = partial(callback, *args)
        #: How often it has run in this drain, as one retry after the other.
        self.tries = 0
        self.wanted = True

    def cancel(self) -> None:
        """Never run it. It takes its turn all the same, since its loop counts the turns."""
        self.wanted = False

    def cancelled(self) -> bool:
        """Whether it is never to be run."""
        return not self.wanted


class WorkflowTimer(asyncio.TimerHandle):
    """A callback at an instant of the journal's time."""

    __slots__ = ("args", "callback", "context", "dropped", "instant", "name", "owner")

    def __init__(
        self, when: float, name: object, callback: Callable[..., object], args: tuple[Any, ...], context: Context
    ) -> None:
        self.instant = when
        self.name = name
        self.callback = callback
        self.args = args
        self.context = context
        self.dropped = False
        #: The loop among whose timers it waits.
        self.owner: Owner | None = None

    def when(self) -> float:
        """The instant, in seconds since the epoch."""
        return self.instant

    def cancel(self) -> None:
        """Never run it."""
        if not self.dropped:
            self.dropped = True
            self.callback = _nothing
            self.args = ()
            if self.owner is not None:
                self.owner.timer_cancelled()

    def cancelled(self) -> bool:
        """Whether it is never to be run."""
        return self.dropped

    def get_context(self) -> Context:
        """The context in which it runs."""
        return self.context

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.instant!r} {'cancelled' if self.dropped else repr(self.callback)}>"


def _nothing() -> None:
    """In the place of a cancelled callback."""


class WorkflowFuture(asyncio.Future[T]):
    """A future that hashes by its creation number."""

    __slots__ = ("number",)

    number: int

    def __hash__(self) -> int:
        return self.number


class WorkflowTask(asyncio.Task[T]):
    """A task that hashes by its creation number, and whose body is told when it awaits what belongs to another loop."""

    __slots__ = ("_refusal", "context", "number")

    def __init__(
        self,
        number: int,
        coroutine: Coroutine[Any, Any, T],
        loop: asyncio.AbstractEventLoop,
        name: str,
        context: Context,
    ) -> None:
        # First: asyncio puts the task in a set while it initialises it.
        self.number = number
        self.context = context
        self._refusal: BaseException | None = None
        super().__init__(guarded(coroutine), loop=loop, name=name, context=context)
        # Its loop holds it until it is done. So when it is destroyed before, its whole run was dropped, and that is no
        # news about this task.
        self._log_destroy_pending = False

    def __hash__(self) -> int:
        return self.number

    def get_coro(self) -> Any:
        """The coroutine it was made from."""
        guard = super().get_coro()
        return guard.coroutine if isinstance(guard, Guard) else guard

    #: What asyncio's helpers for `repr` and `get_stack` look at.
    _coro = property(get_coro)

    def cancel(self, msg: Any | None = None) -> bool:
        """Ask it to end with `CancelledError`, as `asyncio.Task.cancel` does."""
        if isinstance(msg, str) and msg.startswith(ANYIO_REASON):
            owner: Any = self.get_loop()
            return bool(owner.cancel_in_order(self.number, msg, super().cancel))
        return super().cancel(msg)

    def exception(self) -> BaseException | None:
        """The error that it ended with, or None; one about another event loop as a `NotDurableError`."""
        error = super().exception()
        if error is not None and self._refusal is None and (refusal := as_not_durable(error)) is not None:
            self._refusal = refusal.with_traceback(error.__traceback__)
        return self._refusal or error

    def result(self) -> T:
        """What it returned; raises what it raised, an error about another event loop as a `NotDurableError`."""
        if self.done() and not self.cancelled() and (error := self.exception()) is not None:
            raise error
        return super().result()


if TYPE_CHECKING:
    _Map = map[Any]
else:
    _Map = map

_NONE_FOREVER = itertools.repeat(None)


class Guard(_Map):
    """A coroutine as its task sees it: every step goes straight through, what the task throws is translated.

    asyncio's task looks at what the coroutine yields, and throws a bare `RuntimeError` into it when that is a future of
    another loop. The body gets a `NotDurableError` there instead, at the line that waits.

    It is a `map` of the coroutine's `send` over endless `None`s, since a task steps what is no native coroutine through
    its iterator slot: `map` fills that slot in C, and passes the final `StopIteration` with its value on. So a step
    costs 0.05 to 0.1 us more than it does without a guard; with a `send` written in Python it cost 0.3 to 1 us more.
    """

    __slots__ = ("coroutine",)

    coroutine: Coroutine[Any, Any, Any]

    def send(self, value: Any) -> Any:
        """Step the coroutine."""
        return self.coroutine.send(value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """Throw into the coroutine what the task wants thrown."""
        if value is None and traceback is None:
            refusal = as_not_durable(kind)
            if refusal is not None:
                _give_back(self.coroutine)
                kind = refusal
            return self.coroutine.throw(kind)
        return self.coroutine.throw(kind, value, traceback)

    def close(self) -> None:
        """Close the coroutine."""
        self.coroutine.close()

    def __await__(self) -> Guard:
        return self


cast(ABCMeta, Coroutine).register(Guard)


def _give_back(coroutine: Any) -> None:
    """Mark the future that *coroutine* has just yielded as not awaited, so that its own loop can await it.

    A future is marked when it is yielded, and its task takes the mark away; not when it refuses the future.
    """
    awaited = coroutine
    while (inner := getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)) is not None:
        awaited = inner
    # The innermost is the future's iterator, which does not say whose it is.
    for future in gc.get_referents(awaited):
        if asyncio.isfuture(future):
            future._asyncio_future_blocking = False  # noqa: SLF001 # the protocol between every task and future


def guarded(coroutine: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """*coroutine* in a guard."""
    guard: Any = Guard(coroutine.send, _NONE_FOREVER)
    guard.coroutine = coroutine
    return guard  # type: ignore[no-any-return] # registered as a Coroutine, which `map` does not know


ENSURE_FUTURE = frozenset(
    getattr(asyncio.tasks, name).__code__
    for name in ("ensure_future", "_ensure_future")
    if hasattr(asyncio.tasks, name)
)
"""The code of the function with which `asyncio.as_completed` makes its tasks (3.11 has a private one, too)."""

_ITERATOR: Any = getattr(asyncio.tasks, "_AsCompletedIterator", None)
_AS_COMPLETED: dict[CodeType, str] = (
    {asyncio.as_completed.__code__: "fs"} if _ITERATOR is None else {_ITERATOR.__init__.__code__: "aws"}
)
"""The code that asks for them, and its name for what it was given: a function until 3.12, since 3.13 a class."""


class Completing:
    """Makes the tasks of `asyncio.as_completed` in the order in which it was given their coroutines.

    It puts the coroutines in a set, which goes by their memory addresses, and then makes a task for each. So when it
    asks for the first, all are made, in the right order, and handed out as it asks for them.
    """

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: dict[Any, WorkflowTask[Any]] | None = None

    def task_for(self, coroutine: Any, make: Callable[[Any], WorkflowTask[Any]]) -> WorkflowTask[Any] | None:
        """The task for *coroutine*, if `as_completed` asks for it; else None.

        :raises NotDurableError: the order in which it was given is lost
        """
        if self._made and (task := self._made.pop(coroutine, None)) is not None:
            return task
        given = _given_to_as_completed()
        if given is None:
            return None
        if not _has_an_order(given):
            coroutine.close()
            raise NotDurableError(
                f"`asyncio.as_completed` got coroutines in a {type(given).__name__}, and begins them in the order of "
                "their memory addresses, which no replay can repeat; pass a list of them"
            )
        in_order = dict.fromkeys(cast("Collection[Any]", given))
        if coroutine not in in_order:
            # Made by `ensure_future` around another awaitable.
            return None
        self._made = {each: make(each) for each in in_order if asyncio.iscoroutine(each)}
        return self._made.pop(coroutine)


def _has_an_order(given: object) -> bool:
    # An iterator has been used up by the set before we see it.
    return isinstance(given, Collection) and not isinstance(given, Set)


def _given_to_as_completed() -> object:
    """What `as_completed` was given, if the task that is being made is for it; else None."""
    # Above are `task_for`, `create_task` and `ensure_future`; then come its private half and the comprehension, or not.
    frame = sys._getframe(3).f_back  # noqa: SLF001 # nothing public looks at callers without reading files
    for _ in range(3):
        if frame is None:
            break
        name = _AS_COMPLETED.get(frame.f_code)
        if name is not None:
            return cast(object, frame.f_locals[name])
        frame = frame.f_back
    return None
