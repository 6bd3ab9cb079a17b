"""`boxflow run`: one run of a workflow in this process, its outcomes as they come, and its result."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from typing import Any

import attrs
import click

from boxflow import Engine, Run, RunStatus, Workflow
from boxflow.asgi.documents import outcome_document
from boxflow.cli.clients import Document
from boxflow.cli.documents import as_document
from boxflow.cli.driving import drive
from boxflow.cli.failures import FAILED, CommandError
from boxflow.cli.logs import log_to_stderr
from boxflow.cli.parameters import quotes_hint, read_text
from boxflow.cli.places import DEFAULT_SANDBOX, json_option
from boxflow.cli.printing import say, show_json
from boxflow.cli.progress import Progress
from boxflow.cli.runs_commands import ENDED_BADLY, ending_of
from boxflow.cli.store_runs import StoreRuns, always
from boxflow.cli.targets import workflow_of
from boxflow.cli.views import OutcomeView, RunView, view
from boxflow.codec import decode_value
from boxflow.errors import DecodeError

# How often what the run waits for is looked at, for whoever watches.
_LOOK_S = 0.2


@attrs.frozen(kw_only=True)
class Wanted:
    """What is to be run, and where."""

    target: str
    payload: str | None
    store: str
    sandbox: str
    run_id: str | None
    labels: tuple[str, ...]


@click.command()
@click.argument("target", metavar="MODULE:WORKFLOW")
@click.option("--payload", metavar="JSON", help="JSON; @file reads a file, - reads stdin.")
@click.option(
    "--store",
    metavar="STORE",
    default="memory:",
    envvar="BOXFLOW_STORE",
    show_default=True,
    show_envvar=True,
    help="Where its journal lives, as in file:state.",
)
@click.option(
    "--sandbox",
    metavar="SANDBOX",
    default=DEFAULT_SANDBOX,
    envvar="BOXFLOW_SANDBOX",
    show_default=True,
    show_envvar=True,
    help="What makes its boxes, as in docker:.",
)
@click.option("--run-id", metavar="ID", help="The same id again is the same run: it goes on.")
@click.option("--label", "labels", metavar="LABEL", multiple=True, help="Again for more.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@click.option("--verbose", "-v", is_flag=True, help="Show what the workflow logs.")
@json_option
def run(
    target: str,
    *,
    payload: str | None,
    store: str,
    sandbox: str,
    run_id: str | None,
    labels: Sequence[str],
    quiet: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Run a workflow here, and print its result as JSON.

    Progress goes to stderr. Ctrl-C leaves; in a store that lasts, the same command with the same --run-id goes on.
    With --json the whole run is printed, however it ended.
    """  # fmt: skip
    log_to_stderr(verbose=verbose)
    wanted = Wanted(target=target, payload=payload, store=store, sandbox=sandbox, run_id=run_id, labels=tuple(labels))
    document = drive(_run(wanted, Progress(quiet=quiet)))
    ended = view(document, RunView)
    if as_json:
        show_json(document)
    elif ended.status == RunStatus.COMPLETED:
        show_json(ended.result)
    if ended.status in ENDED_BADLY:
        _say_why(ended)
        raise click.exceptions.Exit(FAILED)


def _say_why(run: RunView) -> None:
    if run.error is not None and run.error.traceback:
        say(run.error.traceback.rstrip())
    say(ending_of(run))


async def _run(wanted: Wanted, progress: Progress) -> Document:
    workflow, workflows = workflow_of(wanted.target)
    payload = _payload(workflow, wanted.payload)
    engine = Engine(workflows, store=wanted.store, sandbox=wanted.sandbox)
    run: Run[Any] | None = None
    try:
        async with engine:
            run = await engine.start(workflow, payload, run_id=wanted.run_id, labels=wanted.labels)
            with progress:
                progress.begins(run.id)
                return await _followed(engine, run, progress)
    except asyncio.CancelledError:
        if run is not None:
            _say_how_to_go_on(wanted, run.id, lasts=engine.store.outlives_process)
        raise


def _payload(workflow: Workflow[Any, Any], given: str | None) -> object:
    if given is None:
        return ...
    text = read_text(given, "--payload")
    try:
        return decode_value(text.encode(), workflow.payload_type)
    except DecodeError as error:
        hint = quotes_hint(text) if text == given else ""
        raise CommandError(f"--payload is not what workflow {workflow.title} takes: {error}{hint}") from error


async def _followed(engine: Engine, run: Run[Any], progress: Progress) -> Document:
    """The run's document once it is over; meanwhile what happens is shown."""
    looking = asyncio.create_task(_look(engine, run, progress))
    try:
        async for outcome in run.watch():
            progress.happened(view(as_document(outcome_document(outcome)), OutcomeView))
    finally:
        looking.cancel()
        await asyncio.wait({looking})
    return await StoreRuns(always(engine.store)).run(run.id)


async def _look(engine: Engine, run: Run[Any], progress: Progress) -> None:
    """Show what the run waits for."""
    while progress.is_live:
        stored = await engine.store.get_run(run.id)
        if stored is not None:
            progress.waits_for(stored.head.waiting if stored.head.status is RunStatus.WAITING else ())
        await asyncio.sleep(_LOOK_S)


def _say_how_to_go_on(wanted: Wanted, run_id: str, *, lasts: bool) -> None:
    if not lasts:
        say(f"run {run_id} is gone with this process, as all in store {wanted.store!r}; --store file:state keeps runs")
        return
    words = ["boxflow", "run", wanted.target, "--store", wanted.store, "--run-id", run_id]
    if wanted.sandbox != DEFAULT_SANDBOX:
        words += ["--sandbox", wanted.sandbox]
    say(f"run {run_id} is kept; it goes on with: {shlex.join(words)}")
