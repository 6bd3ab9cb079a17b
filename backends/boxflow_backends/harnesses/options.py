"""Which options does a harness take, and what is common to several of them?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from boxflow.errors import ConfigurationError

ARGUMENT_LIMIT: Final = 120 * 1024
"""Bytes. Linux refuses to start a program when one argument or variable has 128 KiB (MAX_ARG_STRLEN); the rest is for
names, and for paths that are put in."""

T = TypeVar("T", bound="Options")


class Options(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What every harness takes.

    :param env: variables on top of those that the harness sets
    """

    env: dict[str, str] = msgspec.field(default_factory=dict[str, str])


class ProgramOptions(Options, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What every harness of a known program takes.

    :param args: arguments on top of those that the harness gives
    :param append_system_prompt: what the agent is told beside the program's own instructions
    """

    args: tuple[str, ...] = ()
    append_system_prompt: str = ""


class McpServer(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A server of tools (Model Context Protocol): one that the program starts, or one behind a URL.

    :param command: the program to start
    :param env: variables on top of the program's own
    :param url: of a server that speaks streamable HTTP
    :param headers: sent to it with each request
    """

    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    url: str = ""
    headers: dict[str, str] = msgspec.field(default_factory=dict[str, str])


def options_of(harness: str, kind: type[T], given: Mapping[str, Any]) -> T:
    """*given* as the options of a harness.

    :raises ConfigurationError: one that it does not know, or a value that does not fit
    """
    known = kind.__struct_fields__
    if unknown := sorted(set(given) - set(known)):
        raise ConfigurationError(f"harness {harness!r} has no option {unknown[0]!r}; it has {', '.join(sorted(known))}")
    try:
        return msgspec.convert(dict(given), type=kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"an option of harness {harness!r} does not fit: {error}") from error


def checked_servers(harness: str, servers: Mapping[str, McpServer]) -> None:
    """Check that each server is one thing.

    :raises ConfigurationError: one has neither a command nor a URL, or both
    """
    for name, server in servers.items():
        if bool(server.command) == bool(server.url):
            raise ConfigurationError(
                f"MCP server {name!r} of harness {harness!r} needs either a command or a url, and not both"
            )


def argument(harness: str, what: str, text: str) -> str:
    """*text*, which becomes an argument or a variable.

    :raises ConfigurationError: it is too long for that, or has a NUL, which no argument can have
    """
    size_bytes = len(text.encode(errors="surrogateescape"))
    if size_bytes > ARGUMENT_LIMIT:
        raise ConfigurationError(
            f"{what} has {size_bytes} bytes, and harness {harness!r} can hand over {ARGUMENT_LIMIT}; put it into a "
            "file of the box, and say in the prompt where that is"
        )
    if "\0" in text:
        raise ConfigurationError(f"{what} has a NUL character in it, which harness {harness!r} cannot hand over")
    return text


def session_argument(harness: str, session: str) -> str:
    """*session*, which stands among arguments.

    :raises ConfigurationError: it would be read as an option, or as nothing
    """
    if not session.strip() or session.startswith("-"):
        raise ConfigurationError(f"{session!r} is no session of harness {harness!r}; give the id of an earlier run")
    return argument(harness, "the session id", session)


def verbatim(harness: str, what: str, text: str) -> str:
    """*text*, which becomes an argument or a file as it is.

    :raises ConfigurationError: a part of it would be replaced there
    """
    for mark in ("{dir}", "{home}"):
        if mark in text:
            raise ConfigurationError(
                f"{what} has {mark!r} in it, which would become a path where harness {harness!r} puts it; write it "
                "differently"
            )
    return text
