"""How is JSON read in which nothing is sure: no key, no type, and not even that it is JSON?

What programs print changes with their versions, is cut when they die, and has numbers and characters in it that JSON or
UTF-8 do not know. None of it may raise: a reader asks for what it needs, and gets an empty value where that is missing.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Iterator
from typing import Final, TypeGuard

import msgspec


class Missing(enum.Enum):
    """The type of `MISSING`, which is not `None`: that is JSON's `null`, and may be an answer."""

    MISSING = enum.auto()


MISSING: Final = Missing.MISSING


def parsed(text: str) -> object:
    """The JSON document that *text* is, as plain data that JSON can keep again; `MISSING` when it is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        # A program that cuts text by UTF-16 units, as JavaScript does, leaves half a character as "\ud83d". That is no
        # text that could be kept, but no reason either to lose the whole line.
        return _mended(text)


def _mended(text: str) -> object:
    try:
        return msgspec.json.decode(clean(json.dumps(json.loads(text), ensure_ascii=False)))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return MISSING


def clean(text: str) -> str:
    """*text* without lone surrogates, which no encoding can keep."""
    return text.encode(errors="replace").decode()


def shortened(text: str, limit: int = 500) -> str:
    """*text* in one line of at most *limit* characters."""
    line = " ".join(clean(text[: 4 * limit]).split())
    return line if len(line) <= limit and len(text) <= 4 * limit else line[: limit - 4] + " ..."


def object_text(value: object) -> str:
    """*value* as JSON for a file or an argument of a `Launch`.

    `{dir}` and `{home}` are replaced there by paths. In JSON they can only stand in a string, where a brace has another
    spelling that means the same.
    """
    text = msgspec.json.encode(value).decode()
    for name in ("dir", "home"):
        text = text.replace(f"{{{name}}}", f"\\u007b{name}}}")
    return text


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _is_object(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


class Value:
    """A JSON value of unknown shape, or none at all: what it is asked for and is not, is empty."""

    __slots__ = ("raw",)

    def __init__(self, raw: object = MISSING) -> None:
        self.raw = raw

    def __getitem__(self, key: str) -> Value:
        return Value(self._keys.get(key, MISSING))

    def __iter__(self) -> Iterator[Value]:
        """The items of a list."""
        if _is_list(self.raw):
            yield from map(Value, self.raw)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __bool__(self) -> bool:
        """Whether there is anything, be it `null`."""
        return self.raw is not MISSING

    def values(self) -> Iterator[Value]:
        """The values of an object."""
        yield from map(Value, self._keys.values())

    @property
    def _keys(self) -> dict[str, object]:
        return self.raw if _is_object(self.raw) else {}

    @property
    def is_object(self) -> bool:
        """Whether it has keys."""
        return _is_object(self.raw)

    @property
    def text(self) -> str:
        """A string; empty when it is none."""
        return self.raw if isinstance(self.raw, str) else ""

    @property
    def flag(self) -> bool:
        """Whether it is `true`."""
        return self.raw is True

    @property
    def count(self) -> int:
        """How many; 0 when it is no number, or a negative one."""
        amount = self.amount
        return max(int(amount), 0) if amount is not None else 0

    @property
    def amount(self) -> float | None:
        """A finite number; None when it is none."""
        if isinstance(self.raw, bool) or not isinstance(self.raw, int | float):
            return None
        return self.raw if _is_finite(self.raw) else None

    @property
    def shown(self) -> str:
        """A string as it is, and anything else as JSON; empty when there is nothing."""
        if self.raw is MISSING or self.raw is None:
            return ""
        return self.raw if isinstance(self.raw, str) else msgspec.json.encode(self.raw).decode()

    @property
    def plain(self) -> object:
        """What it is, as plain data; None when there is nothing."""
        return None if self.raw is MISSING else self.raw


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond the largest float
        return False
