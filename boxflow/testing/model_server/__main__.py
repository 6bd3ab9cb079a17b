"""`python -m boxflow.testing.model_server SCRIPT.json --port 8399`: a scripted model for trying things by hand."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from boxflow.errors import ConfigurationError
from boxflow.testing.model_server.replies import Reply, Say
from boxflow.testing.model_server.request import ModelRequest
from boxflow.testing.model_server.scripts import Decision, Script, decided, decision, script_from_json
from boxflow.testing.model_server.server import ScriptedModel


def main() -> int:
    """Serve until interrupted; each request is a line on stdout."""
    parser = argparse.ArgumentParser(prog="python -m boxflow.testing.model_server", description=__doc__)
    parser.add_argument("script", nargs="?", type=Path, help="a JSON file; without one, the model greets everybody")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="any free one by default")
    arguments = parser.parse_args()
    try:
        asyncio.run(_serve(_script(arguments.script), arguments.host, arguments.port))
    except (ConfigurationError, OSError) as exc:
        print(exc, file=sys.stderr)  # noqa: T201  # a program
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _script(path: Path | None) -> Script:
    if path is None:
        return lambda _request: Say("Hello from a scripted model.")
    try:
        return script_from_json(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as exc:
        raise ConfigurationError(f"{path} is no script: {exc}") from exc


async def _serve(script: Script, host: str, port: int) -> None:
    async with ScriptedModel(_told(decision(script)), host=host, port=port) as model:
        print(model.url, flush=True)  # noqa: T201  # a program: its first line says where it is
        # Until interrupted.
        await asyncio.Event().wait()


def _told(decide: Decision) -> Decision:
    async def told(request: ModelRequest) -> Reply:
        reply = await decided(decide, request)
        said = f"{request.api} {request.model} turn {request.turn} {request.last_user_text!r:.80}: {reply!r:.160}"
        print(said, flush=True)  # noqa: T201  # a program
        return reply

    return told


if __name__ == "__main__":
    sys.exit(main())
