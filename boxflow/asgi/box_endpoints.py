"""How are boxes looked at, and commands run in them, over HTTP? Only those of this engine: others are not found."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from starlette.responses import Response

from boxflow.asgi.documents import (
    BoxDocument,
    BoxesDocument,
    ExecDocument,
    box_document,
    exec_document,
    timed_out_document,
)
from boxflow.asgi.endpoint import Answer, Call, Endpoint, Nothing, json_answer, json_response
from boxflow.asgi.event_stream import answered_or_gone
from boxflow.asgi.reading import DurationIn, bad_parameter, bad_part, parse_duration
from boxflow.box_keeper import RUN_LABEL
from boxflow.boxes import Box, BoxInfo, ExecResult
from boxflow.boxes.command import DEFAULT_OUTPUT_BYTES
from boxflow.engine import Engine
from boxflow.errors import BoxflowError, BoxNotFoundError, CommandTimeoutError

Word = Annotated[str, msgspec.Meta(min_length=1)]

DEFAULT_TIMEOUT_S = 600.0
"""Ten minutes: who waits longer for an answer over HTTP starts a job, in a workflow."""


async def _found(engine: Engine, box_id: str) -> BoxInfo:
    """The box of that id, if it is this engine's: a sandbox may have boxes of others, too."""
    for info in await engine.boxes.sandbox.list({}):
        if info.box_id == box_id:
            return info
    raise BoxNotFoundError(box_id)


async def box_of(call: Call[Any, Any]) -> Box:
    """The box that the path names."""
    info = await _found(call.engine, call.path["box_id"])
    return await call.engine.boxes.get(info.box_id)


# --- list, get, delete ----------------------------------------------------------------------------------------------


class BoxesQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which boxes: those of a run, and those that carry all the labels, each as `name=value`."""

    run_id: str | None = None
    label: tuple[str, ...] = ()


async def _list(call: Call[BoxesQuery, None]) -> Response:
    wanted: dict[str, str] = {}
    for label in call.query.label:
        name, separator, value = label.partition("=")
        if not name or not separator:
            raise bad_parameter("label", f"{label!r} is no label; write `name=value`")
        wanted[name] = value
    if call.query.run_id is not None:
        wanted[RUN_LABEL] = call.query.run_id
    found = await call.engine.boxes.sandbox.list({})
    matching = [info for info in found if wanted.items() <= info.labels.items()]
    return json_response(BoxesDocument(boxes=tuple(box_document(info) for info in matching)))


async def _get(call: Call[Nothing, None]) -> Response:
    return json_response(box_document(await _found(call.engine, call.path["box_id"])))


async def _delete(call: Call[Nothing, None]) -> Response:
    info = await _found(call.engine, call.path["box_id"])
    await call.engine.boxes.delete(info.box_id)
    return Response(status_code=204)


# --- exec -----------------------------------------------------------------------------------------------------------


class ExecBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to run: a text for the box's shell, or a program and its arguments. `timeout` is seconds, or as in "5m"."""

    command: Word | Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    cwd: str | None = None
    env: dict[str, str] = {}
    timeout: DurationIn | None = None
    user: str | None = None


async def _exec(call: Call[Nothing, ExecBody]) -> Response:
    asked = call.body
    limit_s = call.door.streams.lifetime_s
    default_s = min(DEFAULT_TIMEOUT_S, limit_s)
    timeout_s = default_s if asked.timeout is None else parse_duration(asked.timeout, "/timeout")
    if timeout_s > limit_s:
        raise bad_part("the body does not fit", f"a command may take {limit_s:g} s at most here", below="/timeout")
    for name, texts in _texts(asked):
        if any("\0" in text for text in texts):
            raise bad_part("the body does not fit", "no program can be given a NUL", below=f"/{name}")
    box = await box_of(call)

    async def run() -> ExecResult:
        return await box.exec.command(
            asked.command,
            cwd=asked.cwd,
            env=asked.env,
            user=asked.user,
            timeout=timeout_s,
            max_output_bytes=DEFAULT_OUTPUT_BYTES,
        )

    try:
        result = await answered_or_gone(call.request, call.door.streams, run)
    except CommandTimeoutError as error:
        return json_response(timed_out_document(error))
    except ValueError as error:
        if isinstance(error, BoxflowError):
            raise
        raise bad_part("the body does not fit", str(error)) from error
    if result is None:
        return Response(status_code=400)  # Nobody is there to read it; the command was ended.
    return json_response(exec_document(result))


def _texts(asked: ExecBody) -> list[tuple[str, list[str]]]:
    command = [asked.command] if isinstance(asked.command, str) else list(asked.command)
    env = [text for pair in asked.env.items() for text in pair]
    return [("command", command), ("cwd", [asked.cwd or ""]), ("env", env), ("user", [asked.user or ""])]


ENDPOINTS = (
    Endpoint(
        name="list_boxes",
        method="GET",
        path="/boxes",
        scope="read",
        summary="Boxes that match all that is given, oldest first.",
        handle=_list,
        answers=(json_answer(BoxesDocument, "The boxes."),),
        query=BoxesQuery,
        body=None,
        problems=(503,),
    ),
    Endpoint(
        name="get_box",
        method="GET",
        path="/boxes/{box_id}",
        scope="read",
        summary="One box.",
        handle=_get,
        answers=(json_answer(BoxDocument, "The box."),),
        query=Nothing,
        body=None,
        problems=(404, 503),
    ),
    Endpoint(
        name="delete_box",
        method="DELETE",
        path="/boxes/{box_id}",
        scope="admin",
        summary="End every process of a box and remove it.",
        handle=_delete,
        answers=(Answer(status=204, description="It is gone."),),
        query=Nothing,
        body=None,
        problems=(404, 503),
    ),
    Endpoint(
        name="exec_in_box",
        method="POST",
        path="/boxes/{box_id}/exec",
        scope="admin",
        summary="Run a command in a box and wait for it. It is ended when the client leaves.",
        handle=_exec,
        answers=(json_answer(ExecDocument, "How it ended."),),
        query=Nothing,
        body=ExecBody,
        problems=(404, 409, 503),
    ),
)
