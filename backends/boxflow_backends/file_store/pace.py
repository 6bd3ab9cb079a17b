"""How long does a compaction keep the interpreter to itself before it lets the event loop have it?"""

from __future__ import annotations

import time
from collections.abc import Callable

# A quarter of a millisecond of work, so that the event loop never waits long for the interpreter.
_LINES = 64
# Ten times that is still less than the interval at which the interpreter takes itself away from a thread.
_MOST = 10
# Letting go means sleeping: without it every thread that wants the interpreter waits out that interval.
_PAUSE_S = 0.0005


class StoppedError(Exception):
    """The store is being closed."""


class Pace:
    """Counts lines, and sleeps a moment after some of them: after more of them the more there is to do.

    A thread that sleeps after each quarter of a millisecond gets little of a busy interpreter. That is well while it
    keeps up with what is written; one that falls behind takes longer turns, so that it cannot fall behind for ever.

    :param backlog: how much waits to be compacted, as a multiple of what is compacted at once
    :param stopped: whether to raise `StoppedError` instead of going on
    """

    def __init__(self, *, backlog: Callable[[], float], stopped: Callable[[], bool]) -> None:
        self._backlog = backlog
        self._stopped = stopped
        self._left = _LINES

    def breathe(self) -> None:
        """Called once a line."""
        self._left -= 1
        if self._left:
            return
        if self._stopped():
            raise StoppedError
        time.sleep(_PAUSE_S)
        self._left = int(_LINES * min(max(self._backlog(), 1), _MOST))
