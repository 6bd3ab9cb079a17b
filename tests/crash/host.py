"""How does a test decide what happens next, in virtual time? A host loop that asks whenever it has nothing left to do.

Between two moves everything that can run has run: so a schedule is the sequence of moves, and nothing else. No real
time passes, no thread runs, nothing depends on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

IdleCall = Callable[[float | None], None]
"""Called with the seconds until the next timer, or None without timers; must move something."""


class _NothingReady(selectors.SelectSelector):
    """Waits for no file, and calls *idle* where others would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.idle: IdleCall | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.idle is not None and (timeout is None or timeout > 0):
            self.idle(timeout)
        return []


class HostLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time.

    :param start: what its clock shows at first, in seconds since the epoch
    """

    def __init__(self, start: float) -> None:
        self._nothing_ready = _NothingReady()
        self._start = start
        # From zero: asyncio's timers need nanoseconds, which floats of today's date do not have.
        self._passed_s = 0.0
        super().__init__(self._nothing_ready)

    def time(self) -> float:
        """Virtual time that has passed: it moves when somebody moves it."""
        return self._passed_s

    def now(self) -> float:
        """The virtual date, in seconds since the epoch."""
        return round(self._start + self._passed_s, 6)

    def advance(self, delay_s: float) -> None:
        """Let *delay_s* pass."""
        # At least a microsecond: so that the rounding of large floats cannot keep an instant from coming.
        self._passed_s = round(self._passed_s + max(delay_s, 1e-6), 6)

    def play(self, main: Any, idle: IdleCall) -> Any:
        """Run *main* to its end, calling *idle* each time there is nothing else to do."""
        self._nothing_ready.idle = idle
        try:
            return self.run_until_complete(main)
        finally:
            self._nothing_ready.idle = None

    def abandon(self) -> None:
        """Close the loop; what a broken-off life has left on it is cancelled first."""
        if left := asyncio.all_tasks(self):
            for task in left:
                task.cancel()
            self.play(asyncio.wait(left), lambda timeout_s: self.advance(timeout_s or 0.0))
        self.close()


class HostClock:
    """The clock of an engine on a `HostLoop`."""

    def __init__(self, loop: HostLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        """The loop's virtual date."""
        return self._loop.now()

    async def sleep_until(self, when: float) -> None:
        """Return once the loop's date is *when*."""
        while (left := when - self._loop.now()) > 0:
            await asyncio.sleep(left)
