"""How do words become commands? `boxflow runs` alone lists, and every error becomes a message and an exit code."""

from __future__ import annotations

import os
import sys

import click

from boxflow.cli.failures import FAILED, INTERRUPTED, CommandError, command_error
from boxflow.errors import BoxflowError


class ListingGroup(click.Group):
    """A group whose command is `list` where none is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `list` before options that stand alone."""
        helps = ctx.help_option_names
        # A shell that completes the words has not all of them yet.
        if not ctx.resilient_parsing and (not args or (args[0].startswith("-") and args[0] not in helps)):
            args = ["list", *args]
        return super().parse_args(ctx, args)


class RootGroup(click.Group):
    """The command itself: what goes wrong below ends it with a message, never with a traceback of ours."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except BoxflowError as error:
            raise command_error(error) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Who read has gone, as `head` does. What is still in the buffer must not fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(FAILED) from None
        except OSError as error:
            raise CommandError(str(error)) from error
