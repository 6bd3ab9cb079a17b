"""What is an endpoint? A method and a path, who may call it, what it takes and what it answers: all that its route and
its part of the OpenAPI document are made from.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

import attrs
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from boxflow.asgi.access import Access, Scope
from boxflow.asgi.event_stream import Streams
from boxflow.engine import Engine

Q = TypeVar("Q")
B = TypeVar("B")

ANY_METHOD = "ANY"
"""Stands for every method, in `Endpoint.method`."""


@attrs.frozen(kw_only=True)
class Door:
    """What all endpoints of one engine share.

    :param max_body_bytes: larger bodies are refused
    :param read_timeout_s: how long a body may take
    :param streams: how many answers may take long at once, and how long each may take
    """

    engine: Engine
    access: Access
    streams: Streams
    max_body_bytes: int
    read_timeout_s: float


@attrs.frozen(kw_only=True)
class Call(Generic[Q, B]):
    """One request, read and checked.

    :param path: the parameters of the path, decoded
    """

    door: Door
    request: Request
    path: Mapping[str, str]
    query: Q
    body: B

    @property
    def engine(self) -> Engine:
        """The engine that is called."""
        return self.door.engine


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No query parameter, or no member of a body."""


@attrs.frozen
class Events:
    """What a stream of server-sent events has: for each name of an event, the type of its data."""

    data: Mapping[str, Any]


@attrs.frozen(kw_only=True)
class Answer:
    """One answer that an endpoint gives.

    :param content: what its body is, by media type: a type that msgspec knows, `Events`, or None for text
    :param headers: what its headers say, by name
    """

    status: int = 200
    description: str
    content: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])


def json_answer(kind: Any, description: str, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer whose body is JSON of that type."""
    return Answer(
        status=status, description=description, content={"application/json": kind}, headers=dict(headers or {})
    )


@attrs.frozen(kw_only=True)
class Endpoint(Generic[Q, B]):
    """One line of the table.

    :param name: what it is called in the OpenAPI document, and by `url_path_for`
    :param scope: what its caller must be allowed; None lets everybody in
    :param query: its query parameters, as a struct; None leaves them to `handle`
    :param body: what its body is: a struct; `bytes`, read as it comes; None: it has none, and none is read
    :param body_schema: what the document says of a body of `bytes`, by media type
    :param may_be_empty: the body may be left out
    :param request_headers: headers that it heeds, with what they mean
    :param problems: the statuses of the problems that it answers with, beyond those that its other fields imply
    """

    name: str
    method: str
    path: str
    scope: Scope | None
    summary: str
    handle: Callable[[Call[Q, B]], Awaitable[Response]]
    answers: tuple[Answer, ...]
    query: type[Q] | None
    body: type[B] | None
    body_schema: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    may_be_empty: bool = False
    request_headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    problems: tuple[int, ...] = ()


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer whose body is *content* as JSON."""
    return Response(
        msgspec.json.encode(content), status_code=status, media_type="application/json", headers=dict(headers or {})
    )
