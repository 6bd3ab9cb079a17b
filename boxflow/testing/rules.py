"""What answers to which name? Rules: a name or a pattern, and a function, a value or an error that stands in."""

from __future__ import annotations

import inspect
from asyncio.events import (
    _get_running_loop,  # pyright: ignore[reportPrivateUsage] # as boxflow.loop does: asyncio has no public way
    _set_running_loop,  # pyright: ignore[reportPrivateUsage] # likewise
)
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Final, cast

import attrs

from boxflow.errors import ConfigurationError
from boxflow.steps import is_async

_WILDCARDS: Final = frozenset("*?[")


@attrs.define
class Rule:
    """What stands in for everything of a name.

    :param pattern: a name, or a pattern as of `fnmatch`
    :param answer: a function, an exception or its class, or the value itself
    :ivar uses: how often it has answered
    """

    pattern: str
    answer: object
    after_s: float = 0.0
    uses: int = 0

    @property
    def is_exact(self) -> bool:
        """Whether it is for one name only."""
        return not _WILDCARDS & set(self.pattern)

    def matches(self, name: str) -> bool:
        """Whether it is for *name*."""
        return self.pattern == name or fnmatchcase(name, self.pattern)

    async def result(self, *args: Any) -> Any:
        """What it answers to *args*; raises what it is to raise."""
        self.uses += 1
        return await answered(self.answer, *args)


class Rules:
    """Rules of one kind; of several that match, the one that was added last answers."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def add(self, pattern: str, answer: object, *, after_s: float = 0.0) -> Rule:
        """Have *answer* stand in for *pattern* from now on.

        :raises ConfigurationError: the pattern is empty
        """
        if not pattern:
            raise ConfigurationError("a rule needs a name or a pattern, such as 'publish' or 'port-*'; got ''")
        rule = Rule(pattern, answer, after_s)
        self._rules.append(rule)
        return rule

    def find(self, name: str, *, exact: bool = False) -> Rule | None:
        """The rule for *name*, if there is one.

        :param exact: no pattern counts
        """
        for rule in reversed(self._rules):
            if rule.matches(name) and (rule.is_exact or not exact):
                return rule
        return None

    @property
    def unused(self) -> list[str]:
        """The patterns that have answered nothing so far: perhaps a name is written wrongly."""
        return [rule.pattern for rule in self._rules if not rule.uses]


async def answered(answer: object, *args: Any) -> Any:
    """What *answer* gives for *args*: called where it can be, raised where it is an error, else itself."""
    if is_error(answer):
        raise cast(BaseException, answer)
    return await carried_out(answer, args) if callable(answer) else answer


def is_error(answer: object) -> bool:
    """Whether *answer* is an exception, or a class of them."""
    return isinstance(answer, BaseException) or (
        isinstance(answer, type) and issubclass(cast("type[object]", answer), BaseException)
    )


async def carried_out(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """What *fn* gives for *args*: a coroutine function on the loop, a plain one beside it, and never in a thread."""
    if is_async(fn):
        return await fn(*args)
    loop = _get_running_loop()
    # As in the worker thread that it has in life: there is no loop, and `asyncio.run` works.
    _set_running_loop(None)
    try:
        value = fn(*args)
    finally:
        _set_running_loop(loop)
    return await value if inspect.isawaitable(value) else value
