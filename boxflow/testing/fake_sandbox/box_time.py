"""What time is it in boxes that are only in memory? That of the world that they are in, else the machine's."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from boxflow.testing.virtual_clock import VirtualClock

NEVER_S: Final = 1e9
"""Longer than any test."""


class BoxTime:
    """Time for what goes on in boxes. It outlives worlds: what sleeps goes on in the next one that has these boxes."""

    def __init__(self) -> None:
        self._clock: VirtualClock | None = None
        self._sleeping: dict[asyncio.Future[None], float] = {}

    def use(self, clock: VirtualClock) -> None:
        """From here on it is the time of *clock*."""
        self._clock = clock
        for woken, when in self._sleeping.items():
            self._arm(woken, when)

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time() if self._clock is None else self._clock.now()

    async def sleep(self, delay_s: float) -> None:
        """Return after *delay_s*."""
        await self.until(asyncio.get_running_loop().create_future(), delay_s)

    async def until(self, done: asyncio.Future[None], delay_s: float) -> None:
        """Return when *done* is, or after *delay_s*; *done* is left as it is."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        when = self.now() + delay_s
        self._sleeping[woken] = when
        handle = self._arm(woken, when)
        try:
            await asyncio.wait({woken, done}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._sleeping[woken]
            handle.cancel()

    def _arm(self, woken: asyncio.Future[None], when: float) -> asyncio.TimerHandle:
        if self._clock is not None:
            return self._clock.call_at(when, _wake, woken)
        return asyncio.get_running_loop().call_later(when - time.time(), _wake, woken)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
