"""`python -m boxflow.agent_programs install NAME... | doctor | image NAME...`: the same by hand."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from boxflow.agent_programs import PROGRAMS, Finding, build_image, default_directory, doctor, install
from boxflow.errors import BoxflowError


def main(arguments_given: Sequence[str] | None = None, *, prog: str = "python -m boxflow.agent_programs") -> int:
    """Do what the arguments say; 0 when all of it could be done."""
    arguments = _parser(prog).parse_args(arguments_given)
    try:
        return asyncio.run(_do(arguments))
    except (BoxflowError, OSError) as exc:
        print(exc, file=sys.stderr)  # noqa: T201  # a program
        return 1
    except KeyboardInterrupt:
        return 130


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Agent programs: install them, see what is there.")
    commands = parser.add_subparsers(dest="command", required=True)
    installing = commands.add_parser("install", help="install agent programs")
    installing.add_argument("names", nargs="+", choices=list(PROGRAMS), metavar="NAME", help=", ".join(PROGRAMS))
    installing.add_argument("--manager", choices=["npm", "pypi"])
    imaging = commands.add_parser("image", help="build an image with installed agent programs")
    imaging.add_argument("names", nargs="+", choices=list(PROGRAMS), metavar="NAME", help=", ".join(PROGRAMS))
    imaging.add_argument("--base", required=True, help="the image to start from")
    imaging.add_argument("--tag", required=True, help="the name of the new image")
    examining = commands.add_parser("doctor", help="say what is there, and what to do about what is not")
    for command in (installing, imaging, examining):
        what = f"where programs are installed; {default_directory()} unless said otherwise"
        command.add_argument("--directory", type=Path, help=what)
    return parser


async def _do(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "install":
            for name in arguments.names:
                installed = await install(name, arguments.directory, manager=arguments.manager)
                print(f"{name} {installed.version}: {installed.program}", flush=True)  # noqa: T201  # a program
            return 0
        case "image":
            where = arguments.directory
            tag = await build_image(*arguments.names, base=arguments.base, tag=arguments.tag, directory=where)
            print(tag)  # noqa: T201  # a program
            return 0
        case _:
            return _tell(await doctor(arguments.directory))


def _tell(findings: Sequence[Finding]) -> int:
    """Print them; 1 when something is broken. What is only missing may not be wanted."""
    for one in findings:
        print(f"{one.name:12}  {one.status:7}  {one.detail}")  # noqa: T201  # a program
        if one.status != "ok":
            print(f"{'':23}{one.advice}")  # noqa: T201  # a program
    return int(any(one.status == "broken" for one in findings))


if __name__ == "__main__":
    sys.exit(main())
