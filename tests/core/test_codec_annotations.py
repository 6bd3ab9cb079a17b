"""The type of a result is read from the function's annotation, however the function is wrapped."""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Annotated, Any, NoReturn, TypeVar

import pytest

from boxflow.codec import ANY, Unresolved, decode_value, encode_value, payload_type, return_type

T = TypeVar("T")


class Item:
    def method(self) -> list[Item]:
        return [self]

    @classmethod
    def make(cls) -> Item:
        return cls()

    @staticmethod
    def count() -> int:
        return 1

    def __call__(self, ctx: object, payload: bytes) -> set[Item]:
        return {self}


async def fetch(url: str) -> dict[str, int]:
    return {url: 1}


def start() -> Awaitable[int]:
    raise NotImplementedError


def begin() -> Coroutine[Any, Any, Item]:
    raise NotImplementedError


def task() -> asyncio.Task[None]:
    raise NotImplementedError


async def opens() -> Awaitable[int]:
    raise NotImplementedError


def nothing() -> None: ...


def silent():  # type: ignore[no-untyped-def]  # the point
    ...


def never() -> NoReturn:
    raise NotImplementedError


def anything() -> object: ...


def marked() -> Annotated[int, "unit"]:
    return 1


def nested() -> list["Item"]:  # noqa: UP037  # text within text
    return []


def logged(fn: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(fn)
    def wrapper(*args: object) -> T:
        return fn(*args)

    return wrapper


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (fetch, dict[str, int]),
        (functools.partial(fetch, "x"), dict[str, int]),
        (functools.partial(functools.partial(fetch), "x"), dict[str, int]),
        (Item().method, list[Item]),
        (Item.make, Item),
        (Item.count, int),
        (Item(), set[Item]),
        (Item, Item),
        (list[int], list[int]),
        (start, int),
        (begin, Item),
        (task, type(None)),
        (opens, Awaitable[int]),
        (nothing, type(None)),
        (silent, ANY),
        (never, ANY),
        (anything, ANY),
        (lambda: 1, ANY),
        (len, ANY),
        (print, ANY),
        (marked, Annotated[int, "unit"]),
        (nested, list[Item]),
        (logged(fetch), Any),
    ],
)
def test_the_result_type_of(fn: Callable[..., object], expected: object) -> None:
    found = return_type(fn)
    if fn.__class__ is fetch.__class__ and hasattr(fn, "__wrapped__"):
        expected = dict[str, int]  # functools.wraps copies the annotations
    assert found == expected
    assert return_type(fn) == expected


def test_a_local_class_is_found_through_the_closure() -> None:
    class Local:
        pass

    def make() -> Local:
        return Local()

    assert return_type(make) is Local


def test_a_local_class_that_the_function_does_not_use_is_found_through_names() -> None:
    class Local:
        pass

    def pass_on(ctx: object, payload: Local) -> list[Local]:
        return [payload]

    assert isinstance(return_type(pass_on), Unresolved)
    assert return_type(pass_on, locals()) == list[Local]
    assert payload_type(pass_on, locals()) is Local


def test_an_unresolved_annotation_counts_as_any_and_keeps_the_reason() -> None:
    def lost() -> Gone:  # type: ignore[name-defined]  # noqa: F821  # the point
        return 1

    found = return_type(lost)
    assert isinstance(found, Unresolved)
    assert str(found) == "its return annotation 'Gone' could not be resolved: name 'Gone' is not defined"
    assert decode_value(encode_value({"a": 1}, found), found) == {"a": 1}


def test_one_unresolvable_parameter_does_not_hide_the_result_type() -> None:
    def half(value: Gone) -> int:  # type: ignore[name-defined]  # noqa: F821  # the point
        return 1

    assert return_type(half) is int


async def stream(ctx: object, payload: Item | None = None) -> AsyncIterator[int]:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (stream, Item | None),
        (lambda ctx, payload: 1, ANY),
        (fetch, ANY),
        (Item(), bytes),
        (print, ANY),
        (functools.partial(stream), Item | None),
    ],
)
def test_the_payload_type_of(fn: Callable[..., object], expected: object) -> None:
    assert payload_type(fn) == expected


def test_what_is_remembered_does_not_keep_the_function_alive() -> None:
    def short_lived() -> int:
        return 1

    return_type(short_lived)
    alive = weakref.ref(short_lived)
    del short_lived
    gc.collect()
    assert alive() is None
