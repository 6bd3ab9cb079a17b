"""Did a value come back as it was, and if not, where?

JSON knows six types; Python programs use more. `difference` compares types as well as contents, because `1 == True`,
`{1} == frozenset({1})` and every `StrEnum` would slip through `==`.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# Values of any type pass through here; what is known of them is asked at run time.

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import math
import sys
from collections.abc import Callable, Iterator
from types import NoneType
from typing import Any

import msgspec

MISSING: Any = enum.Enum("Missing", ["MISSING"]).MISSING  # type: ignore[attr-defined]  # the functional form is opaque
"""Stands for what is not there."""

_UNCHANGED = frozenset({str, int, bool, NoneType})
_COMPARABLE = _UNCHANGED | {float, bytes}


class Difference(msgspec.Struct, frozen=True):
    """Something that does not come back: *path* leads to it, *back* is what comes instead (`MISSING`: nothing)."""

    path: str
    value: object
    back: object = MISSING

    def under(self, prefix: str) -> Difference:
        """The same, seen from what holds it."""
        return Difference(prefix + self.path, self.value, self.back)


def is_plain(value: Any) -> bool:
    """Whether JSON gives *value* back exactly as it is, without knowing a type."""
    kind = type(value)
    if kind in _UNCHANGED:
        return True
    if kind is list:
        for item in value:  # noqa: SIM110  # all() with its generator halves the depth that can be reached
            if type(item) not in _UNCHANGED and not is_plain(item):
                return False
        return True
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or (type(item) not in _UNCHANGED and not is_plain(item)):
                return False
        return True
    return kind is float and math.isfinite(value)


def first_not_plain(value: Any) -> Difference | None:
    """The first thing in *value* for which `is_plain` is false, keys before what they lead to."""
    if is_plain(value):
        return None
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                return Difference("", Key(key))
    if type(value) in (list, dict):
        for step, item in children(value):
            if (found := first_not_plain(item)) is not None:
                return found.under(step)
    return Difference("", value)


class Key(msgspec.Struct, frozen=True):
    """A key of a dict, where it is the key that cannot be kept."""

    key: object


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """What *value* holds, each with its step of the path: `[2]`, `['name']`, `.field`."""
    match value:
        case dict():
            for key, item in value.items():
                yield f"[{key!r}]", item
        case tuple() if (names := tuple_names(value)) is not None:
            for name in names:
                yield f".{name}", getattr(value, name)
        case list() | tuple():
            for index, item in enumerate(value):
                yield f"[{index}]", item
        case set() | frozenset():
            for item in value:
                yield f"{{{item!r}}}", item
        case _:
            kind: Any = type(value)
            for name in field_names(kind) or ():
                yield f".{name}", getattr(value, name, MISSING)
            if is_model(kind):
                for name, item in (value.model_extra or {}).items():
                    yield f".{name}", item


def tuple_names(record: Any) -> tuple[str, ...] | None:
    """The field names of a NamedTuple or its instance; None for another tuple."""
    return getattr(record, "_fields", None)


def _field_names(kind: Any) -> tuple[str, ...] | None:
    """The names of the fields of a dataclass, attrs class, `msgspec.Struct` or pydantic model; None for other types."""
    if hasattr(kind, "__attrs_attrs__"):
        return tuple(one.name for one in kind.__attrs_attrs__)
    if dataclasses.is_dataclass(kind):
        return tuple(one.name for one in dataclasses.fields(kind))
    if is_model(kind):
        return tuple(kind.model_fields)
    if issubclass(kind, msgspec.Struct):
        return tuple(kind.__struct_fields__)
    return None


field_names: Callable[[Any], tuple[str, ...] | None] = functools.lru_cache(maxsize=1024)(_field_names)


def is_model(kind: object) -> bool:
    """Whether *kind* is a pydantic model. Where nobody has imported pydantic, nothing is."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def difference(value: Any, back: Any) -> Difference | None:
    """Where *back*, what the codec made of *value*, is not the same; None when all of it is.

    An int that comes back as the same float is the same: that is what `float` in an annotation means. So is a time with
    the same instant and offset: the name of its zone is not data. Neither is the `fold` of a naive time, which `==`
    does not see; to refuse it would fail `datetime.now()` during one hour a year.
    """
    kind: Any = type(value)
    if kind is not type(back):
        same_number = kind is int and type(back) is float and value == back
        return None if same_number else Difference("", value, back)
    if kind in _COMPARABLE:
        return None if value == back else Difference("", value, back)
    if kind is list:
        return _list_difference(value, back)
    if kind is dict:
        return _dict_difference(value, back)
    if kind is set or kind is frozenset:
        partners = {item: item for item in back}
        for item in value:
            if (found := difference(item, partners.get(item, MISSING))) is not None:
                return found.under(f"{{{item!r}}}")
        return None if len(value) == len(back) else Difference("", value, back)
    if tuple in kind.__mro__ or field_names(kind) is not None:  # issubclass would narrow the type for mypy
        return _record_difference(kind, value, back)
    return None if _is_same_leaf(value, back) else Difference("", value, back)


# The two loops compare scalars themselves: a call for each would take most of the time that a step's value costs.


def _list_difference(value: list[Any], back: list[Any]) -> Difference | None:
    if len(value) != len(back):
        return Difference("", value, back)
    for index, item in enumerate(value):
        other = back[index]
        kind = type(item)
        if kind is type(other) and kind in _COMPARABLE and item == other:
            continue
        if (found := difference(item, other)) is not None:
            return found.under(f"[{index}]")
    return None


def _dict_difference(value: dict[Any, Any], back: dict[Any, Any]) -> Difference | None:
    if len(value) != len(back):
        return Difference("", value, back)
    for (key, item), (other_key, other) in zip(value.items(), back.items(), strict=True):
        kind = type(key)
        if not (kind is str and type(other_key) is str and key == other_key) and difference(key, other_key) is not None:
            return Difference("", Key(key), Key(other_key))
        kind = type(item)
        if kind is type(other) and kind in _COMPARABLE and item == other:
            continue
        if (found := difference(item, other)) is not None:
            return found.under(f"[{key!r}]")
    return None


def _record_difference(kind: Any, value: Any, back: Any) -> Difference | None:
    names = field_names(kind)
    if names is None or is_model(kind):  # a tuple; a model may have extras besides its fields
        ours, theirs = list(children(value)), list(children(back))
        if len(ours) != len(theirs):
            return Difference("", value, back)
        pairs = [(step, item, other) for (step, item), (_, other) in zip(ours, theirs, strict=True)]
    else:
        pairs = [(f".{name}", getattr(value, name, MISSING), getattr(back, name, MISSING)) for name in names]
    for step, item, other in pairs:
        if (found := difference(item, other)) is not None:
            return found.under(step)
    return None


def _is_same_leaf(value: Any, back: Any) -> bool:
    match value:
        case decimal.Decimal():  # 1.10 equals 1.1 but is not it; NaN is not equal to itself
            return str(value) == str(back)
        case dt.datetime() | dt.time():
            # Not `==` between zones: in the hour that comes twice a time equals none of another zone (PEP 495).
            same_clock = value.replace(tzinfo=None) == back.replace(tzinfo=None)
            return bool(same_clock and value.utcoffset() == back.utcoffset())
        case _:
            return bool(value == back)
