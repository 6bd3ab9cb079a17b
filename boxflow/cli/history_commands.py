"""`boxflow export` and `boxflow replay`: take a run's history out, and see whether the code of today still fits it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from boxflow.cli.clients import Document
from boxflow.cli.driving import drive
from boxflow.cli.failures import FAILED, CommandError
from boxflow.cli.places import Place, at_runs, json_option, runs_at
from boxflow.cli.printing import safe, say, show_json, show_line
from boxflow.cli.targets import workflow_of
from boxflow.errors import DivergenceError, RunDivergedError
from boxflow.history_file import History, load_history
from boxflow.history_replay import replay_history


@click.command()
@click.argument("run_id")
@click.option(
    "--output", "-o", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Instead of stdout."
)
@json_option
@at_runs
def export(place: Place, *, run_id: str, output: Path | None, as_json: bool) -> None:
    """Write the history of a run to a file.

    That is its payload and its journal, as one JSON document: to keep, to compare, to replay.
    """

    async def ask() -> bytes:
        async with runs_at(place) as client:
            return await client.export(run_id)

    data = drive(ask())
    if output is None:
        click.echo(safe(data.decode(), lines=True) if sys.stdout.isatty() else data, nl=False)
        return
    _write(output, data)
    if as_json:
        show_json({"run_id": run_id, "file": str(output), "size_bytes": len(data)})
    else:
        say(f"wrote {len(data)} bytes to {output}")


def _write(path: Path, data: bytes) -> None:
    """Write the file whole, or not at all."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise CommandError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("target", metavar="MODULE:WORKFLOW")
@json_option
def replay(*, file: Path, target: str, as_json: bool) -> None:
    """Hold a history against the code of today.

    Nothing of it is executed. Exit code 1 when they do not fit: then it says what is recorded, what the code waits for
    instead, and in which line.
    """
    history = _read(file)
    found = _difference(history, target)
    if as_json:
        show_json(found)
    if not found["fits"]:
        if not as_json:
            show_line(f"run {history.record.run_id}: does not fit {target}")
        say(str(found["difference"]))
        raise click.exceptions.Exit(FAILED)
    if not as_json:
        show_line(f"run {history.record.run_id}: {len(history.outcomes)} outcomes fit {target}")


def _read(file: Path) -> History:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CommandError(f"{str(file)!r} cannot be read: {error.strerror or error}") from error
    return load_history(data)


def _difference(history: History, target: str) -> Document:
    workflow, workflows = workflow_of(target)
    if history.record.workflow != workflow.name:
        raise CommandError(
            f"the history is of workflow {history.record.workflow!r}, and {target!r} is {workflow.title}"
        )
    document: dict[str, object] = {
        "run_id": history.record.run_id, "workflow": target, "outcomes": len(history.outcomes), "fits": True
    }  # fmt: skip
    try:
        replay_history(history, workflows)
    except RunDivergedError as error:
        document |= {"fits": False, "difference": str(error)}
        cause = error.__cause__
        if isinstance(cause, DivergenceError):
            document |= {
                "recorded": cause.recorded, "seq": cause.seq, "pending": cause.pending, "waiting_at": cause.waiting_at
            }  # fmt: skip
    return document
