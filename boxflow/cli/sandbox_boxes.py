"""The boxes of a sandbox, reached from this process: beside the engine that made them, or without one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from boxflow import Boxes
from boxflow.asgi.documents import box_document, exec_document, job_document, timed_out_document
from boxflow.box_keeper import RUN_LABEL
from boxflow.boxes import ENGINE_LABEL
from boxflow.cli.clients import Document, ExecWanted
from boxflow.cli.documents import as_document
from boxflow.cli.failures import NOT_FOUND, CommandError
from boxflow.errors import CommandTimeoutError


class SandboxBoxes:
    """Boxes of a sandbox.

    :param boxes: entered already
    :param engine_id: only boxes of that engine are listed; all when None
    """

    def __init__(self, boxes: Boxes, engine_id: str | None = None) -> None:
        self._boxes = boxes
        self._engine_id = engine_id

    async def list_boxes(self, *, run_id: str | None, labels: Mapping[str, str]) -> Document:
        wanted = dict(labels)
        if run_id is not None:
            wanted[RUN_LABEL] = run_id
        if self._engine_id is not None:
            wanted[ENGINE_LABEL] = self._engine_id
        return {"boxes": [as_document(box_document(info)) for info in await self._boxes.sandbox.list(wanted)]}

    async def box(self, box_id: str) -> Document:
        return as_document(box_document(await self._boxes.sandbox.get(box_id)))

    async def jobs(self, box_id: str) -> Document:
        box = await self._boxes.get(box_id)
        return {"jobs": [as_document(job_document(info)) for info in await box.jobs.list()]}

    async def execute(self, box_id: str, wanted: ExecWanted) -> Document:
        box = await self._boxes.get(box_id)
        try:
            result = await box.exec.command(
                wanted.command, cwd=wanted.cwd, env=wanted.env, timeout=wanted.timeout, user=wanted.user
            )
        except CommandTimeoutError as error:
            return as_document(timed_out_document(error))
        return as_document(exec_document(result))

    async def logs(self, box_id: str, *, job: str | None, offset: int, follow: bool) -> AsyncGenerator[bytes]:
        box = await self._boxes.get(box_id)
        if job is None:
            jobs = await box.jobs.list()
            if not jobs:
                raise CommandError(f"box {box_id!r} has no job, and only jobs keep what they write", NOT_FOUND)
            job = jobs[-1].job_id
        async for piece in box.jobs.logs(job, follow=follow, offset=offset):
            yield piece.data

    async def delete(self, box_id: str) -> None:
        await self._boxes.sandbox.get(box_id)  # Deleting what is not there is no error, but a wrong id is a mistake.
        await self._boxes.delete(box_id)
