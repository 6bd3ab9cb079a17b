"""The boxes of an engine that runs elsewhere, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from boxflow.cli.clients import Document, ExecWanted
from boxflow.cli.following import event_data, followed
from boxflow.cli.server import Server, segment
from boxflow.model import seconds

# How much longer than the command itself its answer may take.
_GRACE_S: Final = 30.0


class HttpBoxes:
    """Boxes of a running engine."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def list_boxes(self, *, run_id: str | None, labels: Mapping[str, str]) -> Document:
        params = [("label", f"{name}={value}") for name, value in labels.items()]
        return await self._server.get("/boxes", [*params, *([] if run_id is None else [("run_id", run_id)])])

    async def box(self, box_id: str) -> Document:
        return await self._server.get(_path(box_id))

    async def jobs(self, box_id: str) -> Document:
        return await self._server.get(_path(box_id, "jobs"))

    async def execute(self, box_id: str, wanted: ExecWanted) -> Document:
        command = wanted.command if isinstance(wanted.command, str) else list(wanted.command)
        body = {"command": command, "cwd": wanted.cwd, "env": dict(wanted.env), "user": wanted.user}
        answer_s = seconds(wanted.timeout) + _GRACE_S
        return await self._server.post(_path(box_id, "exec"), {**body, "timeout": wanted.timeout}, answer_s=answer_s)

    async def logs(self, box_id: str, *, job: str | None, offset: int, follow: bool) -> AsyncGenerator[bytes]:
        path, params = _path(box_id, "logs"), [("offset", str(offset))]
        if job is not None:
            params.append(("job", job))
        if not follow:
            async with self._server.stream("GET", path, params=params, headers={"Accept": "text/plain"}) as response:
                async for chunk in response.aiter_bytes():
                    yield chunk
            return
        params.append(("follow", "true"))
        async with aclosing(followed(self._server, path, params, last_id=f"{offset},0")) as events:
            async for event in events:
                if event.event == "output":
                    yield str(event_data(event).get("text", "")).encode()

    async def delete(self, box_id: str) -> None:
        await self._server.delete(_path(box_id))


def _path(box_id: str, action: str = "") -> str:
    return f"/boxes/{segment(box_id)}" + (f"/{action}" if action else "")
