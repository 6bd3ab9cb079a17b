"""Does a workflow body block the host's thread, and where? A watching thread that samples a body which runs too long.

A body should only decide; what computes or waits belongs into a step. While a body runs, nothing else in the
application does. So a drain that takes longer than a bound is reported, with the line that was running then.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import FrameType

from boxflow.loop import WorkflowLoop

log = logging.getLogger("boxflow")

_OURS = ("boxflow.", "asyncio", "contextvars", "logging", "threading")


class BlockingMonitor:
    """Drains loops under watch. One daemon thread, asleep while nothing is drained.

    :param limit_s: from how long on a body is reported
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._drains = 0
        self._reported = 0
        self._since = 0.0
        self._running: str | None = None
        self._sample: tuple[int, str] = (0, "")
        self._asleep = False
        self._stopped = False
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._host = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="boxflow-monitor", daemon=True)

    def start(self) -> None:
        """Begin to watch the calling thread."""
        self._host = threading.get_ident()
        self._thread.start()

    def stop(self) -> None:
        """End the watching thread."""
        self._stopped = True
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=5)

    def drain(self, loop: WorkflowLoop) -> None:
        """`loop.drain()`, watched."""
        self._drains += 1
        self._since = since = time.perf_counter()
        self._running = getattr(loop.owner, "run_id", "")
        if self._asleep:
            self._asleep = False
            self._wake.set()
        try:
            loop.drain()
        finally:
            running, self._running = self._running, None
            if time.perf_counter() - since >= self._limit_s and self._reported != self._drains:
                # It ended between two looks; the last one saw it at this line.
                self._report(running, self._drains)

    def _watch(self) -> None:
        while not self._stopped:
            drains = self._drains
            self._stop.wait(self._limit_s / 4)
            running, since = self._running, self._since
            if running is not None and drains == self._drains:
                elapsed_s = time.perf_counter() - since
                if elapsed_s >= self._limit_s / 2:
                    frames = sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # no other way
                    self._sample = (drains, _innermost(frames.get(self._host)))
                if elapsed_s >= self._limit_s and self._reported != drains:
                    self._report(running, drains)
            elif running is None and drains == self._drains:
                self._wake.clear()
                self._asleep = True
                # Asked again after the clearing: a call for us that came just before it is not slept through.
                if not self._stop.is_set() and drains == self._drains:
                    self._wake.wait()

    def _report(self, run_id: str | None, drain: int) -> None:
        self._reported = drain
        sampled, line = self._sample
        log.warning(
            "the body of run %r blocked the event loop for more than %g ms, at %s; move what computes or waits into a "
            "step: `await ctx.run(name, fn)`",
            run_id,
            self._limit_s * 1000,
            line if sampled == drain else "a line that was over before it could be looked at",
        )


def _innermost(frame: FrameType | None) -> str:
    """The innermost line that is not ours or asyncio's."""
    first = frame
    while frame is not None:
        if not frame.f_globals.get("__name__", "").startswith(_OURS):
            return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
        frame = frame.f_back
    return "an unknown line" if first is None else f"{first.f_code.co_filename}:{first.f_lineno}"
