"""When is a failed step tried again, and after which pause?"""

from __future__ import annotations

import math
from typing import Any, cast

import attrs

from boxflow.errors import ConfigurationError, NonRetryableError
from boxflow.model import Duration, seconds

_FAR = 1000
"""Exponents beyond this many doublings cannot change a pause any more, and would overflow a float."""


def _pause(name: str, value: Duration) -> float:
    try:
        return seconds(value)
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(f"Retry({name}={value!r}): {exc}") from exc


def _delay_s(value: Duration) -> float:
    return _pause("delay", value)


def _max_delay_s(value: Duration) -> float:
    return _pause("max_delay", value)


def _check_attempts(_: object, __: object, value: Any) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ConfigurationError(f"Retry(attempts={value!r}): must be an int of at least 1, or None for no limit")


def _check_factor(_: object, __: object, value: Any) -> None:
    if not isinstance(value, int | float) or not 1 <= value < math.inf:
        raise ConfigurationError(f"Retry(factor={value!r}): must be a finite number of at least 1")


def _check_jitter(_: object, __: object, value: Any) -> None:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigurationError(f"Retry(jitter={value!r}): must be a number from 0 to 1")


def _check_on(_: object, __: object, value: Any) -> None:
    kinds = cast("tuple[object, ...]", value if isinstance(value, tuple) else (value,))
    if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        # BaseException would take cancellation for a failure.
        raise ConfigurationError(f"Retry(on={value!r}): must be an Exception class, or a tuple of them")


@attrs.frozen
class Retry:
    """How often a step is tried, and how long the engine waits in between.

    The n-th pause is `delay * factor ** (n - 1)`, at most `max_delay`, and then moved at random by up to `jitter` of
    itself in both directions, so that steps that failed together do not come back together. `jitter=1.0` spreads a
    pause over zero to twice its length: "full jitter" of Marc Brooker's "Exponential Backoff And Jitter" (AWS
    Architecture Blog, 2015), centred on the pause; a smaller one follows its "equal jitter", part fixed, part random.

    :param attempts: how often in total, the first try included; None for no limit
    :param delay: the first pause (seconds, `timedelta` or `"5s"`); read back in seconds, as is *max_delay*
    :param factor: what each pause is multiplied by, at least 1
    :param jitter: the random part of a pause, 0 to 1
    :param on: only these exceptions are retried, and no `NonRetryableError`
    :raises ConfigurationError: a value that cannot work
    """

    attempts: int | None = attrs.field(default=3, validator=_check_attempts)
    delay: float = attrs.field(default=1.0, converter=_delay_s)
    factor: float = attrs.field(default=2.0, validator=_check_factor)
    max_delay: float = attrs.field(default=60.0, converter=_max_delay_s)
    jitter: float = attrs.field(default=0.1, validator=_check_jitter)
    on: type[Exception] | tuple[type[Exception], ...] = attrs.field(default=Exception, validator=_check_on)

    def wants(self, error: BaseException) -> bool:
        """Whether *error* is one to try again after."""
        return isinstance(error, self.on) and not isinstance(error, NonRetryableError)

    def allows(self, attempt: int) -> bool:
        """Whether another try may follow the *attempt*-th (the first is 1)."""
        return self.attempts is None or attempt < self.attempts

    def pause_s(self, attempt: int, random: float) -> float:
        """Seconds to wait after the *attempt*-th try failed; *random* is in [0, 1)."""
        exponent = min(attempt - 1, _FAR)
        try:
            pause = min(self.delay * self.factor**exponent, self.max_delay)
        except OverflowError:
            pause = self.max_delay if self.delay else 0.0
        return pause * (1 + self.jitter * (2 * random - 1))
