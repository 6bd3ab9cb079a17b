"""A refusal says what was found, where, and what to do instead."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

import pytest

from boxflow.codec import ANY, encode_value, return_type
from boxflow.errors import EncodeError


@dataclasses.dataclass
class Verdict:
    approved: bool


class Colour(enum.StrEnum):
    RED = "red"


def said(value: object, type: object = ANY, **how: str) -> str:
    with pytest.raises(EncodeError) as caught:
        encode_value(value, type, **how)
    return f"step 'fetch' returned {caught.value}"


MESSAGES: list[tuple[Any, Any, str]] = [
    ({"a"}, ANY, "a set, which JSON cannot keep; return a list, or pass type=set[str]"),
    (
        {"tags": [{"a"}]},
        ANY,
        (
            "a dict that holds a set at ['tags'][0], which JSON cannot keep; "
            "return a list there, or pass type=dict[str, list[set[str]]]"
        ),
    ),
    ((1, 2), ANY, "a tuple, which JSON cannot keep; return a list, or pass type=tuple[int, int]"),
    (
        (1, 2, 3),
        Sequence[int],
        "a tuple, which comes back as a list under its type Sequence[int]; return a list, or pass type=tuple[int, ...]",
    ),
    (
        [{1}],
        list,
        (
            "a list that holds a set at [0], which comes back as a list under its type list; "
            "return a list there, or pass type=list[set[int]]"
        ),
    ),
    (
        {1: 2},
        ANY,
        "a dict with the int key 1, which JSON cannot keep; return str keys, or pass type=dict[int, int]",
    ),
    (
        Verdict(True),
        ANY,
        "a Verdict, which JSON cannot keep; annotate the return type, or pass type=Verdict",
    ),
    (
        [Verdict(True)],
        list,
        (
            "a list that holds a Verdict at [0], which comes back as a dict under its type list; "
            "annotate the return type, or pass type=list[Verdict]"
        ),
    ),
    (
        Colour.RED,
        str,
        "a Colour, which comes back as a str under its type str; return a plain str, or pass type=Colour",
    ),
    (float("nan"), float, "the float nan, which JSON cannot keep; return None or a str in its place"),
    (
        {"a": "x"},
        dict[str, int],
        (
            "a dict, which does not fit its type dict[str, int]: Expected `int`, got `str` at [...]; "
            "return what the type says, or change the type"
        ),
    ),
    (
        None,
        str,
        (
            "None, which does not fit its type str: Expected `str`, got `null`; "
            "return what the type says, or change the type"
        ),
    ),
    (object(), ANY, "an object, which JSON cannot keep; return plain data, a dataclass or an attrs class"),
    (
        [1, {"b": [object()]}],
        Any,
        (
            "a list that holds an object at [1]['b'][0], which JSON cannot keep; "
            "return plain data, a dataclass or an attrs class"
        ),
    ),
    ((one for one in "ab"), ANY, "a generator, which JSON cannot keep; return a list of what it yields"),
    ("\ud800", ANY, "a str, which JSON cannot keep; return text without lone surrogates, or bytes"),
    (10**5000, int, "an int, which JSON cannot keep; return a str: it has too many digits"),
]


@pytest.mark.parametrize(("value", "type", "message"), MESSAGES, ids=[str(index) for index in range(len(MESSAGES))])
def test_the_message_names_thing_place_and_remedy(value: object, type: object, message: str) -> None:
    assert said(value, type) == f"step 'fetch' returned {message}"


def test_a_coroutine_is_to_be_awaited() -> None:
    coroutine = asyncio.sleep(0)
    assert said(coroutine).endswith("return what it results in: await it")
    coroutine.close()


def test_the_verb_suits_the_giver() -> None:
    assert said({1}, verb="pass").endswith("; pass a list, or pass type=set[int]")


def test_a_value_that_holds_itself_is_named_without_its_endless_path() -> None:
    ring: list[object] = []
    ring.append(ring)
    assert "a list that holds itself or is nested too deeply" in said(ring)
    assert "a list that holds itself or is nested too deeply" in said(ring, list)


def test_an_annotation_that_could_not_be_resolved_is_told() -> None:
    def fetch() -> Missing:  # type: ignore[name-defined]  # noqa: F821  # the point of the test
        return {1}

    assert said({1}, return_type(fetch)).endswith(
        "(its return annotation 'Missing' could not be resolved: name 'Missing' is not defined)"
    )


def test_a_type_that_cannot_be_decoded_is_told_at_once() -> None:
    @dataclasses.dataclass
    class Lost:
        of: Nowhere  # type: ignore[name-defined]  # noqa: F821  # the point of the test

    assert "whose type Lost JSON data cannot be decoded to: name 'Nowhere' is not defined" in said(Lost(1), Lost)


def test_a_suggested_type_does_keep_the_value() -> None:
    assert "type=" not in said({"a": {1}, "b": object()})
    message = said({1: (1, "a")})
    encode_value({1: (1, "a")}, eval(message.partition("type=")[2]))
