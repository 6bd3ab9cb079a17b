"""What shape must an agent's answer have, and has it?"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, cast

import msgspec

from boxflow.codec import decode_value
from boxflow.errors import ConfigurationError, DecodeError


def json_schema(schema: object) -> Mapping[str, Any]:
    """The JSON schema of *schema*: one already, or a pydantic model, an attrs class, a dataclass, a TypedDict, ...

    :raises ConfigurationError: there is no JSON schema for it, or what checks one is not installed
    """
    if isinstance(schema, Mapping):
        if find_spec("jsonschema") is None:
            raise ConfigurationError(
                "an answer can be checked against a JSON schema with the package jsonschema only; "
                "pip install 'boxflow[agents]', or pass a class as schema="
            )
        return cast("Mapping[str, Any]", schema)
    make = getattr(schema, "model_json_schema", None)
    try:
        made = make() if callable(make) else msgspec.json.schema(schema)
    except TypeError as exc:
        raise ConfigurationError(f"schema={schema!r} has no JSON schema: {exc}; pass a class of data fields") from exc
    return strict(cast("dict[str, Any]", made))


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """*schema* with its top level in place of a reference, and closed objects, as strict model interfaces want it."""
    definitions = cast("dict[str, Any]", schema.get("$defs", {}))
    reference = schema.get("$ref")
    if isinstance(reference, str):
        schema = {**cast("dict[str, Any]", definitions[reference.rpartition("/")[2]]), "$defs": definitions}
    return cast("dict[str, Any]", _closed(schema))


def _closed(part: object) -> Any:
    if isinstance(part, list):
        return [_closed(each) for each in cast("list[object]", part)]
    if not isinstance(part, dict):
        return part
    closed = {key: _closed(value) for key, value in cast("dict[str, Any]", part).items()}
    if closed.get("type") == "object" and "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def problem_with(answer: Any, schema: object) -> str:
    """Why *answer* (plain JSON data) does not fit; empty when it does."""
    try:
        value_of(json.dumps(answer), schema)
    except (DecodeError, ValueError) as exc:
        return str(exc)
    return ""


def value_of(answer: str, schema: object) -> Any:
    """The answer, from its JSON, as *schema* asks for it.

    :raises DecodeError: it does not fit
    """
    if not isinstance(schema, Mapping):
        return decode_value(answer.encode(), schema)
    # An extra, slow to import, and without types of its own.
    jsonschema: Any = importlib.import_module("jsonschema")
    data = json.loads(answer)
    try:
        jsonschema.validate(data, schema)
    except jsonschema.ValidationError as exc:
        where = "".join(f"[{part!r}]" for part in exc.absolute_path)
        raise DecodeError(f"the answer{where} does not fit the schema: {exc.message}") from exc
    return data
