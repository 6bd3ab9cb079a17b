"""Answers are found in text, and schemas are given to programs that know only a part of JSON Schema."""

from __future__ import annotations

import json
import time
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxflow_backends.harnesses.answers import answer_in, asking
from boxflow_backends.harnesses.json_values import MISSING, Value, object_text, parsed, shortened
from boxflow_backends.harnesses.schemas import draft_07, strict, unwrapped, wrapped

OBJECT = {"type": "object"}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"a": 1}', {"a": 1}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('Here it is:\n```\n{"a": {"b": [1]}}\n```\nBye.', {"a": {"b": [1]}}),
        ('First {"a": 1}, then {"a": 2}.', {"a": 2}),
        ('As in [1], {"a": 1} (see [2]).', {"a": 1}),
        ('{ not json } {"a": 1}', {"a": 1}),
        ('{"a": 1} {"a": 2', {"a": 1}),
        ('{"a": "\\ud83d"} ...', {"a": "?"}),
        ("7", 7),
        ("null", None),
        ("", MISSING),
        ("no JSON, but 7 and [1]", MISSING),
    ],
)
def test_the_last_object_of_a_text_is_its_answer(text: str, answer: Any) -> None:
    assert answer_in(text, OBJECT) == answer


def test_lists_count_where_one_may_be_asked_for() -> None:
    assert answer_in("It is [1, 2].", {"type": "array"}) == [1, 2]
    assert answer_in("It is [1, 2].", {"anyOf": []}) == [1, 2]


@pytest.mark.parametrize("text", ["[" * 3_000_000, '{"a":' * 600_000, "{" * 3_000_000, '[{"a": [' * 400_000])
def test_no_text_takes_long_to_look_through(text: str) -> None:
    began = time.monotonic()
    assert answer_in(text, {}) is MISSING
    assert time.monotonic() - began < 5


@given(st.text())
def test_any_text_has_an_answer_or_none(text: str) -> None:
    answer = answer_in(text, OBJECT)
    assert answer is MISSING or json.dumps(answer)


def test_without_a_schema_a_prompt_is_as_it_was() -> None:
    assert asking("Do it.", None) == "Do it."


def test_braces_that_would_become_paths_are_spelled_otherwise_and_mean_the_same() -> None:
    value = {"{dir}": ["{home}/x", "{other}", "\\{dir}"]}
    text = object_text(value)
    assert "{dir}" not in text
    assert "{home}" not in text
    assert json.loads(text) == value


def test_half_a_character_costs_no_line() -> None:
    assert parsed('{"text": "cut \\ud83d"}') == {"text": "cut ?"}


@pytest.mark.parametrize("text", ["", "x", "{", "NaN", '{"a": 1e999}', "[" * 100_000, '"\\u"', "1" * 10_000])
def test_what_is_no_json_is_missing(text: str) -> None:
    assert parsed(text) is MISSING or isinstance(parsed(text), int)


def test_a_value_of_another_shape_is_empty() -> None:
    value = Value({"text": 1, "list": {"a": 1}, "count": "1", "flag": 1, "amount": True, "null": None})
    assert (value["text"].text, list(value["list"]), value["count"].count) == ("", [], 0)
    assert (value["flag"].flag, value["amount"].amount, value["text"]["deeper"]["still"].text) == (False, None, "")
    assert (bool(value["null"]), bool(value["nothing"]), value["null"].shown) == (True, False, "")
    assert Value(-3).count == 0


def test_long_lines_are_shortened() -> None:
    assert shortened("a\n  b") == "a b"
    assert len(shortened("x" * 10_000_000)) == 500
    assert shortened("y" * 500) == "y" * 500


# --- schemas ---------------------------------------------------------------------------------------------------------


class Cat(pydantic.BaseModel):
    kind: str = "cat"


class Dog(pydantic.BaseModel):
    kind: str = "dog"
    owner: Dog | None = None


class Home(pydantic.BaseModel):
    title: str = pydantic.Field(min_length=1, pattern="^x")
    pet: Cat | Dog = pydantic.Field(default_factory=Cat)
    place: tuple[int, str] | None = None


def keywords(schema: Any) -> set[str]:
    found: set[str] = set()
    if isinstance(schema, dict):
        for key, value in schema.items():
            found |= {key} | (
                set().union(*map(keywords, value.values())) if key in {"properties", "$defs"} else keywords(value)
            )
    elif isinstance(schema, list):
        found = set().union(*map(keywords, schema)) if schema else set()
    return found


def test_a_models_schema_becomes_one_of_draft_7() -> None:
    schema = draft_07(Home.model_json_schema())
    assert "prefixItems" not in keywords(schema)
    place = schema["properties"]["place"]["anyOf"][0]
    assert [one["type"] for one in place["items"]] == ["integer", "string"]
    assert (place["minItems"], place["maxItems"]) == (2, 2)


def test_a_property_that_has_the_name_of_a_keyword_stays() -> None:
    schema = {"type": "object", "properties": {"discriminator": {"x-own": 1}}, "default": {"x-own": 1}}
    assert draft_07(schema) == {"type": "object", "properties": {"discriminator": {}}, "default": {"x-own": 1}}


def test_a_wrapped_schema_finds_what_it_refers_to() -> None:
    schema = {
        "$ref": "#/$defs/node",
        "$defs": {"node": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/node"}, {"$ref": "#"}]}}},
    }
    found = wrapped(schema)
    assert found["properties"] == {"answer": {"$ref": "#/$defs/node"}}
    assert found["$defs"]["node"]["items"]["anyOf"] == [{"$ref": "#/$defs/node"}, {"$ref": "#/properties/answer"}]
    assert unwrapped({"answer": [1]}) == [1]
    assert unwrapped([1]) == [1]


def test_strict_mode_requires_every_property_and_refers_without_more_words() -> None:
    reference = {"$ref": "#/$defs/Dog", "title": "x"}
    inside = Dog.model_json_schema()["$defs"]
    schema = strict({"type": "object", "properties": {"dog": reference}, "$defs": inside})
    assert schema is not None
    assert schema["required"] == ["dog"]
    assert schema["properties"] == {"dog": {"$ref": "#/$defs/Dog"}}
    assert schema["$defs"]["Dog"]["required"] == ["kind", "owner"]
    assert schema["$defs"]["Dog"]["additionalProperties"] is False
    assert keywords(schema).isdisjoint({"default", "minLength", "oneOf"})


@pytest.mark.parametrize(
    "inner",
    [
        {},
        {"type": "object"},
        {"type": "object", "properties": {}, "additionalProperties": {"type": "integer"}},
        {"type": "array"},
        {"type": "array", "prefixItems": [{"type": "integer"}]},
        {"allOf": [{"type": "integer"}]},
        {"not": {"type": "integer"}},
    ],
)
def test_what_strict_mode_cannot_say_is_not_said_halfway(inner: dict[str, Any]) -> None:
    assert strict({"type": "object", "properties": {"a": inner}}) is None


def test_strict_mode_wants_an_object_at_the_root() -> None:
    assert strict({"type": "array", "items": {"type": "string"}}) is None
    assert strict({"type": "object", "properties": {}, "anyOf": [{"type": "object", "properties": {}}]}) is None
