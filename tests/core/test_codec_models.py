"""pydantic models cross the journal where the program uses pydantic, alone and inside other values."""

from __future__ import annotations

import dataclasses
import datetime as dt
import subprocess
import sys
from typing import Any, Generic, Literal, TypeVar

import pydantic
import pytest

from boxflow.codec import ANY, decode_value, encode_loose, encode_value
from boxflow.errors import DecodeError, EncodeError

T = TypeVar("T")


class Item(pydantic.BaseModel):
    name: str
    at: dt.datetime = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    tags: set[str] = set()


class Special(Item):
    price: int = 0


class Aliased(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    number: int = pydantic.Field(alias="theNumber")

    @pydantic.computed_field  # type: ignore[prop-decorator]  # mypy has no plugin here
    @property
    def double(self) -> int:
        return self.number * 2


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, frozen=True)
    day: dt.date


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


class Envelope(pydantic.BaseModel, Generic[T]):
    body: T


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"


class Root(pydantic.RootModel[list[int]]):
    pass


class Hidden(pydantic.BaseModel):
    password: pydantic.SecretStr


@dataclasses.dataclass
class Cart:
    items: list[Item]
    pet: Cat | Dog | None = None


KEPT: list[tuple[Any, Any]] = [
    (Item(name="a", tags={"x"}), Item),
    ([Item(name="a")], list[Item]),
    ({"k": Special(name="a", price=3)}, dict[str, Special]),
    (Cart([Item(name="a")], Dog()), Cart),
    (Aliased(theNumber=4), Aliased),
    (Strict(day=dt.date(2024, 1, 2)), Strict),
    (Open.model_validate({"x": 1}), Open),
    (Envelope[Item](body=Item(name="q")), Envelope[Item]),
    (Cat(), Cat | Dog),
    (Dog(), Cat | Dog),
    (None, Cat | Dog | None),
    (Root([1, 2]), Root),
    (None, Item | None),
]


@pytest.mark.parametrize(("value", "type"), KEPT, ids=[str(index) for index in range(len(KEPT))])
def test_models_come_back_the_same(value: object, type: Any) -> None:
    back = decode_value(encode_value(value, type), type)
    assert back == value
    assert back.__class__ is value.__class__


def test_data_from_outside_may_use_aliases() -> None:
    assert decode_value(b'{"theNumber":4}', Aliased) == Aliased(theNumber=4)


def test_what_validation_says_is_in_the_error() -> None:
    with pytest.raises(DecodeError, match="Input should be a valid string"):
        decode_value(b'[{"name":1}]', list[Item])


@pytest.mark.parametrize(
    ("value", "type", "message"),
    [
        (Item(name="a"), ANY, "an Item, which JSON cannot keep; annotate the return type, or pass type=Item"),
        (Special(name="a"), Item, "a Special, which comes back as an Item under its type Item"),
        (Hidden(password=pydantic.SecretStr("x")), Hidden, "a SecretStr at .password, which comes back changed"),
    ],
)
def test_models_that_would_change_are_refused(value: object, type: Any, message: str) -> None:
    with pytest.raises(EncodeError) as caught:
        encode_value(value, type)
    assert message in str(caught.value)


def test_a_model_is_sent_as_its_fields() -> None:
    assert encode_loose([Cat()]) == b'[{"kind":"cat"}]'


def test_the_codec_does_not_import_pydantic() -> None:
    program = (
        "import sys; from boxflow.codec import *; encode_value({'a': [1]}, dict[str, list[int]]); encode_loose({1}); "
        "sys.exit('pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
