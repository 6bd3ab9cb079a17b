"""Unions whose members look alike in JSON give back the very member that went in."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

import attrs
import pytest

from boxflow.codec import decode_value, encode_loose, encode_value
from boxflow.errors import DecodeError, EncodeError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Approved:
    by: str


@dataclasses.dataclass(frozen=True)
class Rejected:
    by: str


@attrs.frozen
class Deferred:
    until: dt.date


@dataclasses.dataclass(frozen=True)
class Yes:
    answer: Literal["yes"]
    who: str


@dataclasses.dataclass(frozen=True)
class No:
    answer: Literal["no"]
    who: str


Verdict = Approved | Rejected | Deferred


@dataclasses.dataclass
class Holder:
    verdict: Approved | Rejected
    more: list[Approved | Rejected | None] = dataclasses.field(
        default_factory=lambda: list[Approved | Rejected | None]()
    )
    kids: list[Holder] = dataclasses.field(default_factory=lambda: list[Holder]())
    made: int = dataclasses.field(init=False, default=0)


@attrs.frozen
class Private:
    _verdict: Approved | Rejected


@attrs.frozen
class Page(Generic[T]):
    items: list[T]


class Line(NamedTuple):
    number: int
    verdict: Approved | Rejected


class Box(TypedDict):
    verdict: NotRequired[Approved | Rejected]
    id: int


HELD = Holder(Approved("a"), [Rejected("b"), None], [Holder(Rejected("c"))])
HELD.made = 7

KEPT: list[tuple[Any, Any]] = [
    (Approved("x"), Verdict),
    (Rejected("x"), Verdict),
    (Deferred(dt.date(2024, 1, 1)), Verdict),
    (None, Verdict | None),
    ([Approved("x"), Rejected("x")], list[Approved | Rejected]),
    ((Rejected("x"), 1), tuple[Approved | Rejected, int]),
    ((Rejected("x"),), tuple[Approved | Rejected, ...]),
    ({Rejected("x"), Approved("x")}, set[Approved | Rejected]),
    ({1: Approved("x"), 2: Rejected("x")}, dict[int, Approved | Rejected]),
    (HELD, Holder),
    (Private(Rejected("x")), Private),
    (Page([Approved("x"), Rejected("x")]), Page[Approved | Rejected]),
    (Line(1, Rejected("x")), Line),
    (Box(id=1, verdict=Rejected("x")), Box),
    (Box(id=1), Box),
    ("2024-01-01", str | dt.date),
    (dt.date(2024, 1, 1), str | dt.date),
    (dt.datetime(2024, 1, 1), dt.datetime | dt.date),
    (dt.date(2024, 1, 1), dt.datetime | dt.date),
    ([1], list[int] | set[int]),
    ({1}, list[int] | set[int]),
    ({"by": "x"}, dict[str, str] | Approved),
    (Approved("x"), dict[str, str] | Approved),
    ({"$type": "Approved", "$value": "x"}, dict[str, str] | Approved),
    (b"x", str | bytes | None),
    (3, float | Approved | Rejected),
]


@pytest.mark.parametrize(("value", "type"), KEPT, ids=[str(index) for index in range(len(KEPT))])
def test_the_same_member_comes_back(value: object, type: Any) -> None:
    back = decode_value(encode_value(value, type), type)
    assert back == value
    assert back.__class__ is (float if value == 3 else value.__class__)


def test_the_tag_is_readable_in_the_journal() -> None:
    assert encode_value(Rejected("ann"), Verdict) == b'{"$type":"Rejected","$value":{"by":"ann"}}'


def test_members_of_one_name_are_told_apart() -> None:
    def another() -> Any:
        @dataclasses.dataclass
        class Approved:
            by: str

        return Approved

    other = another()
    back = decode_value(encode_value(other("x"), Approved | other), Approved | other)
    assert type(back) is other


def test_a_value_of_no_member_is_refused_with_its_place() -> None:
    with pytest.raises(EncodeError, match=r"a list, which does not fit its type .*: an int fits no member at \[1\]"):
        encode_value([Approved("x"), 3], list[Approved | Rejected])


def test_data_from_outside_needs_no_tag_where_one_member_fits() -> None:
    sent = encode_loose(No("no", "ann"))
    assert decode_value(sent, Yes | No) == No("no", "ann")
    assert decode_value(b'{"until":"2024-01-01"}', Verdict) == Deferred(dt.date(2024, 1, 1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"by":"x"}', 'Approved and Rejected fit it alike; say which with {"$type": "Approved", "$value": ...}'),
        (b'{"by":"x","z":1}', "not Approved: unknown field `z`; not Rejected: unknown field"),
        (b'{"$type":"Maybe","$value":1}', "`$type` is 'Maybe', expected one of Approved, Rejected, Deferred"),
        (b'{"$type":"Approved","$value":{"by":1}}', "Expected `str`, got `int` at .by"),
        (b"3", "not Approved: Expected `object`, got `int`"),
        (b'{"by":', "Input data was truncated"),
    ],
)
def test_data_that_fits_none_or_several_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_value(data, Verdict)
    assert message in str(caught.value)


def test_the_place_of_a_misfit_leads_through_containers_and_fields() -> None:
    with pytest.raises(DecodeError, match=r"at \.more\[1\]\.by"):
        decode_value(
            b'{"verdict":{"$type":"Approved","$value":{"by":"x"}},"more":[null,{"$type":"Approved","$value":{"by":1}}]}',
            Holder,
        )
