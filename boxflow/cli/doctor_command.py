"""`boxflow doctor`: what is there, does it work, and what is to be done about it if not?"""

from __future__ import annotations

import asyncio
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import attrs
import click

from boxflow import RunStatus
from boxflow.agent_programs import Finding, default_directory
from boxflow.agent_programs import doctor as examine
from boxflow.cli.driving import drive
from boxflow.cli.failures import FAILED, CommandError
from boxflow.cli.places import DEFAULT_SANDBOX, api_key_option, json_option, sandbox_option, store_option, url_option
from boxflow.cli.printing import Column, show_json, show_table
from boxflow.cli.server import Server
from boxflow.errors import BoxflowError, ConfigurationError, StoreCorruptError, StoreFormatError
from boxflow.plugins import resolve_reader, resolve_sandbox
from boxflow.ports import RunQuery

# What comes with which extra, and what it is for.
_EXTRAS: Final = (
    ("uvicorn", "for `boxflow serve`: pip install uvicorn"),
    ("jsonschema", "for agents that answer by a schema: pip install 'boxflow[agents]'"),
    ("cryptography", "for boxes with an egress allow-list and secrets: pip install 'boxflow[egress]'"),
)

_MANY: Final = 1000
_ASK_S: Final = 30.0


@click.command()
@store_option
@sandbox_option
@url_option
@api_key_option
@click.option(
    "--directory", type=click.Path(path_type=Path),
    help=f"Where agent programs are installed; {default_directory()} unless given.",
)  # fmt: skip
@json_option
def doctor(
    *,
    store: str | None,
    sandbox: str | None,
    url: str | None,
    api_key: str | None,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Say what works here, and what to do about what does not.

    Exit code 1 when something is broken, or the sandbox is not there, or the engine of --url. What else is missing may
    not be wanted.
    """
    findings, needed = drive(_examined(store, sandbox, url, api_key, directory))
    bad = [one for one in findings if one.status == "broken" or (one.status == "missing" and one.name in needed)]
    if as_json:
        show_json({"ok": not bad, "findings": [attrs.asdict(one) for one in findings]})
    else:
        columns = [Column("what"), Column(""), Column("found", whole=True), Column("what to do", whole=True)]
        show_table(columns, [[one.name, one.status, one.detail, one.advice] for one in findings])
    if bad:
        raise click.exceptions.Exit(FAILED)


async def _examined(
    store: str | None, sandbox: str | None, url: str | None, api_key: str | None, directory: Path | None
) -> tuple[list[Finding], frozenset[str]]:
    """What was found, and the names of what must be there."""
    checks = [_sandbox(sandbox or DEFAULT_SANDBOX)]
    needed = {"sandbox"}
    if store is not None:
        checks.append(_store(store))
    if url is not None:
        checks.append(_engine(url, api_key))
        needed.add("engine")
    ours, machine = await asyncio.gather(asyncio.gather(*checks), examine(directory))
    return [*ours, *machine, *map(_package, _EXTRAS)], frozenset(needed)


def _package(extra: tuple[str, str]) -> Finding:
    name, advice = extra
    try:
        return Finding(name=name, status="ok", detail=version(name))
    except PackageNotFoundError:
        return Finding(name=name, status="missing", detail="not installed", advice=advice)


async def _sandbox(url: str) -> Finding:
    try:
        async with asyncio.timeout(_ASK_S), resolve_sandbox(url) as opened:
            boxes = await opened.list({})
            can = ", ".join(sorted(opened.capabilities)) or "nothing beyond the duties"
    except (BoxflowError, OSError, TimeoutError) as error:
        what = str(error) or "it does not answer"
        return Finding(name="sandbox", status="broken", detail=f"{url!r}: {what}", advice=_sandbox_advice(url))
    return Finding(name="sandbox", status="ok", detail=f"{url!r} with {len(boxes)} boxes; {can}")


def _sandbox_advice(url: str) -> str:
    return "see docker below" if url.startswith("docker") else "check what --sandbox says"


async def _store(url: str) -> Finding:
    try:
        reader = resolve_reader(url)
        if not reader.outlives_process:
            return Finding(name="store", status="ok", detail=f"{url!r} is gone with its process")
        async with reader as opened:
            driven = frozenset(status for status in RunStatus if status.is_driven)
            found = await opened.find_runs(RunQuery(statuses=driven, limit=_MANY))
    except ConfigurationError as error:
        return Finding(name="store", status="broken", detail=f"{url!r}: {error}", advice="check what --store says")
    except (StoreCorruptError, StoreFormatError) as error:
        return Finding(name="store", status="broken", detail=f"{url!r}: {error}", advice="keep the files as they are")
    except (BoxflowError, OSError) as error:
        advice = "an engine makes it at its first start; check the path if there should be one"
        return Finding(name="store", status="missing", detail=f"{url!r}: {error}", advice=advice)
    more = " or more" if len(found) == _MANY else ""
    return Finding(name="store", status="ok", detail=f"{url!r} with {len(found)}{more} runs that are not over")


async def _engine(url: str, api_key: str | None) -> Finding:
    try:
        async with Server(url, api_key) as server:
            await server.get("/ready")
            await server.get("/runs", [("limit", "1")])
    except CommandError as error:
        return Finding(name="engine", status="missing", detail=error.message, advice="start it with `boxflow serve`")
    return Finding(name="engine", status="ok", detail=f"{url} is ready")
