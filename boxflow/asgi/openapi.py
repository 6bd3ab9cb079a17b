"""What can be asked, and what is answered? The OpenAPI document, made from the table that the routes are made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from starlette.requests import Request

from boxflow.asgi.documents import OutcomeDocument
from boxflow.asgi.endpoint import ANY_METHOD, Answer, Endpoint, Events
from boxflow.asgi.problems import PROBLEM_TYPE, Problem

Document = dict[str, Any]

# Methods that OpenAPI has a place for, of those that a webhook takes: all.
_METHODS: Final = ("get", "put", "post", "delete", "options", "patch")

_REF: Final = "#/components/schemas/{name}"

_MEANINGS: Final[Mapping[int, str]] = {
    400: "The body is not JSON.",
    401: "Who calls is not known.",
    403: "Who calls may not do that.",
    404: "It is not there.",
    408: "The body did not come in time.",
    409: "It is not in a state for that.",
    410: "The run is over.",
    413: "The body is too large.",
    422: "A parameter, or the body, does not fit; `errors` says what and where.",
    429: "Too much is kept already.",
    431: "The headers are too large.",
    503: "The engine, its store or its sandbox cannot do that now.",
}


def openapi_document(
    endpoints: Sequence[Endpoint[Any, Any]], *, version: str, servers: Sequence[str] = ("/",)
) -> Document:
    """The document of *endpoints*.

    :param servers: where they are mounted
    """
    schemas = _Schemas(endpoints)
    paths: dict[str, Document] = {}
    for endpoint in endpoints:
        methods = _METHODS if endpoint.method == ANY_METHOD else (endpoint.method.lower(),)
        for method in methods:
            name = endpoint.name if len(methods) == 1 else f"{endpoint.name}-{method}"
            paths.setdefault(endpoint.path, {})[method] = _operation(endpoint, name, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "boxflow", "version": version, "description": "Durable workflows and boxes of one engine."},
        "servers": [{"url": url} for url in servers],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def servers_of(request: Request, base_url: str) -> list[str]:
    """Where the routes are mounted as the caller of *request* sees it, then as all the world does."""
    here = str(request.scope.get("root_path", "")) or "/"
    return [here, base_url] if base_url else [here]


class _Schemas:
    """The JSON schemas of all types that occur, each by its name."""

    def __init__(self, endpoints: Sequence[Endpoint[Any, Any]]) -> None:
        types: list[Any] = [Problem, OutcomeDocument]
        for endpoint in endpoints:
            for kind in (kind for answer in endpoint.answers for kind in answer.content.values()):
                types += [] if kind is None else kind.data.values() if isinstance(kind, Events) else [kind]
            types += [endpoint.body] if endpoint.body not in (None, bytes) else []
        found, self.components = msgspec.json.schema_components(types, ref_template=_REF)
        self._found = list(zip(types, found, strict=True))
        self.components["Outcome"] = next(schema for kind, schema in self._found if kind is OutcomeDocument)

    def of(self, kind: Any) -> Document:
        """The schema of one of the types."""
        if kind is OutcomeDocument:
            return {"$ref": _REF.format(name="Outcome")}
        return next(schema for known, schema in self._found if known is kind)

    def of_answer(self, kind: Any) -> Document:
        """What is answered: JSON of a type, text, or events, of which each is described."""
        if kind is None:
            return {"type": "string"}
        if not isinstance(kind, Events):
            return self.of(kind)
        return {"anyOf": [_event_schema(name, self.of(data)) for name, data in kind.data.items()]}


def _event_schema(name: str, data: Document) -> Document:
    """One server-sent event, as its fields say it."""
    encoded = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    return {
        "type": "object",
        "properties": {"event": {"const": name}, "id": {"type": "string"}, "data": encoded},
        "required": ["event", "data"],
    }


def _operation(endpoint: Endpoint[Any, Any], name: str, schemas: _Schemas) -> Document:
    operation: Document = {
        "operationId": name.replace("-", "_"),
        "summary": endpoint.summary,
        "parameters": list(_parameters(endpoint)),
        "responses": _responses(endpoint, schemas),
        "security": [] if endpoint.scope is None else [{"bearer": []}, {"api_key": []}],
    }
    if endpoint.scope is not None:
        operation["x-scope"] = endpoint.scope
    if endpoint.body is not None:
        media = endpoint.body_schema or {"application/json": _body_schema(endpoint, schemas)}
        content = {kind: {"schema": schema} for kind, schema in media.items()}
        operation["requestBody"] = {"required": not endpoint.may_be_empty, "content": content}
    return operation


def _body_schema(endpoint: Endpoint[Any, Any], schemas: _Schemas) -> Document:
    schema = schemas.of(endpoint.body)
    return {"anyOf": [schema, {"type": "null"}]} if endpoint.may_be_empty else schema


def _parameters(endpoint: Endpoint[Any, Any]) -> Iterable[Document]:
    for part in endpoint.path.split("/"):
        if part.startswith("{"):
            yield {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    if endpoint.query is not None:
        schema = _query_schema(endpoint.query)
        for name, found in schema["properties"].items():
            yield {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": found}
    for name, meaning in endpoint.request_headers.items():
        yield {"name": name, "in": "header", "required": False, "description": meaning, "schema": {"type": "string"}}


def _query_schema(kind: type[Any]) -> Document:
    """The schema of query parameters, with nothing referred to: tools read parameters one by one."""
    (schema,), components = msgspec.json.schema_components([kind], ref_template="{name}")
    found = components[schema["$ref"]]
    return {**found, "properties": {name: _resolved(one, components) for name, one in found["properties"].items()}}


def _resolved(schema: Document, components: Mapping[str, Document]) -> Document:
    if "$ref" in schema:
        return components[schema["$ref"]]
    if "items" in schema:
        return {**schema, "items": _resolved(schema["items"], components)}
    # A parameter is given or not: there is no way to write null.
    members: list[Document] = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    return members[0] if len(members) == 1 else schema


def _responses(endpoint: Endpoint[Any, Any], schemas: _Schemas) -> Document:
    responses = {str(answer.status): _response(answer, schemas) for answer in endpoint.answers}
    for status in sorted(_problem_statuses(endpoint)):
        content = {PROBLEM_TYPE: {"schema": schemas.of(Problem)}}
        responses[str(status)] = {"description": _MEANINGS[status], "content": content}
    return responses


def _response(answer: Answer, schemas: _Schemas) -> Document:
    response: Document = {"description": answer.description}
    if answer.content:
        response["content"] = {media: {"schema": schemas.of_answer(kind)} for media, kind in answer.content.items()}
    if answer.headers:
        response["headers"] = {
            name: {"description": meaning, "schema": {"type": "string"}} for name, meaning in answer.headers.items()
        }
    return response


def _problem_statuses(endpoint: Endpoint[Any, Any]) -> set[int]:
    """The statuses of problems, those that follow from what the endpoint takes among them."""
    found = {431, *endpoint.problems}
    if endpoint.scope is not None:
        found |= {401, 403}
    if endpoint.body is not None:
        found |= {400, 408, 413, 422}
    if endpoint.query is not None:
        found.add(422)
    return found
