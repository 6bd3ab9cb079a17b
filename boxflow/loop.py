"""On which loop does a workflow body run, so that its only inputs are its payload and its journal?

`WorkflowLoop` reads no clock and no randomness and does no I/O. It is driven inside the host loop's thread: the
engine sets the journal's time, resolves a future or fires a timer, and calls `drain()`, which sets this loop running,
works off the ready queue until nothing is left to do, and puts the host's loop back.

What is the same whenever the same outcomes are delivered in the same order:

- the order of callbacks: first in, first out; timers by instant, then by creation;
- the order in which sets of tasks and of this loop's futures iterate, hence what `asyncio.wait` returns and in which
  order `TaskGroup` cancels: they hash by creation number;
- the order in which `asyncio.as_completed` begins coroutines, which it keeps in a set by memory address;
- the order in which anyio's cancel scopes cancel their tasks, although they keep each other in sets by memory address;
- when the finalizers of dropped objects run: at the drop, or between two drains. The cyclic garbage collector is paused
  during a drain, since it would run them in the middle of the body, whenever others have allocated enough.

What is not: the order of sets that a body itself fills with objects that hash by address, futures made by
`asyncio.gather(...)` or `asyncio.Future()` among them (keep them in lists), of sets of strings (their hashes differ
between processes), and of `asyncio.all_tasks()`.
"""

# pyright: reportPrivateUsage=false
# The private functions of asyncio are those with which every event loop is made.

from __future__ import annotations

import asyncio
import gc
import heapq
import itertools
import logging
import math
import sys
import threading
from asyncio.events import _get_running_loop, _set_running_loop
from asyncio.tasks import _enter_task, _leave_task
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextvars import Context, copy_context
from functools import partial
from types import CoroutineType, MethodType
from typing import Any, TypeVarTuple
from weakref import WeakValueDictionary

from boxflow.errors import NotDurableError
from boxflow.loop_refusals import refused
from boxflow.loop_tasks import (
    ENSURE_FUTURE,
    Completing,
    Retry,
    WorkflowFuture,
    WorkflowHandle,
    WorkflowTask,
    WorkflowTimer,
)

if sys.version_info >= (3, 14):
    # Since 3.14 the current task is kept per thread, before that per loop.
    from asyncio.tasks import _swap_current_task

Ts = TypeVarTuple("Ts")

log = logging.getLogger("boxflow")

MAX_CALLBACKS = 1_000_000
"""How many callbacks a drain runs before it says that the body spins: some seconds' worth."""

EVICTION_ROUNDS = 100
"""How often eviction is signalled to a task that goes on waiting."""

RETRIES_A_DRAIN = 1000
"""How often one of anyio's cancel scopes tries again in one drain, then it rests even if it has woken a task each time.

`asyncio.TaskGroup` takes a cancel, finds that its own tasks have not ended, and waits again: such a scope would never
rest.
"""

RETRY = "_deliver_cancellation"
"""The method with which anyio's cancel scopes try again, once per iteration of the loop, while they have tasks left."""

_LOOP_SHIFT = 44
_LOOP_MASK = (1 << 18) - 1
_loops = itertools.count()


class Evicted(BaseException):
    """Thrown into a body that leaves memory. Not an `Exception`: its run goes on later, rebuilt from the journal."""


class WorkflowLoop(asyncio.AbstractEventLoop):
    """The private deterministic event loop of one run.

    :param now: the journal's time, in seconds since the epoch
    :param owner: whose loop it is; found by `asyncio.get_running_loop().owner`
    """

    # More attributes than instances share the keys of: 30. Slots save a kilobyte for every waiting run.
    __slots__ = (
        "_admitting",
        "_asyncgens",
        "_batch",
        "_batch_reason",
        "_cancelled_timers",
        "_closed",
        "_completing",
        "_debug",
        "_dropped_asyncgens",
        "_exception_handler",
        "_finalizer",
        "_fruitless",
        "_in_cancel",
        "_last_asyncgen",
        "_last_number",
        "_last_task",
        "_last_timer",
        "_now",
        "_parked",
        "_prune_at",
        "_ready",
        "_retries",
        "_strays",
        "_tasks",
        "_thread",
        "_timers",
        "_tries",
        "evicting",
        "on_violation",
        "owner",
        "violation",
    )

    def __init__(self, *, now: float, owner: object = None) -> None:
        self.owner = owner
        #: The body is being thrown away, or was: no durable call may be made.
        self.evicting = False
        #: The first thing that reached into the body from outside, as its error.
        self.violation: NotDurableError | None = None
        #: Called with it, maybe in a foreign thread.
        self.on_violation: Callable[[NotDurableError], None] | None = None
        self._now = now
        self._ready: deque[WorkflowHandle | WorkflowTimer] = deque()
        self._timers: list[tuple[float, int, WorkflowTimer]] = []
        self._cancelled_timers = 0
        # Callbacks are taken while an outcome is delivered: from `set_time` (or the beginning) to the drain's end.
        self._admitting = True
        self._thread: int | None = None
        self._closed = False
        self._debug = False
        self._exception_handler: Callable[[WorkflowLoop, dict[str, Any]], object] | None = None
        # The lower bits order what is in a set; the loop's own in the upper ones keep asyncio's and anyio's global
        # tables of tasks fast when thousands of loops have a task number 1. CPython's sets come to the upper bits only
        # after eight collisions in a row.
        self._last_number = (next(_loops) & _LOOP_MASK) << _LOOP_SHIFT
        self._last_timer = 0
        self._last_task = 0
        self._tasks: list[WorkflowTask[Any]] = []
        self._prune_at = 8
        self._retries = 0
        self._fruitless = 0
        self._parked: list[Retry] = []
        self._tries = 0
        self._strays: list[WorkflowHandle] = []
        self._batch: list[tuple[int, list[WorkflowHandle | WorkflowTimer]]] = []
        self._batch_reason: str | None = None
        self._in_cancel = False
        self._completing = Completing()
        self._asyncgens: WeakValueDictionary[int, AsyncGenerator[Any, Any]] | None = None
        self._dropped_asyncgens: dict[int, AsyncGenerator[Any, Any]] = {}
        self._last_asyncgen = 0
        self._finalizer: Callable[[AsyncGenerator[Any, Any]], None] | None = partial(self._asyncgen_dropped, 0)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "running" if self.is_running() else "waiting"
        return f"<WorkflowLoop {state} now={self._now!r}>"

    # --- driving -----------------------------------------------------------------------------------------------------

    def set_time(self, now: float) -> None:
        """An outcome recorded at *now* is about to be delivered. Time never goes back."""
        self._now = max(self._now, now)
        self._admitting = not self._closed

    def fire(self, due: float, now: float) -> int:
        """Make ready what is due at *due*, in order, at the time *now*; return how much that is. `drain()` runs it."""
        self.set_time(max(due, now))
        count = 0
        while (first := self._first_timer()) is not None and first[0] <= due:
            heapq.heappop(self._timers)
            first[2].owner = None
            self._ready.append(first[2])
            count += 1
        return count

    def next_due(self) -> float | None:
        """When the first timer is due, or None without timers."""
        first = self._first_timer()
        return None if first is None else first[0]

    def due_name(self) -> Any:
        """The name of the first timer, as given to `call_at_named`; None for asyncio's own, and without timers."""
        first = self._first_timer()
        return None if first is None else first[2].name

    def drain(self) -> None:
        """Run the body until it waits, in the current thread, with this loop as the running one.

        :raises RuntimeError: it is running already
        :raises NotDurableError: the body spins: it has run `MAX_CALLBACKS` callbacks and never waited
        """
        if self._thread is not None:
            raise RuntimeError(f"{self!r} is being drained already; a drain is not re-entrant")
        if not self._admitting and self._strays:
            self._ready.extend(self._strays)
            self._strays.clear()
        host = self._enter()
        self._admitting = not self._closed
        try:
            self._run_ready()
        finally:
            self._admitting = False
            self._leave(host)

    def evict(self, signal: Callable[[], BaseException] = Evicted) -> None:
        """Throw the body away: *signal* is thrown into every task, the newest first, and no await is waited for.

        Afterwards the loop is closed, and what still reaches it does nothing.

        :param signal: makes what is thrown, not an `Exception`
        :raises RuntimeError: it is being drained
        """
        if self._thread is not None:
            raise RuntimeError(f"{self!r} is being drained; evict it when the body waits")
        if self._closed:
            return
        self.evicting = True
        self._admitting = False
        self._discard()
        interrupt: BaseException | None = None
        thrown: list[WorkflowTask[Any]] = []
        host = self._enter()
        try:
            # Clean-up may make tasks; they never begin, and their turn comes next.
            while self._tasks:
                task = self._tasks.pop()
                if task.done():
                    continue
                thrown.append(task)
                try:
                    task.context.run(self._throw_away, task, signal)
                except (KeyboardInterrupt, SystemExit) as error:
                    interrupt = error
        finally:
            self._leave(host)
            self._closed = True
            self._dropped_asyncgens.clear()
            _forget_in_anyio(thrown)
            _part(thrown)
            # What refers to itself is freed by the next full collection only; this is freed with its run.
            self.owner = self.on_violation = self._finalizer = None
        if interrupt is not None:
            raise interrupt

    def tasks(self) -> list[WorkflowTask[Any]]:
        """The tasks that are not done, in the order in which they were made."""
        self._tasks = [task for task in self._tasks if not task.done()]
        return list(self._tasks)

    def _enter(self) -> tuple[Any, Any, Any, bool]:
        """Set this loop running, and return what was before."""
        collecting = gc.isenabled()
        if collecting:
            gc.disable()
        host = _get_running_loop()
        host_task: Any = None
        if sys.version_info >= (3, 14) and host is not None:
            host_task = _swap_current_task(host, None)
        _set_running_loop(self)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._asyncgen_begun, finalizer=self._finalizer)
        self._thread = threading.get_ident()
        return host, host_task, hooks, collecting

    def _leave(self, before: tuple[Any, Any, Any, bool]) -> None:
        host, host_task, hooks, collecting = before
        self._thread = None
        sys.set_asyncgen_hooks(*hooks)
        _set_running_loop(host)
        if sys.version_info >= (3, 14) and host_task is not None:
            _swap_current_task(host, host_task)
        if collecting:
            gc.enable()

    def _run_ready(self) -> None:
        ready = self._ready
        if self._parked and ready:
            self._retries += len(self._parked)
            ready.extend(self._parked)
            self._parked.clear()
        self._fruitless = 0
        handle: WorkflowHandle | WorkflowTimer | None = None
        for _ in range(MAX_CALLBACKS):
            if not ready:
                break
            handle = ready.popleft()
            if handle.dropped:
                continue
            try:
                handle.context.run(handle.callback, *handle.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 # it goes to the exception handler
                self._callback_failed(handle, error)
        else:
            raise self._spinning(handle)
        if self._batch:
            self._batch = []

    def _spinning(self, handle: WorkflowHandle | WorkflowTimer | None) -> NotDurableError:
        callback = getattr(handle, "callback", None)
        owner = getattr(callback, "__self__", None)
        what = f"task {owner.get_name()!r} ({owner!r})" if isinstance(owner, asyncio.Task) else f"{callback!r}"
        return self._violate(
            f"the workflow body spins: {MAX_CALLBACKS:,} callbacks ran without it ever waiting for an outcome, the "
            f"last one of {what}; wait for something instead, such as `await ctx.sleep(...)` or an `asyncio.Event`"
        )

    def _callback_failed(self, handle: WorkflowHandle | WorkflowTimer, error: BaseException) -> None:
        self.call_exception_handler({"message": f"a callback failed: {handle!r}", "exception": error, "handle": handle})

    # --- callbacks and timers ----------------------------------------------------------------------------------------

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> WorkflowHandle:
        """Run `callback(*args)` in this drain, after what is ready already."""
        if isinstance(callback, MethodType) and callback.__name__ == RETRY:
            return self._retry_soon(callback, args, context)
        handle = WorkflowHandle(callback, args, copy_context() if context is None else context)
        if self._admitting:
            self._ready.append(handle)
        else:
            self._take_from_outside(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> WorkflowTimer:
        """Run `callback(*args)` when *delay* seconds of the journal's time have passed."""
        return self.call_at_named(self._now + delay, None, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> WorkflowTimer:
        """Run `callback(*args)` when the journal's time has reached *when*."""
        return self.call_at_named(when, None, callback, *args, context=context)

    def call_at_named(
        self, when: float, name: object, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> WorkflowTimer:
        """`call_at`, with the *name* that `due_name` gives. What is due already is ready at once."""
        if math.isnan(when):
            raise ValueError("a timer needs an instant; got nan")
        timer = WorkflowTimer(when, name, callback, args, copy_context() if context is None else context)
        if not self._admitting:
            if self.evicting:
                timer.cancel()
                return timer
            self._check_open()
            raise self._violate(_reached_into(repr(timer)))
        if when <= self._now:
            self._ready.append(timer)
        elif when < math.inf:
            timer.owner = self
            self._last_timer += 1
            heapq.heappush(self._timers, (when, self._last_timer, timer))
        return timer

    def timer_cancelled(self) -> None:
        """One of the scheduled timers will not fire."""
        self._cancelled_timers += 1
        if self._cancelled_timers > 32 and self._cancelled_timers * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if not entry[2].dropped]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    def _first_timer(self) -> tuple[float, int, WorkflowTimer] | None:
        while self._timers:
            first = self._timers[0]
            if not first[2].dropped:
                return first
            heapq.heappop(self._timers)
            self._cancelled_timers -= 1
        return None

    def time(self) -> float:
        """The journal's time: when the newest outcome was recorded, in seconds since the epoch."""
        return self._now

    # --- what reaches in from outside --------------------------------------------------------------------------------

    def _take_from_outside(self, handle: WorkflowHandle) -> None:
        """A callback that comes while no outcome is delivered: no journal records it.

        It must not run, and it must not be lost either, since what it would wake could then not even be cancelled. So
        it is kept until the run ends by this violation: until a drain that belongs to no outcome.
        """
        if self.evicting:
            handle.cancel()
            return
        self._check_open()
        if self.violation is None:
            self._violate(_reached_into(repr(handle)))
        self._strays.append(handle)

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> WorkflowHandle:
        """Refused: a thread's answer is in no journal.

        :raises NotDurableError: always; unless it is the body itself that calls, it is the run's `violation` too
        """
        if self.evicting:
            handle = WorkflowHandle(callback, args, copy_context() if context is None else context)
            handle.cancel()
            return handle
        self._check_open()
        refusal = (
            "`loop.call_soon_threadsafe()` was called on the loop of a workflow body, as by `anyio.to_thread` and "
            "`asyncio.run_coroutine_threadsafe`: the answer of a thread is in no journal; put what needs a thread in a "
            'step: `await ctx.run("name", function, ...)`'
        )
        if self._thread == threading.get_ident():
            raise NotDurableError(refusal)
        raise self._violate(refusal)

    def _violate(self, message: str) -> NotDurableError:
        error = NotDurableError(message)
        if self.violation is None:
            self.violation = error
            on_violation = self.on_violation
            if on_violation is not None:
                on_violation(error)
        return error

    # --- tasks and futures -------------------------------------------------------------------------------------------

    def create_future(self) -> WorkflowFuture[Any]:
        """A future of this loop."""
        future: WorkflowFuture[Any] = WorkflowFuture(loop=self)
        self._last_number = future.number = self._last_number + 1
        return future

    def create_task(
        self, coro: Any, *, name: object = None, context: Context | None = None, **_options: object
    ) -> WorkflowTask[Any]:
        """A task of this loop, which begins in this drain, after what is ready already.

        It never begins at once, whatever `eager_start=` or a task factory says: the order must not depend on it.
        """
        if coro.__class__ is not CoroutineType and not asyncio.iscoroutine(coro):
            raise TypeError(f"a coroutine was expected, got {coro!r}")
        if not self._admitting:
            self._refuse_task(coro)
        if sys._getframe(1).f_code in ENSURE_FUTURE:  # noqa: SLF001 # see `Completing`
            task = self._completing.task_for(coro, self._make_task)
            if task is not None:
                return task
        return self._make_task(coro, name, context)

    def _make_task(self, coro: Any, name: object = None, context: Context | None = None) -> WorkflowTask[Any]:
        self._last_number += 1
        self._last_task += 1
        task = WorkflowTask[Any](
            self._last_number,
            coro,
            self,
            f"Task-{self._last_task}" if name is None else str(name),
            copy_context() if context is None else context,
        )
        if len(self._tasks) >= self._prune_at:
            self._prune_at = 2 * len(self.tasks()) + 8
        # Held until it is done: a task that nobody else holds must not vanish at the collector's discretion.
        self._tasks.append(task)
        return task

    def _refuse_task(self, coro: Any) -> None:
        if self._thread is not None or (self.violation is not None and not self._closed):
            # The body's clean-up during its eviction, or the end of a run that failed by a violation.
            return
        coro.close()
        self._check_open()
        raise self._violate(
            f"a task for {coro!r} was made on the loop of a workflow body from outside; make tasks in the body"
        )

    def set_task_factory(self, factory: Any) -> None:
        """Eager task factories are ignored.

        :raises NotDurableError: another one
        """
        if factory is not None and factory is not getattr(asyncio, "eager_task_factory", None):
            raise NotDurableError("the loop of a workflow body makes its own tasks; wrap the coroutines instead")

    def get_task_factory(self) -> None:
        """None: the loop makes its own tasks."""

    def cancel_in_order(self, number: int, reason: str, cancel: Callable[[str], bool]) -> bool:
        """Call `cancel(reason)`, and order what it makes ready among what the same *reason* has just made ready.

        anyio's cancel scopes cancel the tasks of their child scopes in the order of a set that hashes by address; after
        this, they wake up by *number*.
        """
        if self._in_cancel:
            return cancel(reason)
        ready, batch = self._ready, self._batch
        if reason != self._batch_reason or not self._is_last(batch):
            batch = self._batch = []
            self._batch_reason = reason
        before = len(ready)
        self._in_cancel = True
        try:
            cancelled = cancel(reason)
        finally:
            self._in_cancel = False
        added = [ready.pop() for _ in range(len(ready) - before)]
        if added:
            added.reverse()
            place = bisect_right(batch, number, key=_number)
            for _, later in batch[place:]:
                for _ in later:
                    ready.pop()
            batch.insert(place, (number, added))
            for _, handles in batch[place:]:
                ready.extend(handles)
        return cancelled

    def _is_last(self, batch: list[tuple[int, list[WorkflowHandle | WorkflowTimer]]]) -> bool:
        """Whether all of *batch* still stands at the end of the ready queue."""
        size = sum(len(handles) for _, handles in batch)
        ready = self._ready
        return 0 < size <= len(ready) and ready[-size] is batch[0][1][0] and ready[-1] is batch[-1][1][-1]

    # --- anyio's retries ---------------------------------------------------------------------------------------------

    def _retry_soon(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> WorkflowHandle:
        retry = Retry(callback, args, copy_context() if context is None else context, self._retry)
        retry.tries = self._tries
        if self._admitting:
            self._retries += 1
            self._ready.append(retry)
        elif not self.evicting:
            self._parked.append(retry)
        return retry

    def _retry(self, retry: Retry) -> None:
        """Run *retry*, or park it until the next outcome, when nothing else is ready and a round of all was fruitless.

        A cancelled scope tries again in every iteration of the loop while it has tasks left, such as one that is
        shielded and waits for a step. So the loop would never come to rest. A fruitless round changed nothing, so that
        the next one would find, and do, the same.
        """
        self._retries -= 1
        alone = len(self._ready) == self._retries
        retry.args = ()
        if not retry.wanted:
            return
        if (alone and self._fruitless > self._retries) or retry.tries > RETRIES_A_DRAIN:
            retry.args = (retry,)
            retry.tries = 0
            self._parked.append(retry)
            return
        # The retry that this one asks for goes on counting.
        self._tries = retry.tries + 1
        retry.again()
        self._tries = 0
        self._fruitless = self._fruitless + 1 if alone and len(self._ready) == self._retries else 0

    # --- eviction and the end ----------------------------------------------------------------------------------------

    def _throw_away(self, task: WorkflowTask[Any], signal: Callable[[], BaseException]) -> None:
        coroutine = task.get_coro()
        _enter_task(self, task)
        try:
            for _ in range(EVICTION_ROUNDS):
                coroutine.throw(signal())
            coroutine.close()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 # nobody is left to tell, see below
            # Whatever left the coroutine, it is over. That is no outcome of the run, which goes on later.
            if getattr(coroutine, "cr_frame", None) is not None:
                _never_finalize(coroutine)
                log.warning(
                    "task %r swallowed its eviction %d times and then %r; it was dropped where it waits. "
                    "Let BaseException pass in workflow bodies",
                    task.get_name(),
                    EVICTION_ROUNDS,
                    error,
                )
        finally:
            _leave_task(self, task)

    def _discard(self) -> None:
        self._ready.clear()
        self._parked.clear()
        self._timers.clear()
        self._batch.clear()
        self._strays.clear()
        self._retries = self._cancelled_timers = 0

    def close(self) -> None:
        """Take no more callbacks. Does nothing the second time.

        :raises RuntimeError: it is being drained
        """
        if self._thread is not None:
            raise RuntimeError("Cannot close a running event loop")
        self._closed = True
        self._admitting = False
        self._discard()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("Event loop is closed")

    def is_running(self) -> bool:
        """Whether it is being drained (or evicted) now."""
        return self._thread is not None

    def is_closed(self) -> bool:
        """Whether it takes no more callbacks, ever."""
        return self._closed

    # --- asynchronous generators -------------------------------------------------------------------------------------

    def _asyncgen_begun(self, generator: AsyncGenerator[Any, Any]) -> None:
        if self._asyncgens is None:
            self._asyncgens = WeakValueDictionary()
        self._asyncgens[self._last_asyncgen] = generator
        self._last_asyncgen += 1
        # A generator keeps the finalizer that it began with; so each one's knows the number of the next.
        self._finalizer = partial(self._asyncgen_dropped, self._last_asyncgen)
        sys.set_asyncgen_hooks(finalizer=self._finalizer)

    def _asyncgen_dropped(self, number: int, generator: AsyncGenerator[Any, Any]) -> None:
        """Close a generator that the body has dropped half-way.

        In a drain the body itself dropped it, at the same point in every replay (the collector is paused): it is closed
        by a task, as asyncio does. Between drains the collector found it, at any moment: it is kept, and closed in its
        order by `shutdown_asyncgens`, just as if it had not been found yet. A closed loop drops it unfinished.
        """
        if self._closed or self.evicting:
            return
        if self._thread == threading.get_ident():
            self.create_task(generator.aclose())
        else:
            self._dropped_asyncgens[number] = generator

    async def shutdown_asyncgens(self) -> None:
        """Close all asynchronous generators that are still open, in the order in which they began."""
        if not self._dropped_asyncgens and not self._asyncgens:
            return
        generators = dict(self._dropped_asyncgens)
        if self._asyncgens is not None:
            generators.update(self._asyncgens)
        self._dropped_asyncgens.clear()
        open_ones = [generators[number] for number in sorted(generators)]
        results = await asyncio.gather(*(each.aclose() for each in open_ones), return_exceptions=True)
        for result, generator in zip(results, open_ones, strict=True):
            if isinstance(result, Exception):
                self.call_exception_handler(
                    {"message": f"closing {generator!r} failed", "exception": result, "asyncgen": generator}
                )

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""

    # --- errors and debugging ----------------------------------------------------------------------------------------

    def get_debug(self) -> bool:
        """Whether asyncio's debug mode is on."""
        return self._debug

    def set_debug(self, enabled: bool) -> None:
        """Turn asyncio's debug mode on or off: futures and tasks then know where they were made."""
        self._debug = enabled

    def get_exception_handler(self) -> Any:
        """The handler set last, or None."""
        return self._exception_handler

    def set_exception_handler(self, handler: Any) -> None:
        """Hand errors that nobody catches to `handler(loop, context)`; None for the default, which logs them."""
        if handler is not None and not callable(handler):
            raise TypeError(f"A callable object or None is expected, got {handler!r}")
        self._exception_handler = handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Log the error."""
        lines = [str(context.get("message") or "an error that nobody caught")]
        lines += [f"{key}: {context[key]!r}" for key in sorted(context) if key not in ("message", "exception")]
        log.error("\n".join(lines), exc_info=context.get("exception"))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Hand an error that nobody catches to the handler. After an eviction there is nobody to tell."""
        if self.evicting:
            return
        if self._exception_handler is None:
            self.default_exception_handler(context)
            return
        # In the context of what failed, as asyncio does since 3.12.
        culprit = context.get("task") or context.get("future") or context.get("handle")
        around = getattr(culprit, "get_context", copy_context)()
        try:
            around.run(self._exception_handler, self, context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 # it goes to the default one
            self.default_exception_handler(
                {"message": "the exception handler failed", "exception": error, "context": context}
            )

    # --- what would touch the world ----------------------------------------------------------------------------------

    run_forever = refused("run_forever")
    run_until_complete = refused("run_until_complete")
    stop = refused("stop")
    run_in_executor = refused("run_in_executor")
    set_default_executor = refused("set_default_executor")
    getaddrinfo = refused("getaddrinfo")
    getnameinfo = refused("getnameinfo")
    create_connection = refused("create_connection")
    create_server = refused("create_server")
    create_unix_connection = refused("create_unix_connection")
    create_unix_server = refused("create_unix_server")
    create_datagram_endpoint = refused("create_datagram_endpoint")
    connect_accepted_socket = refused("connect_accepted_socket")
    start_tls = refused("start_tls")
    sendfile = refused("sendfile")
    connect_read_pipe = refused("connect_read_pipe")
    connect_write_pipe = refused("connect_write_pipe")
    subprocess_shell = refused("subprocess_shell")
    subprocess_exec = refused("subprocess_exec")
    add_reader = refused("add_reader")
    remove_reader = refused("remove_reader")
    add_writer = refused("add_writer")
    remove_writer = refused("remove_writer")
    sock_recv = refused("sock_recv")
    sock_recv_into = refused("sock_recv_into")
    sock_recvfrom = refused("sock_recvfrom")
    sock_recvfrom_into = refused("sock_recvfrom_into")
    sock_sendall = refused("sock_sendall")
    sock_sendto = refused("sock_sendto")
    sock_sendfile = refused("sock_sendfile")
    sock_connect = refused("sock_connect")
    sock_accept = refused("sock_accept")
    add_signal_handler = refused("add_signal_handler")
    remove_signal_handler = refused("remove_signal_handler")


_ignoring: list[object] = []


def _never_finalize(coroutine: object) -> None:
    """Keep *coroutine*, which ignores `close()`, for good.

    Its finalizer would go on with it at any moment; at the latest when the interpreter ends, which one with an endless
    loop would then never do. So it gets a reference that nobody gives back.
    """
    _ignoring.append(coroutine)
    import ctypes  # only for this, and not with every interpreter

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(coroutine))


def _forget_in_anyio(tasks: Iterable[WorkflowTask[Any]]) -> None:
    """Remove *tasks* from anyio's table of tasks.

    anyio does that itself in a callback when a child task is done, which these never will be; and what the table holds
    for a task leads back to the task, so that it would keep the whole body in memory.
    """
    states = getattr(sys.modules.get("anyio._backends._asyncio"), "_task_states", None)
    if states is not None:
        for task in tasks:
            states.pop(task, None)


def _part(tasks: Iterable[WorkflowTask[Any]]) -> None:
    """Part *tasks*, which will never be done, from the futures that they wait for: each refers to the other."""
    for task in tasks:
        waits_for: Any = getattr(task, "_fut_waiter", None)
        if type(waits_for) is WorkflowFuture:
            waits_for.cancel()


def _reached_into(what: str) -> str:
    return (
        f"something outside the workflow body reached into it ({what}): a callback of another event loop, such as of "
        "a task there that the body gave to `asyncio.wait`, a thread, or a finalizer. No journal records that; put it "
        'in a step: `await ctx.run("name", function, ...)`'
    )


def _number(entry: tuple[int, Iterable[object]]) -> int:
    return entry[0]
