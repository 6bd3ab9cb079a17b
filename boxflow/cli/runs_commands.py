"""`boxflow runs list`, `show`, `history` and `watch`: which runs are there, and what happened to them?"""

from __future__ import annotations

from collections.abc import Sequence

import click

from boxflow import RunStatus
from boxflow.cli.clients import Document, Ended, RunsClient, RunsWanted
from boxflow.cli.driving import drive
from boxflow.cli.failures import FAILED
from boxflow.cli.groups import ListingGroup
from boxflow.cli.outcomes import outcome_line
from boxflow.cli.places import Place, at_runs, json_option, runs_at
from boxflow.cli.printing import (
    Column,
    json_text,
    say,
    show_facts,
    show_json,
    show_json_line,
    show_line,
    show_table,
)
from boxflow.cli.views import OutcomesView, OutcomeView, RunsView, RunView, view

PAGE = 500

ENDED_BADLY = frozenset({RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.DIVERGED})


@click.group(cls=ListingGroup)
def runs() -> None:
    """List runs, look at them, steer them. Alone: list."""


@runs.command("list")
@click.option(
    "--status", "statuses", multiple=True, type=click.Choice([str(one) for one in RunStatus]), help="Again for more."
)
@click.option("--workflow", metavar="NAME", help="Only runs of that workflow.")
@click.option("--label", metavar="LABEL", help="Only runs with that label.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@click.option("--cursor", metavar="CURSOR", help="Go on where an earlier list ended.")
@json_option
@at_runs
def list_(
    place: Place,
    *,
    statuses: Sequence[str],
    workflow: str | None,
    label: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List runs, newest first."""
    wanted = RunsWanted(statuses=tuple(statuses), workflow=workflow, label=label, limit=limit, cursor=cursor)

    async def ask() -> Document:
        async with runs_at(place) as client:
            return await client.list_runs(wanted)

    document = drive(ask())
    if as_json:
        show_json(document)
        return
    page = view(document, RunsView)
    if not page.runs:
        say("no runs")
        return
    columns = [Column("id", whole=True), *map(Column, ("workflow", "status", "created", "outcomes", "about"))]
    show_table(columns, [_row(run) for run in page.runs])
    if page.next_cursor is not None:
        say(f"there are more: --cursor {page.next_cursor!r}, or --limit")


def _row(run: RunView) -> list[str]:
    return [run.id, run.workflow, run.status, short_time(run.created_at), str(run.length), _about(run)]


def _about(run: RunView) -> str:
    """Why it ended as it did, or what it waits for, in one line."""
    if run.error is not None:
        return str(run.error).partition("\n")[0]
    if run.status in (RunStatus.WAITING, RunStatus.PENDING):
        due = [] if run.due is None else [f"until {short_time(run.due)}"]
        return ", ".join([*run.waiting, *due])
    return ""


def short_time(text: str) -> str:
    """An ISO time to the second: `2026-01-31 12:00:00Z`."""
    return text.replace("T", " ")[:19] + "Z" if len(text) > 19 else text


@runs.command()
@click.argument("run_id")
@json_option
@at_runs
def show(place: Place, *, run_id: str, as_json: bool) -> None:
    """Show one run."""

    async def ask() -> Document:
        async with runs_at(place) as client:
            return await client.run(run_id)

    show_run(drive(ask()), as_json=as_json)


def show_run(document: Document, *, as_json: bool) -> None:
    """A run on stdout."""
    if as_json:
        show_json(document)
        return
    run = view(document, RunView)
    facts = [
        ("id", run.id),
        ("workflow", f"{run.workflow} version {run.version}" if run.version else run.workflow),
        ("status", run.status),
        ("labels", ", ".join(run.labels)),
        ("parent", run.parent or ""),
        ("created", short_time(run.created_at)),
        ("changed", short_time(run.updated_at)),
        ("outcomes", str(run.length)),
        ("waits for", ", ".join(run.waiting)),
        ("due", "" if run.due is None else short_time(run.due)),
        ("reason", run.reason or ""),
        ("error", "" if run.error is None else str(run.error)),
        ("traceback", ((run.error and run.error.traceback) or "").rstrip()),
        ("result", json_text(run.result) if run.status == RunStatus.COMPLETED else ""),
    ]
    show_facts(facts)


@runs.command()
@click.argument("run_id")
@click.option("--after", type=click.IntRange(0), default=0, help="Only outcomes behind that position.")
@click.option("--limit", type=click.IntRange(1), help="At most so many; all unless given.")
@json_option
@at_runs
def history(place: Place, *, run_id: str, after: int, limit: int | None, as_json: bool) -> None:
    """Show the outcomes of a run, in order."""

    async def ask() -> Document:
        async with runs_at(place) as client:
            return await _all_outcomes(client, run_id, after, limit)

    document = drive(ask())
    if as_json:
        show_json(document)
        return
    page = view(document, OutcomesView)
    if not page.outcomes:
        say("no outcomes")
        return
    columns = [Column("#"), Column("at"), Column("what"), Column("name", whole=True), Column("about", whole=True)]
    show_table(columns, [[str(one.seq), short_time(one.at), *_cells(one)] for one in page.outcomes])
    if page.next_after is not None:
        say(f"there are more: --after {page.next_after}")


def _cells(outcome: OutcomeView) -> list[str]:
    line = outcome_line(outcome)
    return [line.what, line.name, line.about]


async def _all_outcomes(client: RunsClient, run_id: str, after: int, limit: int | None) -> Document:
    outcomes: list[object] = []
    while True:
        size = PAGE if limit is None else min(PAGE, limit - len(outcomes))
        page = await client.history(run_id, after=after, limit=size)
        found, next_after = page.get("outcomes"), page.get("next_after")
        outcomes += found if isinstance(found, list) else []
        if not isinstance(next_after, int) or (limit is not None and len(outcomes) >= limit):
            return {"outcomes": outcomes, "next_after": next_after}
        after = next_after


@runs.command()
@click.argument("run_id")
@click.option("--after", type=click.IntRange(0), default=0, help="Only outcomes behind that position.")
@json_option
@at_runs
def watch(place: Place, *, run_id: str, after: int, as_json: bool) -> None:
    """Follow a run to its end: one outcome a line. Exit code 1 when it does not end well.

    With --json each line is an outcome, and the last one is {"run": ...}.
    """

    async def follow() -> Document:
        async with runs_at(place) as client:
            async for seen in client.watch(run_id, after=after):
                if isinstance(seen, Ended):
                    return seen.run
                if as_json:
                    show_json_line(seen.outcome)
                else:
                    one = view(seen.outcome, OutcomeView)
                    show_line(f"{one.seq:>5}  {short_time(one.at)}  {outcome_line(one)}")
        raise AssertionError("a watch ends with the run")

    document = drive(follow())
    run = view(document, RunView)
    if as_json:
        show_json_line({"run": document})
    else:
        say(ending_of(run))
    if run.status in ENDED_BADLY:
        raise click.exceptions.Exit(FAILED)


def ending_of(run: RunView) -> str:
    """How a run ended, in one line."""
    how = "was cancelled" if run.status == RunStatus.CANCELLED else run.status
    why = run.reason if run.status == RunStatus.CANCELLED else run.error
    return f"run {run.id} {how}" + (f": {why}" if why else "")
