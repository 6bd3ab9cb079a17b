"""When can nothing go on by itself? And whose timers are those of a scripted world?

While a world is entered, its event loop gives the tasks of the world's engine another time: `loop.time`, `loop.call_at`
and what is built on them (`asyncio.sleep`, `asyncio.timeout`, anyio's scopes) use the world's clock there. The tests
themselves, and everything else on the loop, keep the real one. A loop is idle when nothing is ready to run, no thread
is at work for it, and nothing of the real world is about to happen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any, ClassVar, Final, Protocol, cast
from weakref import WeakKeyDictionary

import anyio.to_thread

from boxflow.testing.real_backends import AtWork
from boxflow.testing.virtual_clock import VirtualClock

own_clock: ContextVar[VirtualClock | None] = ContextVar("boxflow_own_clock", default=None)
"""The clock of the world whose engine this task belongs to; None in the tests themselves."""

PATIENCE_S: Final = 0.25
"""How long the real world may be silent (an open connection, a sleep of a test) before time passes in spite of it."""

_POLL_S: Final = 0.001


class Watcher(Protocol):
    """Who wants to know when a loop is idle."""

    clock: VirtualClock
    at_work: AtWork

    def idle(self) -> bool:
        """Nothing goes on by itself. Says whether it has made something go on."""
        ...


class Idleness:
    """One event loop that is watched; `Idleness.of` has one for each."""

    _all: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Idleness]] = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Any = loop
        self._watchers: list[Watcher] = []
        self._threads = 0
        self._limiter: anyio.CapacityLimiter | None = None
        self._connections = 0
        self._looking = False
        self._clean_looks = 0
        self._silent_since: float | None = None
        self._seen_activity = -1
        self._before: dict[str, Any] = {}
        self._real_time: Callable[[], float] = loop.time
        self._real_call_at: Callable[..., asyncio.TimerHandle] = loop.call_at
        self._real_executor: Callable[..., Any] = loop.run_in_executor

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Idleness:
        """That of *loop*."""
        found = cls._all.get(loop)
        if found is None:
            found = cls._all[loop] = cls(loop)
        return found

    def enter(self, watcher: Watcher) -> None:
        """Begin to tell *watcher* when the loop is idle, and give its engine its own time."""
        if not self._watchers:
            self._install()
        self._watchers.append(watcher)
        watcher.clock.on_timer = self.look
        self.look()

    def leave(self, watcher: Watcher) -> None:
        """Tell *watcher* nothing any more; no error when it is not told."""
        if watcher in self._watchers:
            self._watchers.remove(watcher)
            watcher.clock.on_timer = None
            if not self._watchers:
                self._uninstall()

    # --- the loop's own time ------------------------------------------------------------------------------------------

    def _install(self) -> None:
        self._limiter = anyio.to_thread.current_default_thread_limiter()
        self._connections = self._open_connections()
        self._real_time, self._real_call_at = self._loop.time, self._loop.call_at
        self._real_executor = self._loop.run_in_executor
        ours = {
            "time": self._time,
            "call_at": self._call_at,
            "call_later": self._call_later,
            "run_in_executor": self._run_in_executor,
        }
        # On the object, not its class: other loops of the process are none of our business.
        own = cast("dict[str, Any]", self._loop.__dict__)
        self._before = {name: own[name] for name in ours if name in own}
        own.update(ours)

    def _uninstall(self) -> None:
        own = cast("dict[str, Any]", self._loop.__dict__)
        for name in ("time", "call_at", "call_later", "run_in_executor"):
            del own[name]
        own.update(self._before)

    def _time(self) -> float:
        clock = own_clock.get()
        return self._real_time() if clock is None else clock.now()

    def _call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        clock = own_clock.get()
        if clock is None:
            return self._real_call_at(when, callback, *args, context=context)
        return clock.call_at(when, callback, *args, context=context)

    def _call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self._call_at(self._time() + delay, callback, *args, context=context)

    def _run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        future = self._real_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: object) -> None:
        self._threads -= 1

    # --- looking ------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look, as soon as everything that is ready has run, whether the loop is idle."""
        if not self._looking and self._watchers:
            self._looking = True
            self._loop.call_soon(self._look, context=Context())

    def _look(self) -> None:
        self._looking = False
        if not self._watchers:
            return
        if self._something_is_ready():
            self.look()
            return
        if self._something_real_is_coming():
            self._looking = True
            self._real_call_at(self._real_time() + _POLL_S, self._look, context=Context())
            return
        self._silent_since = None
        # Each of them: their clocks have nothing to do with each other.
        made_go_on = [watcher.idle() for watcher in list(self._watchers)]
        if any(made_go_on):
            self.look()

    def _something_is_ready(self) -> bool:
        ready = getattr(self._loop, "_ready", None)
        if ready is not None:
            return len(ready) > 0
        # uvloop does not show its queue. A task is ready unless what it waits for is not done.
        waits = [cast(Any, getattr(task, "_fut_waiter", None)) for task in asyncio.all_tasks(self._loop)]
        if any(wait is None or wait.done() for wait in waits):
            self._clean_looks = 0
            return True
        # A callback that has not run yet shows in no task: it has by the next look, and its consequences by one more.
        self._clean_looks = (self._clean_looks + 1) % 3
        return self._clean_looks > 0

    def _something_real_is_coming(self) -> bool:
        if self._threads or (self._limiter is not None and self._limiter.borrowed_tokens):
            return True
        if any(watcher.at_work.calls for watcher in self._watchers):
            return True
        if self._open_connections() <= self._connections and not self._a_sleep_ends_soon():
            return False
        activity, now = sum(watcher.clock.activity for watcher in self._watchers), time.monotonic()
        if self._silent_since is None or activity != self._seen_activity:
            self._silent_since, self._seen_activity = now, activity
        return now - self._silent_since < PATIENCE_S

    def _open_connections(self) -> int:
        selector = getattr(self._loop, "_selector", None)
        return 0 if selector is None else len(selector.get_map() or ())

    def _a_sleep_ends_soon(self) -> bool:
        timers: list[asyncio.TimerHandle] = getattr(self._loop, "_scheduled", [])
        soon = self._real_time() + PATIENCE_S
        return bool(timers) and not timers[0].cancelled() and timers[0].when() <= soon
