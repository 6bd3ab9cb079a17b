"""The runs of an engine that runs elsewhere, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from boxflow.cli.clients import Document, Ended, Happened, RunsWanted
from boxflow.cli.following import event_data, followed
from boxflow.cli.server import Server, segment


class HttpRuns:
    """Runs of a running engine."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def list_runs(self, wanted: RunsWanted) -> Document:
        params = [("status", status) for status in wanted.statuses]
        given = {"workflow": wanted.workflow, "label": wanted.label, "cursor": wanted.cursor, "limit": wanted.limit}
        params += [(name, str(value)) for name, value in given.items() if value is not None]
        return await self._server.get("/runs", params)

    async def run(self, run_id: str) -> Document:
        return await self._server.get(_path(run_id))

    async def history(self, run_id: str, *, after: int, limit: int) -> Document:
        return await self._server.get(_path(run_id, "history"), [("after", str(after)), ("limit", str(limit))])

    async def watch(self, run_id: str, *, after: int) -> AsyncGenerator[Happened | Ended]:
        async with aclosing(followed(self._server, _path(run_id, "watch"), (), last_id=str(after))) as events:
            async for event in events:
                if event.event == "outcome":
                    yield Happened(event_data(event))
                elif event.event == "end":
                    yield Ended(event_data(event))

    async def export(self, run_id: str) -> bytes:
        return await self._server.get_bytes(_path(run_id, "export"))

    async def cancel(self, run_id: str, reason: str | None) -> Document:
        return await self._server.post(_path(run_id, "cancel"), {} if reason is None else {"reason": reason})

    async def resume(self, run_id: str, *, accept_divergence: bool) -> Document:
        return await self._server.post(_path(run_id, "resume"), {"accept_divergence": accept_divergence})

    async def restart(self, run_id: str) -> Document:
        return await self._server.post(_path(run_id, "restart"), {})

    async def fork(self, run_id: str, *, before: str, occurrence: int) -> Document:
        return await self._server.post(_path(run_id, "fork"), {"before": before, "occurrence": occurrence})

    async def prune(self, older_than: str) -> Document:
        return await self._server.post("/runs/prune", {"older_than": older_than})

    async def notify(self, event_id: str, data: object, *, run_id: str | None) -> Document:
        params = [] if run_id is None else [("run_id", run_id)]
        return await self._server.post(f"/events/{segment(event_id)}", data, params)


def _path(run_id: str, action: str = "") -> str:
    return f"/runs/{segment(run_id)}" + (f"/{action}" if action else "")
