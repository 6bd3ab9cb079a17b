"""When is something due, and who is told? One task that sleeps until the earliest instant, for all runs."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from contextvars import ContextVar

from boxflow.ports import Clock

in_background: ContextVar[bool] = ContextVar("boxflow_in_background", default=False)
"""Set in tasks that sleep only to look after things again and again: no virtual clock jumps for their sake."""

LONGEST_SLEEP_S = 3600.0
"""The wall clock may be set while we sleep; an hour bounds by how much a timer can be late for that."""


class SystemClock:
    """The machine's wall clock."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    async def sleep_until(self, when: float) -> None:
        """Return once `now()` is at least *when*."""
        while (left := when - time.time()) > 0:  # noqa: ASYNC110 - the clock is looked at again, nobody sets an event
            await asyncio.sleep(min(left, LONGEST_SLEEP_S))


class Timekeeper:
    """Calls `ring(run_id)` when an instant that was set for that run has come.

    Instants are never taken back: who is rung looks whether there is something to do.
    """

    def __init__(self, clock: Clock, ring: Callable[[str], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._heap: list[tuple[float, str]] = []
        self._sleep: asyncio.Future[None] | None = None
        self._sleeping_until = float("inf")

    def set(self, when: float, run_id: str) -> None:
        """Ring for *run_id* at *when*."""
        heapq.heappush(self._heap, (when, run_id))
        if when < self._sleeping_until and self._sleep is not None:
            self._sleep.cancel()

    async def run(self) -> None:
        """Ring as instants come, until cancelled."""
        while True:
            now = self._clock.now()
            while self._heap and self._heap[0][0] <= now:
                self._ring(heapq.heappop(self._heap)[1])
            self._sleeping_until = self._heap[0][0] if self._heap else float("inf")
            if self._heap:
                self._sleep = asyncio.ensure_future(self._clock.sleep_until(self._sleeping_until))
            else:
                self._sleep = asyncio.get_running_loop().create_future()
            try:
                # The sleep ends by itself, or is cancelled by `set`; being cancelled ourselves must pass through.
                await asyncio.wait([self._sleep])
            finally:
                self._sleep.cancel()
                self._sleep = None
