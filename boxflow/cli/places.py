"""Where are the runs and the boxes that a command is about? The options that say so, and what they lead to."""

from __future__ import annotations

import enum
import functools
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar, cast

import attrs
import click
import msgspec
from click.core import ParameterSource

from boxflow import Boxes, Engine
from boxflow.cli.clients import BoxesClient, RunsClient
from boxflow.cli.failures import NOT_FOUND, CommandError
from boxflow.cli.http_boxes import HttpBoxes
from boxflow.cli.http_runs import HttpRuns
from boxflow.cli.sandbox_boxes import SandboxBoxes
from boxflow.cli.server import Server
from boxflow.cli.store_runs import StoreRuns, always
from boxflow.cli.targets import engine_of, is_workflow, workflow_of
from boxflow.hub import SETTINGS
from boxflow.plugins import resolve_reader, resolve_store

DEFAULT_SANDBOX: Final = "local:"

Command = TypeVar("Command", bound=Callable[..., None])

url_option = click.option(
    "--url", metavar="URL", envvar="BOXFLOW_URL", show_envvar=True, help="Ask the engine that runs there."
)
api_key_option = click.option(
    "--api-key", metavar="KEY", envvar="BOXFLOW_API_KEY", show_envvar=True,
    help="Its key; better in the variable, which other users do not see.",
)  # fmt: skip
store_option = click.option(
    "--store", metavar="STORE", envvar="BOXFLOW_STORE", show_envvar=True, help="Look into a store, as in file:state."
)
sandbox_option = click.option(
    "--sandbox", metavar="SANDBOX", envvar="BOXFLOW_SANDBOX", show_envvar=True,
    help=f"What makes boxes, as in docker:; {DEFAULT_SANDBOX} unless given.",
)  # fmt: skip
app_option = click.option(
    "--app", metavar="MODULE:ENGINE",
    help="Be the engine, with its code and its store; or a workflow, with --store.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


class Need(enum.Enum):
    """What a command does to the runs."""

    LOOK = "look"
    """Only read: possible beside the owner of a store."""

    FORGET = "forget"
    """Remove what is over: the store must have no other owner, and no code is needed."""

    STEER = "steer"
    """Change runs: that takes an engine."""


@attrs.frozen(kw_only=True)
class Place:
    """Where to go.

    :param said: which of these stood on the command line; the others come from the environment
    """

    url: str | None = None
    api_key: str | None = attrs.field(default=None, repr=False)
    store: str | None = None
    sandbox: str | None = None
    app: str | None = None
    said: frozenset[str] = frozenset()


def at_runs(command: Command) -> Command:
    """Give *command* the options that say where runs are, as its argument `place`."""
    return _placed(command, url_option, api_key_option, store_option, app_option, sandbox_option)


def at_boxes(command: Command) -> Command:
    """Give *command* the options that say where boxes are, as its argument `place`."""
    return _placed(command, url_option, api_key_option, sandbox_option, store_option)


def _placed(command: Command, *options: Callable[[Command], Command]) -> Command:
    @functools.wraps(command)
    def placed(**arguments: object) -> None:
        given = {name: arguments.pop(name, None) for name in ("url", "api_key", "store", "sandbox", "app")}
        command(place=_chosen(given), **arguments)

    found = cast("Command", placed)  # It takes what click passes, which no type can say.
    for option in reversed(options):
        found = option(found)
    return found


def _chosen(given: dict[str, object]) -> Place:
    """What was said on the command line; what variables say only where that leaves something open."""
    context = click.get_current_context()
    said = frozenset(name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE)
    texts = {name: value for name, value in given.items() if isinstance(value, str) and value}
    here = said & {"store", "app", "sandbox"}
    if "url" in said and here:
        raise click.UsageError("--url is an engine elsewhere; it goes with none of --store, --app and --sandbox")
    if here:
        texts.pop("url", None)
    return Place(**texts, said=said)


@asynccontextmanager
async def runs_at(place: Place, need: Need = Need.LOOK) -> AsyncGenerator[RunsClient]:
    """The runs there.

    :raises CommandError: it does not say where, or not enough for *need*
    """
    if place.url is not None:
        async with Server(place.url, place.api_key) as server:
            yield HttpRuns(server)
    elif place.app is not None:
        engine = engine_at(place)
        if need is Need.STEER:
            async with engine:
                yield StoreRuns(always(engine.store), engine)
        else:
            async with engine.store as store:
                yield StoreRuns(always(store))
    elif place.store is not None:
        url = lasting(place.store)
        if need is Need.FORGET:
            async with resolve_store(url) as store:
                yield StoreRuns(always(store))
        else:
            yield StoreRuns(lambda: resolve_reader(url))
    else:
        raise CommandError(
            "where are the runs? Give the address of an engine with --url or BOXFLOW_URL, "
            "or a store with --store or BOXFLOW_STORE"
        )


def lasting(url: str) -> str:
    """The URL of a store that another process can open; :raises CommandError: this one is gone with its process."""
    if not resolve_reader(url).outlives_process:
        raise CommandError(f"store {url!r} is gone with its process; ask the engine that has it, with --url")
    return url


def engine_at(place: Place) -> Engine:
    """The engine that `--app` names."""
    assert place.app is not None
    if not is_workflow(place.app):
        if place.said & {"store", "sandbox"}:
            raise CommandError(f"{place.app!r} is an engine, which has its store and sandbox; leave --store out")
        return engine_of(place.app)
    if place.store is None:
        raise CommandError(f"{place.app!r} is a workflow; say where its runs are, with --store")
    _, workflows = workflow_of(place.app)
    return Engine(workflows, store=lasting(place.store), sandbox=place.sandbox or DEFAULT_SANDBOX)


@asynccontextmanager
async def boxes_at(place: Place) -> AsyncGenerator[BoxesClient]:
    """The boxes there."""
    if place.url is not None:
        async with Server(place.url, place.api_key) as server:
            yield HttpBoxes(server)
        return
    engine_id = None if place.store is None else await engine_id_of(place.store)
    async with Boxes(place.sandbox or DEFAULT_SANDBOX) as boxes:
        yield SandboxBoxes(boxes, engine_id)


async def engine_id_of(store_url: str) -> str:
    """What marks the boxes of the engine whose store that is."""
    async with resolve_reader(lasting(store_url)) as store:
        item = await store.get_item(SETTINGS, "engine_id")
    if item is None:
        raise CommandError(f"no engine has used store {store_url!r} yet, so it has no boxes", NOT_FOUND)
    return msgspec.json.decode(item.value, type=str)
