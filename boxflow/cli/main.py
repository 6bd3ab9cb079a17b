"""The `boxflow` command: its words, and its way from there to an exit code."""

from __future__ import annotations

import click

from boxflow import __version__
from boxflow.cli.agents_commands import agents
from boxflow.cli.boxes_commands import boxes
from boxflow.cli.doctor_command import doctor
from boxflow.cli.groups import RootGroup
from boxflow.cli.history_commands import export, replay
from boxflow.cli.run_command import run as run_command
from boxflow.cli.runs_commands import runs
from boxflow.cli.serve_command import serve
from boxflow.cli.steering_commands import notify


@click.group(cls=RootGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="boxflow")
def cli() -> None:
    """Durable workflows, and boxes to run agents in.

    Runs are looked at over HTTP (--url, BOXFLOW_URL) or in a store (--store, BOXFLOW_STORE).
    """


for command in (run_command, serve, runs, notify, boxes, doctor, agents, export, replay):
    cli.add_command(command)


def run() -> int:
    """Do what the command line says."""
    try:
        cli(prog_name="boxflow")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0
