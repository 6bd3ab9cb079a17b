"""How does a command run its coroutine? To its end, or to the first Ctrl-C, after which it cleans up."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import TypeVar

import click

from boxflow.cli.failures import INTERRUPTED, TERMINATED

T = TypeVar("T")


def drive(work: Coroutine[object, object, T]) -> T:
    """The result of *work*. Ctrl-C and SIGTERM cancel it, and end the command once it has cleaned up.

    A second Ctrl-C does not wait for that.
    """
    terminated = False

    async def bounded() -> T:
        task = asyncio.current_task()
        assert task is not None

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        loop = asyncio.get_running_loop()
        try:
            loop.add_signal_handler(signal.SIGTERM, terminate)
        except (RuntimeError, ValueError):
            return await work  # Not in the main thread: who embeds the command has the signals.
        try:
            return await work
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    try:
        return asyncio.run(bounded())
    except asyncio.CancelledError:
        if not terminated:
            raise
        raise click.exceptions.Exit(TERMINATED) from None
    except KeyboardInterrupt:
        raise click.exceptions.Exit(INTERRUPTED) from None
