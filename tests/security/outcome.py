"""What came of an attack, and how is a function of its program run?"""

from __future__ import annotations

from typing import Any, Protocol

import attrs

VERDICTS = ("held", "not held")


@attrs.frozen(kw_only=True)
class Outcome:
    """What came of an attack.

    :ivar outside: whether it succeeds without any box, as the engine's user; None where that was not asked
    """

    succeeded: bool
    words: str
    outside: bool | None = None

    @classmethod
    def read(cls, line: str) -> Outcome:
        """Of the line that an attack printed; :raises RuntimeError: it is no verdict"""
        verdict, colon, words = line.partition(": ")
        if not colon or verdict not in VERDICTS:
            raise RuntimeError(f"the attack told no verdict: {line!r}")
        return cls(succeeded=verdict == "not held", words=words)


class Run(Protocol):
    """Runs functions of one attack's program in its box."""

    async def __call__(self, function: str, *, timeout: float = ..., **facts: Any) -> Outcome:
        """Run *function*.

        :raises CommandTimeoutError: it took longer than *timeout*
        :raises RuntimeError: it failed, and told no verdict
        """
        ...
