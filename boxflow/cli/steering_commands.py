"""`boxflow runs cancel`, `resume`, `restart`, `fork`, `prune`, and `boxflow notify`: what changes runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import click

from boxflow.cli.clients import Document, RunsClient
from boxflow.cli.driving import drive
from boxflow.cli.failures import FAILED
from boxflow.cli.parameters import duration, read_json
from boxflow.cli.places import Need, Place, at_runs, json_option, runs_at
from boxflow.cli.printing import say, show_json, show_line
from boxflow.cli.runs_commands import ENDED_BADLY, runs, show_run
from boxflow.cli.views import NotifiedView, RunView, view

_Change: TypeAlias = Callable[[RunsClient], Awaitable[Document]]


@runs.command()
@click.argument("run_id")
@click.option("--reason", metavar="TEXT", help="Kept with the run.")
@json_option
@at_runs
def cancel(place: Place, *, run_id: str, reason: str | None, as_json: bool) -> None:
    """Have a run end: it cleans up, its children and boxes go."""
    show_run(_changed(place, lambda client: client.cancel(run_id, reason)), as_json=as_json)


@runs.command()
@click.argument("run_id")
@click.option("--accept-divergence", is_flag=True, help="Skip outcomes that have no place in the code any more.")
@json_option
@at_runs
def resume(place: Place, *, run_id: str, accept_divergence: bool, as_json: bool) -> None:
    """Have a failed or diverged run go on from what failed."""
    _steer(place, lambda client: client.resume(run_id, accept_divergence=accept_divergence), as_json=as_json)


@runs.command()
@click.argument("run_id")
@json_option
@at_runs
def restart(place: Place, *, run_id: str, as_json: bool) -> None:
    """Begin a run anew: a new run with its payload and labels."""
    _steer(place, lambda client: client.restart(run_id), as_json=as_json)


@runs.command()
@click.argument("run_id")
@click.option("--before", metavar="NAME", required=True, help="The call that the new run makes again.")
@click.option(
    "--occurrence", type=click.IntRange(1), default=1, show_default=True, help="The how-manieth of that name."
)
@json_option
@at_runs
def fork(place: Place, *, run_id: str, before: str, occurrence: int, as_json: bool) -> None:
    """Make a new run that shares the past of a run up to a call."""
    _steer(place, lambda client: client.fork(run_id, before=before, occurrence=occurrence), as_json=as_json)


def _steer(place: Place, change: _Change, *, as_json: bool) -> None:
    """Have a run go on; exit code 1 when it has failed by the time it is shown."""
    document = _changed(place, change)
    show_run(document, as_json=as_json)
    if view(document, RunView).status in ENDED_BADLY:
        raise click.exceptions.Exit(FAILED)


def _changed(place: Place, change: _Change) -> Document:
    async def act() -> Document:
        async with runs_at(place, Need.STEER) as client:
            return await change(client)

    return drive(act())


@runs.command()
@click.option(
    "--older-than", metavar="TIME", callback=duration, required=True, help="As in 30d: unchanged for so long."
)
@json_option
@at_runs
def prune(place: Place, *, older_than: str, as_json: bool) -> None:
    """Forget runs that are over, with their history. There is no way back."""

    async def act() -> Document:
        async with runs_at(place, Need.FORGET) as client:
            return await client.prune(older_than)

    document = drive(act())
    if as_json:
        show_json(document)
    else:
        show_line(f"forgot {document.get('pruned')} runs")


@click.command()
@click.argument("event_id")
@click.option("--data", metavar="JSON", help="JSON; @file reads a file, - reads stdin. Nothing is null.")
@click.option("--run-id", metavar="ID", help="Only to that run, into its own mailbox.")
@json_option
@at_runs
def notify(place: Place, *, event_id: str, data: str | None, run_id: str | None, as_json: bool) -> None:
    """Send an event.

    It goes to every run that waits for it, and is kept for the next wait when none does.
    """
    value = None if data is None else read_json(data, "--data")

    async def send() -> Document:
        async with runs_at(place, Need.STEER) as client:
            return await client.notify(event_id, value, run_id=run_id)

    document = drive(send())
    if as_json:
        show_json(document)
        return
    sent = view(document, NotifiedView)
    for woken in sent.run_ids:
        show_line(f"woke {woken}")
    if sent.kept:
        say("nothing waits for it now; it is kept for the next wait")
