"""`boxflow boxes`: list boxes, look at one, run something in it, delete it."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Sequence

import click

from boxflow.box_keeper import RecordedSandbox
from boxflow.boxes import delete_orphans
from boxflow.cli.clients import Document, ExecWanted
from boxflow.cli.driving import drive
from boxflow.cli.groups import ListingGroup
from boxflow.cli.parameters import duration, pairs
from boxflow.cli.places import (
    DEFAULT_SANDBOX,
    Place,
    at_boxes,
    boxes_at,
    json_option,
    lasting,
    sandbox_option,
    store_option,
)
from boxflow.cli.printing import Column, safe, say, show_facts, show_json, show_line, show_table
from boxflow.cli.runs_commands import short_time
from boxflow.cli.views import BoxesView, BoxView, ExecView, JobsView, view
from boxflow.plugins import resolve_sandbox, resolve_store
from boxflow.timekeeper import SystemClock


@click.group(cls=ListingGroup)
def boxes() -> None:
    """List boxes, look at them, work in them. Alone: list."""


@boxes.command("list")
@click.option("--run-id", metavar="ID", help="Only boxes of that run.")
@click.option(
    "--label", "labels", metavar="NAME=VALUE", multiple=True, help="Only boxes with that label; again for more."
)
@json_option
@at_boxes
def list_(place: Place, *, run_id: str | None, labels: Sequence[str], as_json: bool) -> None:
    """List boxes, oldest first. With --store, only those of that store's engine."""
    wanted = pairs(labels, "--label")

    async def ask() -> Document:
        async with boxes_at(place) as client:
            return await client.list_boxes(run_id=run_id, labels=wanted)

    document = drive(ask())
    if as_json:
        show_json(document)
        return
    found = view(document, BoxesView).boxes
    if not found:
        say("no boxes")
        return
    columns = [Column("id", whole=True), Column("name"), Column("status"), Column("created"), Column("run", whole=True)]
    show_table(columns, [[one.id, one.name, one.status, _created(one), one.run_id or ""] for one in found])


def _created(box: BoxView) -> str:
    return "" if box.created_at is None else short_time(box.created_at)


@boxes.command()
@click.argument("box_id")
@json_option
@at_boxes
def show(place: Place, *, box_id: str, as_json: bool) -> None:
    """Show one box, and its jobs."""

    async def ask() -> tuple[Document, Document]:
        async with boxes_at(place) as client:
            box = await client.box(box_id)
            running = box.get("status") == "running"
            return box, await client.jobs(box_id) if running else {"jobs": []}

    document, jobs_document = drive(ask())
    if as_json:
        show_json({**document, "jobs": jobs_document.get("jobs")})
        return
    box = view(document, BoxView)
    show_facts([
        ("id", box.id), ("name", box.name), ("status", box.status), ("created", _created(box)),
        ("run", box.run_id or ""), ("labels", ", ".join(f"{name}={value}" for name, value in box.labels.items())),
    ])  # fmt: skip
    jobs = view(jobs_document, JobsView).jobs
    if jobs:
        columns = [Column("job", whole=True), Column("status"), Column("exit"), Column("command")]
        show_table(columns, [[one.id, one.status, _exit(one.exit_code), one.command] for one in jobs])


def _exit(code: int | None) -> str:
    return "" if code is None else str(code)


@boxes.command("exec", context_settings={"allow_interspersed_args": False})
@click.argument("box_id")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--cwd", metavar="DIRECTORY", help="Where; the box's working directory unless given.")
@click.option("--env", metavar="NAME=VALUE", multiple=True, help="A variable on top of the box's; again for more.")
@click.option("--timeout", metavar="TIME", callback=duration, default="10m", show_default=True, help="The deadline.")
@click.option("--user", metavar="NAME", help="Who runs it, where the sandbox has users.")
@json_option
@at_boxes
def exec_(
    place: Place,
    *,
    box_id: str,
    command: Sequence[str],
    cwd: str | None,
    env: Sequence[str],
    timeout: str,
    user: str | None,
    as_json: bool,
) -> None:
    """Run a command in a box, and end with its exit status.

    Options come before BOX_ID. One word is a line for the box's shell, as in 'ls | wc'; several are a program and its
    arguments.
    """
    wanted = ExecWanted(
        command=command[0] if len(command) == 1 else command,
        cwd=cwd,
        env=pairs(env, "--env"),
        timeout=timeout,
        user=user,
    )

    async def act() -> Document:
        async with boxes_at(place) as client:
            return await client.execute(box_id, wanted)

    document = drive(act())
    done = view(document, ExecView)
    if as_json:
        show_json(document)
    else:
        _pass_on(done.stdout)
        _pass_on(done.stderr, err=True)
        if done.truncated:
            say("its output was cut in the middle; write it to a file of the box to keep all of it")
    if done.timed_out:
        say(f"it was ended: it took longer than {timeout}")
    raise click.exceptions.Exit(done.exit_code)


def _pass_on(text: str, *, err: bool = False) -> None:
    stream = sys.stderr if err else sys.stdout
    click.echo(safe(text, lines=True) if stream.isatty() else text, nl=False, err=err)


@boxes.command()
@click.argument("box_id")
@click.option("--job", metavar="ID", help="Which job; the newest unless given.")
@click.option("--offset", type=click.IntRange(0), default=0, help="Bytes of its output to leave out.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job has ended.")
@at_boxes
def logs(place: Place, *, box_id: str, job: str | None, offset: int, follow: bool) -> None:
    """Show what a job of a box has written."""

    async def read() -> None:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        async with boxes_at(place) as client:
            async for chunk in client.logs(box_id, job=job, offset=offset, follow=follow):
                if sys.stdout.isatty():
                    click.echo(safe(decode(chunk), lines=True), nl=False)
                else:
                    click.echo(chunk, nl=False)

    drive(read())


@boxes.command()
@click.argument("box_ids", metavar="BOX_ID...", nargs=-1, required=True)
@json_option
@at_boxes
def delete(place: Place, *, box_ids: Sequence[str], as_json: bool) -> None:
    """End boxes with all that runs in them, and remove them."""
    deleted: list[str] = []

    async def act() -> None:
        async with boxes_at(place) as client:
            for box_id in box_ids:
                await client.delete(box_id)
                deleted.append(box_id)

    try:
        drive(act())
    finally:
        if as_json:
            show_json({"deleted": deleted})
        else:
            for box_id in deleted:
                show_line(f"deleted {box_id}")


@boxes.command()
@sandbox_option
@store_option
@json_option
def prune(*, sandbox: str | None, store: str | None, as_json: bool) -> None:
    """Delete boxes that nobody owns: of processes that died, and past their time.

    With --store also those of the store's runs that are over, when no engine runs there. A running engine does all of
    that by itself.
    """
    url = sandbox or DEFAULT_SANDBOX

    async def act() -> int:
        gone = 0
        if store is not None:
            async with resolve_store(lasting(store)) as owned, RecordedSandbox(url, owned, SystemClock()) as recorded:
                gone = await recorded.reap()
        async with resolve_sandbox(url) as opened:
            return gone + await delete_orphans(opened, time.time())

    gone = drive(act())
    if as_json:
        show_json({"deleted": gone})
    else:
        show_line(f"deleted {gone} boxes")
