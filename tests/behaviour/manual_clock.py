"""A clock that stands still until a test moves it, for tests of an engine that is in no `World`."""

from __future__ import annotations

from datetime import UTC, datetime

from boxflow.testing import VirtualClock


class ManualClock:
    """A `boxflow.ports.Clock`: `now()` changes only by `advance`, which lets everything that came due run."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._clock = VirtualClock(datetime.fromtimestamp(now, UTC))

    def now(self) -> float:
        return self._clock.now()

    async def sleep_until(self, when: float) -> None:
        await self._clock.sleep_until(when)

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass at once."""
        self._clock.advance_to(self._clock.now() + seconds)
