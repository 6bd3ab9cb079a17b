"""`boxflow agents`: install agent programs, and put them into images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import click

from boxflow.agent_programs import PROGRAMS, Manager, build_image, default_directory
from boxflow.agent_programs import install as install_program
from boxflow.cli.driving import drive
from boxflow.cli.places import json_option
from boxflow.cli.printing import show_json, show_line

names_argument = click.argument("names", nargs=-1, required=True, type=click.Choice(list(PROGRAMS)), metavar="NAME...")
directory_option = click.option(
    "--directory",
    type=click.Path(path_type=Path),
    help=f"Where they are installed; {default_directory()} unless given.",
)


@click.group()
def agents() -> None:
    """Install agent programs: claude-code, codex, opencode."""


@agents.command()
@names_argument
@click.option("--manager", type=click.Choice(get_args(Manager)), help="Where from; what is there unless given.")
@directory_option
@json_option
def install(*, names: Sequence[str], manager: Manager | None, directory: Path | None, as_json: bool) -> None:
    """Install agent programs, in the versions that boxflow is tested with."""
    done: list[dict[str, str]] = []

    async def act() -> None:
        for name in names:
            installed = await install_program(name, directory, manager=manager)
            done.append({"name": name, "version": installed.version, "program": str(installed.program)})
            if not as_json:
                show_line(f"{name} {installed.version}: {installed.program}")

    drive(act())
    if as_json:
        show_json({"installed": done})


@agents.command()
@names_argument
@click.option("--base", metavar="IMAGE", required=True, help="The image to start from.")
@click.option("--tag", metavar="TAG", required=True, help="The name of the new image.")
@directory_option
@json_option
def image(*, names: Sequence[str], base: str, tag: str, directory: Path | None, as_json: bool) -> None:
    """Build an image with installed agent programs, for boxes."""
    built = drive(build_image(*names, base=base, tag=tag, directory=directory))
    if as_json:
        show_json({"image": built})
    else:
        show_line(built)
