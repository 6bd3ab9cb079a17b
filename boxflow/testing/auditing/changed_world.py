"""What is different after a restart, and can be different within a process? Clocks and the environment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final

SHIFT_S: Final = 10_000_019
"""By how much clocks go ahead: some four months, an odd number of seconds and a prime, so that no rounding hides it."""

_KEPT: Final = tuple(os.fsencode(name) for name in ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "PYTHONPATH"))
"""What libraries look at, and what is much the same everywhere."""


def _ahead(name: str, clock: Callable[[], Any]) -> Callable[[], Any]:
    shift = SHIFT_S * 10**9 if name.endswith("_ns") else SHIFT_S
    return lambda: clock() + shift


_AHEAD: Final = {
    name: _ahead(name, getattr(time, name))
    for name in ("time", "monotonic", "perf_counter", "time_ns", "monotonic_ns", "perf_counter_ns")
}


class ChangedWorld:
    """Inside the block, the clocks of `time` are ahead, and most variables of the environment are gone.

    A class, since it is entered after each outcome: a generator would take three times as long.
    """

    def __enter__(self) -> None:
        environ, clocks = _environ(), _clocks()
        # The dict behind it: changing that one alone calls no `putenv`, and starts no other program differently.
        self._variables = environ._data  # noqa: SLF001 - as above
        self._clocks = {name: clocks[name] for name in _AHEAD}
        environ._data = {name: self._variables[name] for name in _KEPT if name in self._variables}  # noqa: SLF001 - as above
        clocks.update(_AHEAD)

    def __exit__(self, *_error: object) -> None:
        _clocks().update(self._clocks)
        _environ()._data = self._variables  # noqa: SLF001 - as above


def _environ() -> Any:
    return os.environ


def _clocks() -> dict[str, Any]:
    return time.__dict__
