"""Which exit code does which error end the command with, and what does it say?"""

from __future__ import annotations

from typing import IO, Any, Final

import click

from boxflow.cli.printing import safe
from boxflow.errors import (
    BoxflowError,
    BoxNotFoundError,
    CommandTimeoutError,
    JobNotFoundError,
    RunError,
    RunNotFoundError,
    SandboxUnavailableError,
    StoreClosedError,
    StoreError,
    StoreLockedError,
)

FAILED: Final = 1
"""The run failed, was cancelled or diverged; a replay differs; the doctor found something broken."""

USAGE: Final = 2
"""The command was not understood, or what it was given cannot work."""

NOT_FOUND: Final = 3
"""No such run, box, job or call."""

UNREACHABLE: Final = 4
"""The engine cannot be reached or refuses the key; the store is locked or damaged; the sandbox does not answer."""

INTERRUPTED: Final = 130
"""Ended by Ctrl-C: 128 and the number of SIGINT, as shells say it."""

TERMINATED: Final = 143
"""Ended by SIGTERM."""

_CODES: Final[tuple[tuple[type[BoxflowError], int], ...]] = (
    (RunNotFoundError, NOT_FOUND),
    (BoxNotFoundError, NOT_FOUND),
    (JobNotFoundError, NOT_FOUND),
    (RunError, FAILED),
    (CommandTimeoutError, FAILED),
    (StoreClosedError, USAGE),
    (StoreError, UNREACHABLE),
    (SandboxUnavailableError, UNREACHABLE),
)


class CommandError(click.ClickException):
    """The command ends here, with this message and this exit code."""

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__(message)
        # click itself gives instances codes of their own, as in `Exit`.
        self.exit_code = exit_code  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # as above

    def show(self, file: IO[Any] | None = None) -> None:
        """Say it on stderr. What it quotes may come from anywhere, so nothing of it steers the terminal."""
        click.echo(f"boxflow: {safe(self.message, lines=True)}", file=file, err=file is None)


def command_error(error: BoxflowError) -> CommandError:
    """*error* as the command says it."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), USAGE)
    message = str(error)
    if isinstance(error, StoreLockedError):
        message += "; or ask the engine that owns it, with --url"
    return CommandError(message, code)
