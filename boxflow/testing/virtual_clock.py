"""What time is it in a scripted world? A clock that stands still, and jumps to what is due next when all is idle.

The durable timers of an engine and the timers of what it runs (`asyncio.sleep` in a step, a command's deadline) are one
list. `boxflow.testing.idleness` says when nothing can go on by itself; then the earliest of them fires, and its instant
is the time. What an engine looks after again and again, such as boxes past their ttl, is done as time passes, and no
reason for it to pass.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from contextvars import Context, copy_context
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from boxflow.errors import ConfigurationError
from boxflow.timekeeper import in_background

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""When a world begins unless told otherwise: the same in every test run."""


class _Handle(asyncio.TimerHandle):
    """What `loop.call_at` gives: whoever set the timer cancels it with that."""

    def cancel(self) -> None:
        # Not the timer handle's own, which tells its loop: none of the loop's timers is cancelled.
        asyncio.Handle.cancel(self)


@attrs.frozen(eq=False)
class _Timer:
    """Something that is to happen at an instant."""

    callback: Callable[..., object]
    args: tuple[Any, ...]
    context: Context
    handle: asyncio.TimerHandle
    in_background: bool

    @property
    def is_wanted(self) -> bool:
        return not self.handle.cancelled()

    def fire(self) -> None:
        # Looked at again: what fired just before may have cancelled it.
        if self.is_wanted:
            self.callback(*self.args)


class VirtualClock:
    """A `Clock` whose time passes only by `advance_to`.

    :param start: when it begins, an aware time
    """

    def __init__(self, start: datetime = START) -> None:
        if start.tzinfo is None:
            raise ConfigurationError(f"start={start!r} is a naive time; give it a timezone, such as UTC")
        self._now = start.timestamp()
        self._timers: list[tuple[float, int, _Timer]] = []
        self._number = 0
        #: Grows with every timer that is set or fires: while it stays, nothing has happened.
        self.activity = 0
        #: Told when a timer was set that time may jump to.
        self.on_timer: Callable[[], None] | None = None

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._now

    def time(self) -> datetime:
        """The same as an aware UTC time."""
        return datetime.fromtimestamp(self._now, UTC)

    async def sleep_until(self, when: float) -> None:
        """Return once `now()` is at least *when*."""
        if when <= self._now:
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handle = self.call_at(when, _wake, woken)
        try:
            await woken
        finally:
            handle.cancel()

    async def sleep(self, delay_s: float) -> None:
        """Return once that many seconds have passed here."""
        await self.sleep_until(self._now + delay_s)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Have *callback* called when it is *when* here, as `loop.call_at` does."""
        loop = asyncio.get_running_loop()
        context = copy_context() if context is None else context
        handle = _Handle(when, callback, args, loop, context)
        self.activity += 1
        self._number += 1
        timer = _Timer(callback, args, context, handle, in_background.get())
        if when <= self._now:
            loop.call_soon(timer.fire, context=context)
        else:
            heapq.heappush(self._timers, (when, self._number, timer))
            if self.on_timer is not None and not timer.in_background:
                self.on_timer()
        return handle

    def next_due(self) -> float | None:
        """When something is due next that time may jump to; None when there is nothing."""
        while self._timers and not self._timers[0][2].is_wanted:
            heapq.heappop(self._timers)
        if self._timers and not self._timers[0][2].in_background:
            return self._timers[0][0]
        due = [when for when, _, timer in self._timers if timer.is_wanted and not timer.in_background]
        return min(due, default=None)

    def advance_to(self, when: float) -> None:
        """Make it *when*, and have fire what is due by then."""
        loop = asyncio.get_running_loop()
        self._now = max(self._now, when)
        self.activity += 1
        while self._timers and self._timers[0][0] <= self._now:
            timer = heapq.heappop(self._timers)[2]
            loop.call_soon(timer.fire, context=timer.context)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
