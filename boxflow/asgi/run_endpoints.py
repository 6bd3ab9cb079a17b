"""How are runs started, found and steered over HTTP?"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from boxflow.asgi.documents import (
    PrunedDocument,
    RunDocument,
    RunsDocument,
    run_document,
)
from boxflow.asgi.endpoint import Answer, Call, Endpoint, Nothing, json_answer, json_response
from boxflow.asgi.reading import DurationIn, bad_part, parse_duration, unfit_payload
from boxflow.codec import decode_value
from boxflow.errors import BoxflowError, DecodeError
from boxflow.model import RunStatus
from boxflow.runs import Run

Text = Annotated[str, msgspec.Meta(min_length=1)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]

LOCATION = {"Location": "Where the run is found from now on."}


def location(request: Request, run_id: str) -> dict[str, str]:
    """The header that says where a run is found, wherever the routes are mounted."""
    prefix = quote(request.scope.get("root_path", ""))
    return {"Location": f"{prefix}/runs/{quote(run_id, safe='')}"}


async def document_of(run: Run[Any]) -> RunDocument:
    """The run as it stands now, its result in it."""
    info = await run.info()
    result = await run.result_json() if info.status is RunStatus.COMPLETED else None
    return run_document(info, result)


async def _created(call: Call[Any, Any], run: Run[Any], status: int = 201) -> Response:
    return json_response(await document_of(run), status, location(call.request, run.id))


async def run_of(call: Call[Any, Any]) -> Run[Any]:
    """The run that the path names."""
    return await call.engine.get(call.path["run_id"])


# --- start, list, get -----------------------------------------------------------------------------------------------


class StartBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to start. `payload` is checked against the type that the workflow takes."""

    workflow: Text
    payload: msgspec.Raw | UnsetType = UNSET
    run_id: Text | None = None
    labels: tuple[Text, ...] = ()
    delay: DurationIn | None = None
    version: str | int | None = None


async def _start(call: Call[Nothing, StartBody]) -> Response:
    asked = call.body
    found = call.engine.workflow(asked.workflow, asked.version)
    payload: object = ...
    if asked.payload is not UNSET:
        try:
            payload = decode_value(asked.payload, found.payload_type)
        except DecodeError as error:
            raise unfit_payload(error, found.title) from error
    run = await call.engine.start(
        asked.workflow,
        payload,
        run_id=asked.run_id,
        labels=asked.labels,
        delay=None if asked.delay is None else parse_duration(asked.delay, "/delay"),
        version=asked.version,
    )
    return await _created(call, run, 201 if run.is_new else 200)


class RunsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which runs to list."""

    status: tuple[RunStatus, ...] = ()
    workflow: str | None = None
    label: str | None = None
    limit: Limit = 50
    cursor: Text | None = None


async def _list(call: Call[RunsQuery, None]) -> Response:
    asked = call.query
    found = await call.engine.find_runs(
        status=asked.status or None,
        workflow=asked.workflow,
        label=asked.label,
        limit=asked.limit + 1,  # One more than is shown tells whether there are more.
        after=asked.cursor,
    )
    shown = found[: asked.limit]
    cursor = shown[-1].id if len(found) > len(shown) else None
    return json_response(RunsDocument(runs=tuple(run_document(info) for info in shown), next_cursor=cursor))


async def _get(call: Call[Nothing, None]) -> Response:
    return json_response(await document_of(await run_of(call)))


# --- steering -------------------------------------------------------------------------------------------------------


class CancelBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why it is cancelled."""

    reason: str | None = None


async def _cancel(call: Call[Nothing, CancelBody]) -> Response:
    run = await run_of(call)
    await run.cancel(call.body.reason)
    return json_response(await document_of(run), 202)


class ResumeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How it goes on: with *accept_divergence* recorded outcomes that no longer have a place are skipped."""

    accept_divergence: bool = False


async def _resume(call: Call[Nothing, ResumeBody]) -> Response:
    run = await run_of(call)
    await run.resume(accept_divergence=call.body.accept_divergence)
    return json_response(await document_of(run), 202)


async def _restart(call: Call[Nothing, Nothing]) -> Response:
    return await _created(call, await (await run_of(call)).restart())


class ForkBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the new run leaves the old one: before the call of that name, of that occurrence."""

    before: Text
    occurrence: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)] = 1


async def _fork(call: Call[Nothing, ForkBody]) -> Response:
    run = await run_of(call)
    try:
        forked = await run.fork(before=call.body.before, occurrence=call.body.occurrence)
    except BoxflowError:
        raise
    except LookupError as error:
        raise bad_part("the body does not fit", str(error), below="/before") from error
    return await _created(call, forked)


class PruneBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the runs must have been over: seconds, or as in "7d"."""

    older_than: DurationIn


async def _prune(call: Call[Nothing, PruneBody]) -> Response:
    older_than = parse_duration(call.body.older_than, "/older_than")
    return json_response(PrunedDocument(pruned=await call.engine.prune(older_than)))


async def _delete(call: Call[Nothing, None]) -> Response:
    await (await run_of(call)).delete()
    return Response(status_code=204)


_CREATED = json_answer(RunDocument, "The new run.", status=201, headers=LOCATION)
_ACCEPTED = json_answer(RunDocument, "The run; the request is durable.", status=202)

ENDPOINTS = (
    Endpoint(
        name="start_run",
        method="POST",
        path="/runs",
        scope="run",
        summary="Start a run, or find the one that has this id.",
        handle=_start,
        answers=(
            _CREATED,
            json_answer(RunDocument, "The run that had this id already.", headers=LOCATION),
        ),
        query=Nothing,
        body=StartBody,
        problems=(404, 409, 503),
    ),
    Endpoint(
        name="list_runs",
        method="GET",
        path="/runs",
        scope="read",
        summary="Runs that match all that is given, newest first. A cursor continues the page that gave it.",
        handle=_list,
        answers=(json_answer(RunsDocument, "A page of runs, without their results."),),
        query=RunsQuery,
        body=None,
        problems=(404, 503),
    ),
    Endpoint(
        name="prune_runs",
        method="POST",
        path="/runs/prune",
        scope="admin",
        summary="Forget the runs that have been over for so long, with their journals.",
        handle=_prune,
        answers=(json_answer(PrunedDocument, "How many they were."),),
        query=Nothing,
        body=PruneBody,
        problems=(503,),
    ),
    Endpoint(
        name="get_run",
        method="GET",
        path="/runs/{run_id}",
        scope="read",
        summary="One run.",
        handle=_get,
        answers=(json_answer(RunDocument, "The run."),),
        query=Nothing,
        body=None,
        problems=(404, 409, 503),
    ),
    Endpoint(
        name="delete_run",
        method="DELETE",
        path="/runs/{run_id}",
        scope="admin",
        summary="Forget a run that is over, with its journal.",
        handle=_delete,
        answers=(Answer(status=204, description="It is gone."),),
        query=Nothing,
        body=None,
        problems=(404, 409, 503),
    ),
    Endpoint(
        name="cancel_run",
        method="POST",
        path="/runs/{run_id}/cancel",
        scope="run",
        summary="Ask a run to end. No error when it is over.",
        handle=_cancel,
        answers=(_ACCEPTED,),
        query=Nothing,
        body=CancelBody,
        may_be_empty=True,
        problems=(404, 409, 503),
    ),
    Endpoint(
        name="resume_run",
        method="POST",
        path="/runs/{run_id}/resume",
        scope="run",
        summary="Have a failed or diverged run go on from what failed.",
        handle=_resume,
        answers=(_ACCEPTED,),
        query=Nothing,
        body=ResumeBody,
        may_be_empty=True,
        problems=(404, 409, 503),
    ),
    Endpoint(
        name="restart_run",
        method="POST",
        path="/runs/{run_id}/restart",
        scope="run",
        summary="Begin anew, as a new run with the same payload and labels.",
        handle=_restart,
        answers=(_CREATED,),
        query=Nothing,
        body=Nothing,
        may_be_empty=True,
        problems=(404, 409, 503),
    ),
    Endpoint(
        name="fork_run",
        method="POST",
        path="/runs/{run_id}/fork",
        scope="run",
        summary="A new run that shares this one's past up to a call, and makes that call again.",
        handle=_fork,
        answers=(_CREATED,),
        query=Nothing,
        body=ForkBody,
        problems=(404, 409, 503),
    ),
)
