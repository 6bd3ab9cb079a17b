"""How is a run's journal read over HTTP: page by page, live, or as one file?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final

import msgspec
from starlette.responses import Response

from boxflow.asgi.documents import HistoryDocument, OutcomeDocument, RunDocument, outcome_document
from boxflow.asgi.endpoint import Answer, Call, Endpoint, Events, Nothing, json_answer, json_response
from boxflow.asgi.event_stream import END_ID, EVENT_STREAM, HEARTBEAT, StreamResponse, event
from boxflow.asgi.problems import Problem, problem_parts
from boxflow.asgi.reading import bad_parameter
from boxflow.asgi.run_endpoints import Limit, document_of, run_of
from boxflow.errors import BoxflowError
from boxflow.history_file import dump_history, read_history
from boxflow.runs import Run

Position = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]

PAGE_BYTES: Final = 8 * 1024 * 1024
"""A page of history ends early where its values are large: the next one goes on behind it."""


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of the journal: at most *limit* outcomes behind position *after*."""

    after: Position = 0
    limit: Limit = 100


async def _history(call: Call[HistoryQuery, None]) -> Response:
    asked = call.query
    outcomes: list[msgspec.Raw] = []
    size, last, next_after = 0, asked.after, None
    run = await run_of(call)
    async with aclosing(run.watch(after=asked.after, follow=False)) as journal:
        async for outcome in journal:
            encoded = msgspec.json.encode(outcome_document(outcome))
            size += len(encoded)
            if len(outcomes) >= asked.limit or (outcomes and size > PAGE_BYTES):
                next_after = last
                break
            outcomes.append(msgspec.Raw(encoded))
            last = outcome.seq
    return json_response({"outcomes": outcomes, "next_after": next_after})


class WatchQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to begin: behind position *after*, unless the header `Last-Event-ID` says another one."""

    after: Position = 0


async def _watch(call: Call[WatchQuery, None]) -> Response:
    last_id = call.request.headers.get("last-event-id")
    if last_id == END_ID:
        return Response(status_code=204)  # HTML, 9.2.3: a browser that gets this does not come again.
    after = call.query.after if last_id is None else _position(last_id)
    run = await run_of(call)
    streams = call.door.streams
    return StreamResponse(_events(run, after), streams, media_type=EVENT_STREAM, heartbeat=HEARTBEAT)


def _position(last_id: str) -> int:
    if not (last_id.isascii() and last_id.isdecimal() and len(last_id) <= 16):
        raise bad_parameter("Last-Event-ID", f"{last_id!r} is no id that this stream gives; send the last one you saw")
    return int(last_id)


async def _events(run: Run[Any], after: int) -> AsyncGenerator[bytes]:
    yield b": watching\n\n"
    try:
        async with aclosing(run.watch(after=after)) as outcomes:
            async for outcome in outcomes:
                yield event("outcome", outcome_document(outcome), event_id=str(outcome.seq))
        yield event("end", await document_of(run), event_id=END_ID)
    except BoxflowError as error:
        # The status was sent long ago: what would have been a problem then is an event now.
        status, title = problem_parts(error)
        yield event("error", Problem(title=title, status=status, detail=str(error)))


async def _export(call: Call[Nothing, None]) -> Response:
    run = await run_of(call)
    data = dump_history(await read_history(call.engine.store, run.id))
    return Response(data, media_type="application/json")


ENDPOINTS = (
    Endpoint(
        name="get_history",
        method="GET",
        path="/runs/{run_id}/history",
        scope="read",
        summary="The outcomes of a run's journal, in order.",
        handle=_history,
        answers=(json_answer(HistoryDocument, "A page of the journal; it ends early where values are large."),),
        query=HistoryQuery,
        body=None,
        problems=(404, 503),
    ),
    Endpoint(
        name="watch_run",
        method="GET",
        path="/runs/{run_id}/watch",
        scope="read",
        summary="The outcomes of a run from the first one on, then live, as server-sent events.",
        handle=_watch,
        answers=(
            Answer(
                description="`event: outcome` for each, with its position as `id`; `event: end` with the run when it "
                "is over or has diverged; `event: error` with a problem when the stream cannot go on. One that ends "
                "otherwise is continued by asking again with the last id.",
                content={EVENT_STREAM: Events({"outcome": OutcomeDocument, "end": RunDocument, "error": Problem})},
            ),
            Answer(status=204, description="The client has seen the end."),
        ),
        query=WatchQuery,
        body=None,
        request_headers={"Last-Event-ID": "The id of the last event that the client has seen."},
        problems=(404, 503),
    ),
    Endpoint(
        name="export_run",
        method="GET",
        path="/runs/{run_id}/export",
        scope="read",
        summary="A run with its journal as one document, to keep and to replay.",
        handle=_export,
        answers=(json_answer(dict[str, Any], "The history file."),),
        query=Nothing,
        body=None,
        problems=(404, 503),
    ),
)
