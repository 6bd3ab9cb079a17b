"""How do webhook calls and events come in over HTTP? A 2xx answer means: durably stored."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from boxflow.asgi.documents import NotifiedDocument, notified_document
from boxflow.asgi.endpoint import ANY_METHOD, Call, Endpoint, json_answer, json_response
from boxflow.asgi.reading import parse_json
from boxflow.mail import WebhookRequest, joined_headers


async def _webhook(call: Call[None, bytes]) -> Response:
    request = call.request
    received = WebhookRequest(
        method=request.method,
        headers=joined_headers(request.headers.items()),
        query=dict(request.query_params),
        body=call.body,
    )
    return json_response(notified_document(await call.engine.deliver_webhook(call.path["token"], received)))


class _EventQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    run_id: str | None = None


async def _event(call: Call[_EventQuery, bytes]) -> Response:
    data = parse_json(call.body, "the event's body") if call.body else None
    notified = await call.engine.notify(call.path["event_id"], data, run_id=call.query.run_id)
    return json_response(notified_document(notified))


WEBHOOK = Endpoint(
    name="boxflow-webhook",
    method=ANY_METHOD,
    path="/webhooks/{token}",
    scope=None,
    summary="Hand a call to the run that made the webhook. The token in the path says who may call.",
    handle=_webhook,
    answers=(json_answer(NotifiedDocument, "Durably stored."),),
    query=None,
    body=bytes,
    body_schema={"application/json": {}, "text/plain": {"type": "string"}},
    may_be_empty=True,
    problems=(401, 404, 410, 422, 429, 503),
)

EVENT = Endpoint(
    name="boxflow-event",
    method="POST",
    path="/events/{event_id}",
    scope="notify",
    summary="Send an event, to whoever waits for it or to one run. The body is its data.",
    handle=_event,
    answers=(json_answer(NotifiedDocument, "Durably stored."),),
    query=_EventQuery,
    body=bytes,
    body_schema={"application/json": {}},
    may_be_empty=True,
    problems=(404, 410, 422, 429, 503),
)

ENDPOINTS = (WEBHOOK, EVENT)
