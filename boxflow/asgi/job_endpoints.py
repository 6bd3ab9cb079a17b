"""How are the jobs of a box looked at over HTTP, and what they wrote?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import msgspec
from starlette.responses import Response

from boxflow.asgi.box_endpoints import box_of
from boxflow.asgi.documents import JobDocument, JobsDocument, OutputDocument, job_document
from boxflow.asgi.endpoint import Answer, Call, Endpoint, Events, Nothing, json_answer, json_response
from boxflow.asgi.event_stream import END_ID, EVENT_STREAM, HEARTBEAT, StreamResponse, event
from boxflow.asgi.problems import Problem, RefusedError, problem_parts
from boxflow.asgi.reading import bad_parameter
from boxflow.boxes import Job
from boxflow.errors import BoxflowError, JobNotFoundError

Offset = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


async def _jobs(call: Call[Nothing, None]) -> Response:
    box = await box_of(call)
    return json_response(JobsDocument(jobs=tuple(job_document(info) for info in await box.jobs.list())))


class LogsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which job, the newest unless given; from which byte of each stream on; and whether to wait for more."""

    job: str | None = None
    offset: Offset = 0
    stderr_offset: Offset = 0
    follow: bool = False


async def _logs(call: Call[LogsQuery, None]) -> Response:
    asked = call.query
    offset, stderr_offset = asked.offset, asked.stderr_offset
    last_id = call.request.headers.get("last-event-id")
    if asked.follow and last_id is not None:
        if last_id == END_ID:
            return Response(status_code=204)
        offset, stderr_offset = _offsets(last_id)
    box = await box_of(call)
    infos = await box.jobs.list()
    wanted = asked.job if asked.job is not None else infos[-1].job_id if infos else None
    if wanted is None:
        raise RefusedError(404, "Unknown job", f"box {box.id!r} has no jobs, and so no output of one")
    if all(info.job_id != wanted for info in infos):
        raise JobNotFoundError(wanted)
    job = Job(box.jobs, wanted)
    streams = call.door.streams
    if asked.follow:
        events = _events(job, offset, stderr_offset)
        return StreamResponse(events, streams, media_type=EVENT_STREAM, heartbeat=HEARTBEAT)
    return StreamResponse(_text(job, offset, stderr_offset), streams, media_type="text/plain; charset=utf-8")


def _offsets(last_id: str) -> tuple[int, int]:
    stdout, _, stderr = last_id.partition(",")
    if not all(part.isascii() and part.isdecimal() and len(part) <= 16 for part in (stdout, stderr)):
        raise bad_parameter("Last-Event-ID", f"{last_id!r} is no id that this stream gives; send the last one you saw")
    return int(stdout), int(stderr)


async def _text(job: Job, offset: int, stderr_offset: int) -> AsyncGenerator[bytes]:
    async with aclosing(job.logs(offset=offset, stderr_offset=stderr_offset)) as pieces:
        async for piece in pieces:
            yield piece.data


async def _events(job: Job, offset: int, stderr_offset: int) -> AsyncGenerator[bytes]:
    at = {"stdout": offset, "stderr": stderr_offset}
    yield b": following\n\n"
    try:
        async with aclosing(job.logs(follow=True, offset=offset, stderr_offset=stderr_offset)) as pieces:
            async for piece in pieces:
                at[piece.stream] = piece.offset + len(piece.data)
                document = OutputDocument(stream=piece.stream, offset=piece.offset, text=piece.text)
                yield event("output", document, event_id=f"{at['stdout']},{at['stderr']}")
        yield event("end", job_document(await job.info()), event_id=END_ID)
    except BoxflowError as error:
        status, title = problem_parts(error)
        yield event("error", Problem(title=title, status=status, detail=str(error)))


ENDPOINTS = (
    Endpoint(
        name="list_jobs",
        method="GET",
        path="/boxes/{box_id}/jobs",
        scope="read",
        summary="The jobs of a box.",
        handle=_jobs,
        answers=(json_answer(JobsDocument, "The jobs, in the order in which they began."),),
        query=Nothing,
        body=None,
        problems=(404, 409, 503),
    ),
    Endpoint(
        name="get_logs",
        method="GET",
        path="/boxes/{box_id}/logs",
        scope="read",
        summary="What a job of a box wrote: what is there now, or, with `follow`, until it has ended.",
        handle=_logs,
        answers=(
            Answer(
                description="Both streams as they came. With `follow`, `event: output` for each piece, with where the "
                "streams go on as `id`, and `event: end` with the job.",
                content={
                    "text/plain": None,
                    EVENT_STREAM: Events({"output": OutputDocument, "end": JobDocument, "error": Problem}),
                },
            ),
            Answer(status=204, description="The client has seen the end."),
        ),
        query=LogsQuery,
        body=None,
        request_headers={"Last-Event-ID": "With `follow`: the id of the last event that the client has seen."},
        problems=(404, 409, 503),
    ),
)
