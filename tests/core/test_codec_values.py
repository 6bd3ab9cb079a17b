"""What the codec keeps comes back exactly; what it cannot keep exactly is refused."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import pathlib
import uuid
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxflow.codec import ANY, decode_value, encode_loose, encode_value
from boxflow.errors import DecodeError, EncodeError
from boxflow.fidelity import difference

T = TypeVar("T")


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Tree:
    name: str
    leaves: set[str] = dataclasses.field(default_factory=set[str])
    kids: list[Tree] = dataclasses.field(default_factory=lambda: list[Tree]())
    made: int = dataclasses.field(init=False, default=0)


@attrs.frozen
class Owner:
    name: str
    since: dt.datetime | None = None


@attrs.frozen
class Page(Generic[T]):
    items: tuple[T, ...]
    next: str | None = None


class Row(NamedTuple):
    id: uuid.UUID
    cost: decimal.Decimal


class Movie(TypedDict):
    name: str
    year: NotRequired[int]


class Packed(msgspec.Struct, array_like=True):
    a: int
    b: bytes


UserId = NewType("UserId", int)
PARIS = zoneinfo.ZoneInfo("Europe/Paris")


def round_trip(value: object, type: object = ANY) -> Any:
    return decode_value(encode_value(value, type), type)


KEPT = [
    (None, None),
    (None, type(None)),
    (True, bool),
    (2**200, int),
    (-0.0, float),
    (3, float),
    ("é\x00😀", str),
    (b"\x00\xff", bytes),
    (bytearray(b"x"), bytearray),
    (Colour.RED, Colour),
    (Level.LOW, Level),
    (Mode.READ | Mode.WRITE, Mode),
    ({Colour.RED: 1}, dict[Colour, int]),
    ({1: "a", -5: "b"}, dict[int, str]),
    ({1.5: "a"}, dict[float, str]),
    ({uuid.UUID(int=7): None}, dict[uuid.UUID, None]),
    ({dt.date(2024, 2, 29): 1}, Mapping[dt.date, int]),
    (dt.datetime(2024, 2, 29, 1, 2, 3, 4), dt.datetime),
    (dt.datetime(2024, 7, 1, tzinfo=PARIS), dt.datetime),
    (dt.datetime(2024, 7, 1, tzinfo=dt.UTC), dt.datetime),
    (dt.time(1, 2, 3, tzinfo=dt.UTC), dt.time),
    (dt.timedelta.max, dt.timedelta),
    (dt.timedelta(days=-1, microseconds=1), dt.timedelta),
    (decimal.Decimal("1.10"), decimal.Decimal),
    (decimal.Decimal("NaN"), decimal.Decimal),
    (uuid.UUID(int=1), uuid.UUID),
    (pathlib.Path("a/b"), pathlib.Path),
    ([pathlib.PurePosixPath("/x")], list[pathlib.PurePosixPath]),
    (ipaddress.IPv6Address("::1"), ipaddress.IPv6Address),
    ({"a", "b"}, set[str]),
    (frozenset({1}), frozenset[int]),
    ((1, "a"), tuple[int, str]),
    ((), tuple[int, ...]),
    ([1, 2], Sequence[int]),
    ([[{"a": None}]], list[Any]),
    (Point(1, 2), Point),
    (Point(1), Point | None),
    (Tree("a", {"x"}, [Tree("b")]), Tree),
    (Owner("ann", dt.datetime(2024, 1, 1, tzinfo=dt.UTC)), Owner),
    (Page((1, 2), "n"), Page[int]),
    (Page((Point(1),)), Page[Point]),
    (Row(uuid.UUID(int=1), decimal.Decimal(2)), Row),
    (Movie(name="x"), Movie),
    (Packed(1, b"2"), Packed),
    ("a", Literal["a", "b"]),
    (UserId(3), UserId),
    (3, Annotated[int, msgspec.Meta(ge=0)]),
    (5, int | str),
    ({"a": [Point(1)]}, dict[str, list[Point]]),
]


@pytest.mark.parametrize(("value", "type"), KEPT, ids=[str(index) for index in range(len(KEPT))])
def test_what_is_kept_comes_back_the_same(value: object, type: object) -> None:
    back = round_trip(value, type)
    assert difference(value, back) is None
    if not isinstance(value, decimal.Decimal):  # NaN is not equal to itself
        assert back == value


def test_a_field_set_outside_the_constructor_comes_back() -> None:
    tree = Tree("a")
    tree.made = 9
    assert round_trip(tree, Tree).made == 9


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_data)
def test_plain_json_data_comes_back_the_same_without_a_type(value: object) -> None:
    assert difference(value, round_trip(value)) is None


@given(st.one_of(json_data, st.tuples(json_data), st.sets(st.integers()), st.dictionaries(st.integers(), json_data)))
def test_whatever_is_accepted_comes_back_the_same(value: object) -> None:
    for wanted in (ANY, list, dict, dict[int, Any], set[int], Sequence[Any], int | str | None, float, object):
        try:
            data = encode_value(value, wanted)
        except EncodeError:
            continue
        assert difference(value, decode_value(data, wanted)) is None


class Text(str):
    pass


REFUSED = [
    ({1, 2}, ANY),
    ((1,), ANY),
    ({1: 2}, ANY),
    (float("nan"), ANY),
    ([float("-inf")], list[float]),
    (float("nan"), float | None),
    ("\ud800", str),
    ({"\udfff": 1}, ANY),
    (Text("a"), ANY),
    (Text("a"), str),
    (True, int),
    (1.0, int),
    ("1", int),
    (1, str),
    (2**53 + 1, float),
    (Colour.RED, ANY),
    (Colour.RED, str),
    ("red", Colour),
    (collections.OrderedDict(a=1), dict[str, int]),
    (collections.defaultdict(int), dict),
    ((1, 2), Sequence[int]),
    ([{1}], list),
    ([(1, 2)], list[Any]),
    (Point(1), ANY),
    (Point(1), dict[str, int]),
    (Point(1), Owner),
    (b"x", ANY),
    (object(), ANY),
    (object(), object),
    (open, Any),
    (3j, complex),
    (msgspec.Raw(b"1"), ANY),
    ({(1, 2): 3}, dict[tuple[int, int], int]),
    ({None: 1}, ANY),
    ({True: 1}, dict[bool, int]),
]


@pytest.mark.parametrize(("value", "type"), REFUSED, ids=[str(index) for index in range(len(REFUSED))])
def test_what_would_come_back_changed_is_refused(value: object, type: object) -> None:
    with pytest.raises(EncodeError):
        encode_value(value, type)


def test_an_instance_of_a_subclass_is_refused_where_the_base_would_come_back() -> None:
    @dataclasses.dataclass
    class Point3(Point):
        z: int = 0

    with pytest.raises(EncodeError, match="a Point3, which comes back as a Point under its type Point"):
        encode_value(Point3(1, 2, 3), Point)


def test_an_aware_time_keeps_its_offset_in_the_hour_that_comes_twice() -> None:
    for fold in (0, 1):
        when = dt.datetime(2024, 10, 27, 2, 30, fold=fold, tzinfo=PARIS)
        back = round_trip(when, dt.datetime)
        assert (back.timestamp(), back.utcoffset()) == (when.timestamp(), when.utcoffset())


@given(st.datetimes() | st.dates() | st.timedeltas() | st.times() | st.uuids() | st.decimals(allow_nan=False))
def test_dates_times_and_numbers_come_back_equal(value: object) -> None:
    assert round_trip(value, value.__class__) == value


def test_state_beside_the_fields_that_is_lost_is_refused() -> None:
    @attrs.frozen
    class Hidden:
        _secret: int = 0

    with pytest.raises(EncodeError, match=r"a Hidden that holds an int at \._secret"):
        encode_value(Hidden(5), Hidden)


def test_data_nested_as_deep_as_python_can_go_is_kept_or_refused_but_never_crashes() -> None:
    refused: list[tuple[int, str]] = []
    for depth in (10, 300, 900, 5000):
        nested: list[Any] = []
        for _ in range(depth):
            nested = [nested]
        for wanted in (ANY, list, list[Any]):
            try:
                assert decode_value(encode_value(nested, wanted), wanted) == nested
            except EncodeError as exc:
                refused.append((depth, str(exc)))
    assert all(depth > 300 and "nested too deeply" in message for depth, message in refused)


def test_whatever_a_class_raises_when_it_is_made_is_a_decode_error() -> None:
    @dataclasses.dataclass
    class Picky:
        x: int

        def __post_init__(self) -> None:
            {}[self.x]

    with pytest.raises(DecodeError, match="the data cannot be read as Picky: KeyError: 1"):
        decode_value(b'{"x":1}', Picky)


def test_data_is_decoded_from_bytes_raw_and_memoryview() -> None:
    assert (
        decode_value(b"[1]") == decode_value(msgspec.Raw(b"[1]"), list[int]) == decode_value(memoryview(b"[1]")) == [1]
    )


@pytest.mark.parametrize(
    ("data", "type", "message"),
    [
        (b"1", None, "the data cannot be read as None: Expected `null`, got `int`"),
        (b'{"x":"a"}', Point, "the data cannot be read as Point: Expected `int`, got `str` at .x"),
        (b'[{"x":1},{"x":null}]', list[Point], r"list\[Point\]: Expected `int`, got `null` at \[1\]\.x"),
        (b"{}", Point, "Object missing required field `x`"),
        (b"nope", ANY, "the data is not JSON"),
        (b"nope", Point, "the data cannot be read as Point: JSON is malformed"),
        (b"1", open, "JSON data cannot be decoded to"),
    ],
)
def test_data_that_does_not_fit_is_refused_with_the_place(data: bytes, type: object, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode_value(data, type)


def test_data_that_is_sent_takes_its_structure() -> None:
    sent = {
        "who": Owner("ann"),
        "tags": {"a"},
        "at": dt.date(2024, 1, 2),
        "p": Point(1),
        "path": pathlib.Path("x"),
        1: None,
    }
    assert decode_value(encode_loose(sent)) == {
        "who": {"name": "ann", "since": None},
        "tags": ["a"],
        "at": "2024-01-02",
        "p": {"x": 1, "y": 0},
        "path": "x",
        "1": None,
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [float("nan")]}, r"a dict that holds the float nan at \['a'\]\[0\], which JSON cannot keep; send None"),
        ({"a": object()}, r"a dict that holds an object at \['a'\], which JSON cannot keep; send plain data"),
        ("\ud800", "a str, which JSON cannot keep"),
    ],
)
def test_data_without_a_json_form_is_not_sent(value: object, message: str) -> None:
    with pytest.raises(EncodeError, match=message):
        encode_loose(value)
