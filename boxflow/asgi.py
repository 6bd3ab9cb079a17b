"""The HTTP door into an engine: ASGI routes for webhooks and events, to mount in any app.

    app = create_app(engine)                                  # a whole app, whose lifespan is the engine's
    app = Starlette(routes=[Mount("/flow", routes=routes(engine))], lifespan=lifespan(engine))

    POST /webhooks/{token}   (any method)   hand a call to the run that made the webhook
    POST /events/{event_id}?run_id=...      send an event; the body is its JSON data

A 2xx answer means: durably stored. Errors are problem details as in RFC 9457, such as
`{"title": "Unknown webhook", "status": 404, "detail": ...}`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from boxflow.engine import Engine
from boxflow.errors import (
    BoxflowError,
    ConfigurationError,
    EncodeError,
    EventsFullError,
    PayloadTooLargeError,
    RunEndedError,
    RunNotFoundError,
    StoreError,
    WebhookTokenError,
)
from boxflow.mail import Notified, WebhookRequest

MAX_BODY_BYTES = 1024 * 1024

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

STATUS_OF: dict[type[BoxflowError], tuple[int, str]] = {
    WebhookTokenError: (404, "Unknown webhook"),
    RunNotFoundError: (404, "Unknown run"),
    RunEndedError: (410, "Run is over"),
    PayloadTooLargeError: (413, "Body too large"),
    ConfigurationError: (422, "Bad request"),
    EncodeError: (422, "Data cannot be kept"),
    EventsFullError: (429, "Too many kept events"),
    StoreError: (503, "Store is not available"),
}
"""Which answer each error gets; what is not here is a defect of ours, and a 500."""


def routes(engine: Engine, *, max_body_bytes: int = MAX_BODY_BYTES) -> list[BaseRoute]:
    """Routes to mount in an app that enters the engine itself; see `lifespan`.

    :param max_body_bytes: a larger body is answered with 413, and not read to its end
    """

    async def webhook(request: Request) -> Response:
        body = await _read(request, max_body_bytes)
        call = WebhookRequest(
            method=request.method,
            headers={name.lower(): value for name, value in request.headers.items()},
            query=dict(request.query_params),
            body=body,
        )
        return _answer(await engine.deliver_webhook(request.path_params["token"], call))

    async def event(request: Request) -> Response:
        body = await _read(request, max_body_bytes)
        try:
            data = _json(body) if body else None
        except (ValueError, RecursionError) as error:
            return problem(400, "Body is not JSON", f"the event's body must be JSON, or empty: {error}")
        run_id = request.query_params.get("run_id")
        return _answer(await engine.notify(request.path_params["event_id"], data, run_id=run_id))

    return [
        Route("/webhooks/{token}", _guarded(webhook), methods=METHODS, name="boxflow-webhook"),
        Route("/events/{event_id:path}", _guarded(event), methods=["POST"], name="boxflow-event"),
    ]


def lifespan(engine: Engine) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan for Starlette or FastAPI that runs the engine as long as the app."""

    @asynccontextmanager
    async def run(app: Any) -> AsyncGenerator[None]:
        async with engine:
            yield

    return run


def create_app(engine: Engine, *, max_body_bytes: int = MAX_BODY_BYTES) -> Starlette:
    """An app that serves the routes and runs the engine in its lifespan."""
    return Starlette(routes=routes(engine, max_body_bytes=max_body_bytes), lifespan=lifespan(engine))


def problem(status: int, title: str, detail: str) -> JSONResponse:
    """An error body as RFC 9457 has it."""
    content = {"title": title, "status": status, "detail": detail}
    return JSONResponse(content, status_code=status, media_type="application/problem+json")


def _json(body: bytes) -> Any:
    """*body* as JSON of RFC 8259: in UTF-8, and without the NaN and Infinity that Python reads too.

    :raises ValueError: it is something else
    """
    return json.loads(body.decode("utf-8-sig"), parse_constant=_no_json)


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _answer(notified: Notified) -> JSONResponse:
    return JSONResponse({"run_ids": list(notified.run_ids), "kept": notified.kept})


async def _read(request: Request, max_bytes: int) -> bytes:
    """The body, or `PayloadTooLargeError` as soon as it is known to be too large."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise PayloadTooLargeError(f"the body has {declared} bytes, at most {max_bytes} are taken")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise PayloadTooLargeError(f"the body has more than {max_bytes} bytes, which is the most that is taken")
    return bytes(body)


def _guarded(handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Answer our errors with what they mean over HTTP."""

    async def answer(request: Request) -> Response:
        try:
            return await handle(request)
        except ClientDisconnect:
            return Response(status_code=400)
        except BoxflowError as error:
            for kind, (status, title) in STATUS_OF.items():
                if isinstance(error, kind):
                    return problem(status, title, str(error))
            raise

    return answer
