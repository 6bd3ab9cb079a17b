"""How is a JSON schema given to a program that knows only a part of JSON Schema?

What it does not know is left out, where the answer stays one of the same kind. Whoever asked validates the answer
against the whole schema afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from boxflow_backends.harnesses.json_values import Value

Schema = Mapping[str, Any]


def _named(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_NAMED: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords whose value has schemas under names of the user."""

_LISTED: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_NESTED: Final = frozenset(
    {"items", "additionalItems", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else"}
)

_DRAFT_07: Final = _named(
    "$ref $defs definitions $comment title description default examples deprecated readOnly writeOnly nullable",
    "type enum const multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength minLength pattern",
    "format items additionalItems maxItems minItems uniqueItems contains maxProperties minProperties required",
    "properties patternProperties additionalProperties dependencies propertyNames if then else allOf anyOf",
    "oneOf not contentEncoding contentMediaType",
)
"""json-schema.org/draft-07, and what Claude Code 2.1.330 takes beside it. It refuses a schema with any other keyword:
pydantic's `discriminator`, say, or `prefixItems`."""

_STRICT: Final = _named(
    "$ref $defs definitions title description type enum const pattern format items minItems maxItems",
    "multipleOf maximum exclusiveMaximum minimum exclusiveMinimum required properties additionalProperties",
    "anyOf",
)
"""platform.openai.com/docs/guides/structured-outputs, "Supported schemas"."""

_STRICT_FORMATS: Final = _named(
    "date-time time date duration email hostname ipv4 ipv6 uuid",
)
_BEYOND_STRICT: Final = _named(
    "allOf not if then else contains propertyNames patternProperties dependentSchemas dependentRequired",
    "dependencies prefixItems additionalItems unevaluatedProperties unevaluatedItems $dynamicRef",
)
"""What says so much about an answer that leaving it out would ask for another one."""

_WRAPPED: Final = "answer"


def mapped(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """*schema* with *change* applied to each schema in it, the inner ones first."""

    def inner(value: Any) -> Any:
        return mapped(cast("Schema", value), change) if isinstance(value, Mapping) else value

    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            found[key] = {name: inner(one) for name, one in cast("Schema", value).items()}
        elif key in _LISTED and isinstance(value, list):
            found[key] = [inner(one) for one in value]  # pyright: ignore[reportUnknownVariableType]  # JSON
        else:
            found[key] = inner(value) if key in _NESTED else value
    return change(found)


def draft_07(schema: Schema) -> Schema:
    """*schema* without what draft 7 does not know; tuples in its spelling."""

    def change(one: Schema) -> Schema:
        if "prefixItems" in one:
            places = one["prefixItems"]
            one = {**one, "items": places, "additionalItems": one.get("items", True), "minItems": len(places)}
        return {key: value for key, value in one.items() if key in _DRAFT_07}

    return mapped(schema, change)


def is_wrapped(schema: Schema) -> bool:
    """Whether an answer that fits *schema* is put into an object, as it must be where it is the input of a tool."""
    return schema.get("type") != "object"


def wrapped(schema: Schema) -> Schema:
    """A schema of an object that has what fits *schema* as its only property."""
    inside = {key: value for key, value in schema.items() if key not in {"$defs", "definitions"}}
    shared = {
        key: schema[key] for key in ("$defs", "definitions") if key in schema
    }  # so that "#/$defs/x" still leads there

    def change(one: Schema) -> Schema:
        target = str(one.get("$ref", ""))
        if target == "#" or (target.startswith("#/") and not target.startswith(("#/$defs/", "#/definitions/"))):
            return {**one, "$ref": f"#/properties/{_WRAPPED}{target[1:]}"}
        return one

    outer = {
        "type": "object",
        "properties": {_WRAPPED: inside},
        "required": [_WRAPPED],
        "additionalProperties": False,
        **shared,
    }
    return mapped(outer, change)


def unwrapped(answer: object) -> object:
    """What is in an object as `wrapped` asks for; the answer itself when it is none."""
    inside = Value(answer)[_WRAPPED]
    return inside.plain if inside else answer


class _BeyondStrictError(Exception):
    """Strict mode cannot say that."""


def strict(schema: Schema) -> Schema | None:
    """*schema* as OpenAI's strict mode takes it; None when it cannot.

    There, every property is required, no other is allowed, and there are no maps with names of the answer's own. What
    fits that fits *schema* too, but for bounds that strict mode cannot keep.
    """
    try:
        found = mapped(schema, _tightened)
    except _BeyondStrictError:
        return None
    return found if found.get("type") == "object" and "anyOf" not in found else None


def _tightened(one: Schema) -> Schema:
    if not _BEYOND_STRICT.isdisjoint(one):
        raise _BeyondStrictError
    if "oneOf" in one:
        one = {**one, "anyOf": one["oneOf"]}
    if "$ref" in one:  # stands alone there
        return {key: one[key] for key in ("$ref", "$defs", "definitions") if key in one}
    if not {"type", "anyOf", "enum", "const"} & set(one):
        raise _BeyondStrictError  # anything at all
    kept = {key: value for key, value in one.items() if key in _STRICT}
    if kept.get("format") not in _STRICT_FORMATS:
        kept.pop("format", None)
    kinds: Any = kept.get("type")
    if kinds == "object" or (isinstance(kinds, list) and "object" in kinds):
        if not isinstance(kept.get("properties"), Mapping) or kept.get("additionalProperties", False) is not False:
            raise _BeyondStrictError
        kept |= {"required": list(kept["properties"]), "additionalProperties": False}
    if (kinds == "array" or (isinstance(kinds, list) and "array" in kinds)) and not isinstance(
        kept.get("items"), Mapping
    ):
        raise _BeyondStrictError
    return kept
