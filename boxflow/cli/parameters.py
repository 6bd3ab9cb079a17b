"""How are payloads, durations and labels read from a command line?"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import click

from boxflow.cli.failures import CommandError
from boxflow.model import seconds

# As much as an engine's routes take at most, by default, sixteen times.
_MAX_BYTES: Final = 16 << 20


def duration(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Check a duration as boxflow has it everywhere: `30s`, `5m`, `2h`, `1d`; plain seconds get their unit."""
    text = f"{value}s" if value.replace(".", "", 1).isdecimal() else value
    try:
        seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error
    return text


def read_text(given: str, option: str) -> str:
    """*given* itself, or what is in the file of `@file`, or on stdin for `-`.

    :raises CommandError: it cannot be read, is larger than 16 MiB, or is not UTF-8
    """
    if given == "-":
        data = sys.stdin.buffer.read(_MAX_BYTES + 1)
    elif given.startswith("@"):
        try:
            with Path(given[1:]).open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise CommandError(f"{option}: {given[1:]!r} cannot be read: {error.strerror or error}") from error
    else:
        return given
    if len(data) > _MAX_BYTES:
        raise CommandError(
            f"{option} is larger than {_MAX_BYTES >> 20} MiB; keep such data in a file, and pass its path"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(f"{option} is not UTF-8: {error}") from error


def read_json(given: str, option: str) -> object:
    """What the JSON says that *given* is, or leads to; see `read_text`.

    :raises CommandError: it is not JSON
    """
    text = read_text(given, option)
    try:
        found: object = json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{option} is not JSON: {error}{quotes_hint(text) if text == given else ''}") from error
    return found


def quotes_hint(text: str) -> str:
    """What to say of a text that should have been JSON, where it looks as if its quotes went to the shell."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return f"""; a text has quotes of its own, as in '"{text[:20]}"'"""
    return ""


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """`NAME=VALUE` arguments as a mapping.

    :raises CommandError: one has no `=`
    """
    found: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise CommandError(f"{option} {one!r} is not understood; write NAME=VALUE")
        found[name] = value
    return found
