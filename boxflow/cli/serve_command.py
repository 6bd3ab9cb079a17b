"""`boxflow serve`: an engine with its routes, on a port, until it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import click

from boxflow import Engine
from boxflow.cli.failures import INTERRUPTED, UNREACHABLE, CommandError
from boxflow.cli.logs import log_to_stderr
from boxflow.cli.printing import say
from boxflow.cli.stopping import StoppableApp
from boxflow.cli.targets import engine_of

if TYPE_CHECKING:
    from boxflow.asgi.access import Scope

# What is still being answered when the server is stopped has so long to end.
_GRACE_S: Final = 5

_DEFAULT_KEY: Final = "BOXFLOW_API_KEY"


@click.command()
@click.argument("target", metavar="MODULE:ENGINE")
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--api-key-env",
    "key_variables",
    metavar="NAME[=SCOPES]",
    multiple=True,
    help="A variable with a key, and what the key may do, as in CI_KEY=notify,read; all unless given. "
    f"Again for more. {_DEFAULT_KEY} unless given.",
)
@click.option("--verbose", "-v", is_flag=True, help="Show what is logged for information.")
def serve(target: str, *, host: str, port: int, key_variables: Sequence[str], verbose: bool) -> None:
    """Run an engine, and serve its routes.

    MODULE:ENGINE is an Engine, or a function without arguments that returns one. Without a key only programs of this
    machine may call, but for webhooks. Ctrl-C and SIGTERM stop it; runs go on at the next start.
    """  # fmt: skip
    if find_spec("uvicorn") is None:
        raise CommandError("`boxflow serve` needs uvicorn: pip install uvicorn")
    log_to_stderr(verbose=verbose)
    keys = _keys(key_variables)
    engine = engine_of(target)
    if not keys and not _is_loopback(host):
        say(f"no API key is set, so that from other machines only webhooks are taken; set {_DEFAULT_KEY}")
    with _listener(host, port) as listener:
        stopped_by = asyncio.run(_serve(engine, keys, listener))
    if stopped_by is signal.SIGINT:
        raise click.exceptions.Exit(INTERRUPTED)


async def _serve(engine: Engine, keys: Mapping[str, Sequence[Scope]], listener: socket.socket) -> signal.Signals | None:
    """Serve until a signal says stop; returns which. A second one does not wait for what is being answered."""
    import uvicorn

    from boxflow.asgi import create_app

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Generator[None]:
            """Leave the signals to us: uvicorn would raise them again before the engine has stopped."""
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """Say where, as soon as calls are taken."""
            await super().startup(sockets)
            say(f"serving on {_address(listener)}")

    app = StoppableApp(create_app(engine, api_keys=dict(keys)))
    config = uvicorn.Config(
        app,
        # Ours is around it: what goes wrong there is an error with a message, and not a traceback in a log.
        lifespan="off",
        log_config=None,
        # The paths of webhooks are secrets.
        access_log=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = Server(config)
    stopped_by: signal.Signals | None = None

    def stop(number: signal.Signals) -> None:
        nonlocal stopped_by
        server.force_exit = stopped_by is not None
        server.should_exit = True
        app.stop()
        stopped_by = number

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        async with engine:
            await server.serve(sockets=[listener])
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return stopped_by


def _keys(variables: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Keys and their scopes.

    :raises CommandError: a variable that was named is not set, or two have the same key
    """
    if not variables:
        variables = [_DEFAULT_KEY] if os.environ.get(_DEFAULT_KEY) else []
    from boxflow.asgi.access import SCOPES

    found: dict[str, Sequence[Any]] = {}
    for variable in variables:
        name, equals, scopes = variable.partition("=")
        key = os.environ.get(name)
        if not key:
            raise CommandError(f"variable {name!r} is not set, and should have an API key")
        if key in found:
            raise CommandError(f"variable {name!r} has a key that another one has too; make one for each")
        found[key] = [one.strip() for one in scopes.split(",")] if equals else list(SCOPES)
    return found


def _listener(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise CommandError(f"cannot listen on {host}:{port}: {error.strerror or error}", UNREACHABLE) from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
