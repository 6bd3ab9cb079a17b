"""Where does an engine get its time from?"""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Where an engine gets its time from."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    async def sleep_until(self, when: float) -> None:
        """Return once `now()` is at least *when*; cancelling ends the sleep at once."""
        ...
