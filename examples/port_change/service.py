"""An engine and an HTTP server in one process and one event loop, as an app has them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from boxflow import Engine
from boxflow.asgi import routes
from examples.port_change.workflow import port_everywhere, port_to


@dataclass(frozen=True)
class Place:
    """Where one demo lives: everything it keeps is below one directory."""

    directory: Path

    @property
    def repository(self) -> Path:
        return self.directory / "repository"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def boxes(self) -> Path:
        return self.directory / "boxes"

    @property
    def question(self) -> Path:
        """What is to be approved, and where to answer; there only while it is to be answered."""
        return self.directory / "question.json"

    def port(self) -> int:
        """The server's port: a free one at first, and the same for ever, because agents were given it in a URL."""
        file = self.directory / "port.json"
        if not file.exists():
            with socket.create_server(("127.0.0.1", 0)) as probe:
                file.write_text(json.dumps(probe.getsockname()[1]), encoding="utf-8")
        return int(json.loads(file.read_text(encoding="utf-8")))

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port()}"


def make_engine(place: Place) -> Engine:
    return Engine(
        [port_everywhere, port_to],
        store=f"file:{place.state}",
        sandbox=f"local:{place.boxes}",
        base_url=place.base_url,
    )


@asynccontextmanager
async def serving(place: Place) -> AsyncIterator[Engine]:
    """The engine, reachable over HTTP on this machine only. The same place again goes on where the last one ended."""
    with socket.create_server(("127.0.0.1", place.port())) as listening:
        async with make_engine(place) as engine:
            app = Starlette(routes=routes(engine))
            config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=2)
            server = uvicorn.Server(config)
            serve = asyncio.create_task(server.serve(sockets=[listening]))
            try:
                yield engine
            finally:
                server.should_exit = True
                with suppress(asyncio.CancelledError):
                    await serve
