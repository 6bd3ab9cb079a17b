"""The OpenAPI document says what is there, and nothing else."""

from __future__ import annotations

from typing import Any

import jsonschema
import msgspec
import pytest
from asgi.support import engine_of, serving

import boxflow
from boxflow import Engine
from boxflow.asgi.documents import outcome_document
from boxflow.asgi.endpoint import ANY_METHOD
from boxflow.asgi.openapi import openapi_document
from boxflow.asgi.table import endpoints_of
from boxflow.model import (
    OUTCOME_TYPES,
    CancelAsked,
    ChangePatched,
    ChildEnded,
    EventArrived,
    Failure,
    Outcome,
    RunResumed,
    StepDone,
    StepFailed,
    StepRetrying,
    StepStarted,
    TimerFired,
    Value,
    WebhookArrived,
)

ERROR = Failure(type="ValueError", message="no", traceback="...")
OUTCOMES: list[Outcome] = [
    StepDone(seq=1, at=1.5, name="a", value=Value(b'{"b": [1]}')),
    StepFailed(seq=2, at=2, name="a", occurrence=2, error=ERROR, reason="timeout"),
    StepRetrying(seq=3, at=3, name="a", error=ERROR, attempt=1, next_at=4),
    StepStarted(seq=4, at=4, name="a"),
    TimerFired(seq=5, at=5, name="a", due=5),
    EventArrived(seq=6, at=6, name="a", event_id="e", value=Value(b'"x"')),
    WebhookArrived(seq=7, at=7, name="a", webhook="w"),
    ChildEnded(seq=8, at=8, name="a", run_id="r/a", status="failed", error=ERROR),
    CancelAsked(seq=9, at=9),
    ChangePatched(seq=10, at=1e18, name="a"),
    RunResumed(seq=11, at=11, dropped=(1, 2)),
]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi_document(endpoints_of(engine_of()), version="1")


def test_each_endpoint_is_in_the_document_with_its_scope(document: dict[str, Any]) -> None:
    described = {
        (method.upper(), path): operation.get("x-scope")
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    expected = {
        (method, endpoint.path): endpoint.scope
        for endpoint in endpoints_of(engine_of())
        for method in (
            ("GET", "PUT", "POST", "DELETE", "OPTIONS", "PATCH")
            if endpoint.method == ANY_METHOD
            else (endpoint.method,)
        )
    }
    assert described == expected


def test_operations_have_names_of_their_own(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
    assert all(name.isidentifier() for name in names)


def test_whatever_the_document_refers_to_is_in_it(document: dict[str, Any]) -> None:
    def references(part: Any) -> list[str]:
        if isinstance(part, list):
            return [found for one in part for found in references(one)]
        if not isinstance(part, dict):
            return []
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [found for one in part.values() for found in references(one)]

    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= known


def test_there_is_an_example_here_of_each_kind_of_outcome() -> None:
    assert [type(outcome) for outcome in OUTCOMES] == list(OUTCOME_TYPES)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.kind)
def test_each_kind_of_outcome_is_as_the_document_says(document: dict[str, Any], outcome: Outcome) -> None:
    found = msgspec.json.decode(msgspec.json.encode(outcome_document(outcome)))
    schema = {"$ref": "#/components/schemas/Outcome", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(found)
    own = document["components"]["schemas"][type(outcome).__name__]
    assert set(found) == set(own["properties"]) == set(own["required"])
    assert found["at"].endswith("Z")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({**found, "at": 1.5})


def test_the_events_of_a_stream_are_described(document: dict[str, Any]) -> None:
    answer = document["paths"]["/runs/{run_id}/watch"]["get"]["responses"]["200"]
    events = answer["content"]["text/event-stream"]["schema"]["anyOf"]
    described = {
        event["properties"]["event"]["const"]: event["properties"]["data"]["contentSchema"] for event in events
    }
    assert described == {
        "outcome": {"$ref": "#/components/schemas/Outcome"},
        "end": {"$ref": "#/components/schemas/RunDocument"},
        "error": {"$ref": "#/components/schemas/Problem"},
    }


async def test_the_document_is_served_and_says_where() -> None:
    engine = Engine([], base_url="https://example.org/flow/", blocking_limit=None)
    async with serving(engine) as server:
        found = (await server.client.get("/openapi.json")).json()
        assert (found["openapi"], found["info"]["version"]) == ("3.1.0", boxflow.__version__)
        assert found["servers"] == [{"url": "/"}, {"url": "https://example.org/flow"}]
        assert "/openapi.json" in found["paths"]
