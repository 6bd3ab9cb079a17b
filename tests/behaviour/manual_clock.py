"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio


class ManualClock:
    """A `boxflow.ports.Clock`: `now()` changes only by `advance`, which lets everything that came due run."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._moved = asyncio.Event()

    def now(self) -> float:
        return self._now

    async def sleep_until(self, when: float) -> None:
        while self._now < when:
            await self._moved.wait()

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass at once."""
        self._now += seconds
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
