"""How does an engine become an app, or a part of one? `create_app`, `routes` and `lifespan`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypedDict, Unpack

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

import boxflow
from boxflow.asgi.access import Access, Authorize, Keys
from boxflow.asgi.endpoint import Call, Door, Endpoint, Nothing, json_answer, json_response
from boxflow.asgi.event_stream import Streams
from boxflow.asgi.openapi import openapi_document, servers_of
from boxflow.asgi.problems import problem_of_status
from boxflow.asgi.reading import MAX_BODY_BYTES
from boxflow.asgi.routing import NowhereRoute, endpoint_routes
from boxflow.asgi.table import endpoints_of
from boxflow.engine import Engine
from boxflow.errors import ConfigurationError
from boxflow.model import Duration, seconds


class RouteOptions(TypedDict, total=False):
    """What may be said of the routes; nothing of it must be given.

    api_keys: who may call: a list of keys that may do everything, or a mapping of keys to their scopes (`"notify"`,
        `"read"`, `"run"`, `"admin"`). Without keys and without `authorize` only programs of this machine may call.
    authorize: an app's own answer instead: `async (request, scope)`; True lets the request in, False refuses it (403),
        None does not know its sender (401). It may raise Starlette's or FastAPI's `HTTPException`.
    max_body_bytes: a larger body is answered with 413, and not read to its end; 1 MiB unless given.
    read_timeout: a body that takes longer is answered with 408; 30 seconds unless given.
    max_streams: how many answers that take long (server-sent events, commands in boxes) there are at once; 100 unless
        given. More are answered with 503.
    stream_timeout: how long one of them may take; an hour unless given. A reader of events goes on with its last id.
    heartbeat: after so long without an event a comment is sent; 15 seconds unless given.
    """

    api_keys: Keys | None
    authorize: Authorize | None
    max_body_bytes: int
    read_timeout: Duration
    max_streams: int
    stream_timeout: Duration
    heartbeat: Duration


def routes(engine: Engine, **options: Unpack[RouteOptions]) -> list[BaseRoute]:
    """Routes to mount in an app that enters the engine itself (see `lifespan`); `RouteOptions` says what may be given.

    :raises ConfigurationError: a key is too short, a scope is none, a number is out of its range
    """
    found, door = _table(engine, options)
    # What is below our own paths and none of them is answered as a problem; all else is the app's.
    firsts = {endpoint.path.split("/")[1] for endpoint in found}
    return [*endpoint_routes(found, door), NowhereRoute(firsts)]


def create_app(engine: Engine, **options: Unpack[RouteOptions]) -> Starlette:
    """An app that serves the routes and runs the engine in its lifespan; see `RouteOptions` for what may be given.

    :raises ConfigurationError: as for `routes`
    """
    found, door = _table(engine, options)
    return Starlette(
        routes=[*endpoint_routes(found, door), NowhereRoute(None)],
        lifespan=lifespan(engine),
        exception_handlers={HTTPException: _as_problem, Exception: _as_defect},
    )


def lifespan(engine: Engine) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan for Starlette or FastAPI that runs the engine as long as the app."""

    @asynccontextmanager
    async def run(app: Any) -> AsyncGenerator[None]:
        async with engine:
            yield

    return run


def _table(engine: Engine, options: RouteOptions) -> tuple[Sequence[Endpoint[Any, Any]], Door]:
    known = RouteOptions.__annotations__.keys()
    if unknown := sorted(set(options) - known):
        raise TypeError(f"{unknown[0]!r} is no option of routes; there are {', '.join(known)}")
    door = Door(
        engine=engine,
        access=Access(options.get("api_keys"), options.get("authorize")),
        streams=Streams(
            limit=_positive("max_streams", options.get("max_streams", 100)),
            heartbeat_s=_positive_s("heartbeat", options.get("heartbeat", "15s")),
            lifetime_s=_positive_s("stream_timeout", options.get("stream_timeout", "1h")),
        ),
        max_body_bytes=_positive("max_body_bytes", options.get("max_body_bytes", MAX_BODY_BYTES)),
        read_timeout_s=_positive_s("read_timeout", options.get("read_timeout", "30s")),
    )
    found = endpoints_of(engine)
    found.append(_openapi_endpoint(found))
    return found, door


def _openapi_endpoint(described: list[Endpoint[Any, Any]]) -> Endpoint[Any, Any]:
    """The endpoint that describes all, itself among them."""

    async def answer(call: Call[Nothing, None]) -> Response:
        servers = servers_of(call.request, call.engine.base_url)
        return json_response(openapi_document(described, version=boxflow.__version__, servers=servers))

    return Endpoint(
        name="openapi",
        method="GET",
        path="/openapi.json",
        scope=None,
        summary="This document.",
        handle=answer,
        answers=(json_answer(dict[str, Any], "The document."),),
        query=None,
        body=None,
    )


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ConfigurationError(f"{name}={value} must be at least 1")
    return value


def _positive_s(name: str, value: Duration) -> float:
    try:
        found = seconds(value)
    except ValueError as error:
        raise ConfigurationError(f"{name}=: {error}") from error
    if not found:
        raise ConfigurationError(f"{name}={value!r} must be more than nothing")
    return found


async def _as_problem(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses, such as a path that leads nowhere."""
    assert isinstance(error, HTTPException)
    return problem_of_status(error.status_code, error.detail, error.headers)


async def _as_defect(request: Request, error: Exception) -> Response:
    """A defect of ours: the server logs it, the client is told no more than that."""
    return problem_of_status(500, "the server has a defect, and its log says more")
