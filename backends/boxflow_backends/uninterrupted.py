"""How does a piece of work run to its end although its caller is being cancelled?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T], *, when_cancelled: Callable[[], None] | None = None) -> T:
    """What *work* returns, run to its end. *work* bounds its own time.

    A cancellation that comes meanwhile is raised when it is done.

    :param when_cancelled: called at once then; it may tell *work* to make haste
    """
    cancelled: asyncio.CancelledError | None = None
    # The scope holds off anyio's cancellations, which come again at every turn of the loop; the task of its own those
    # of `Task.cancel()`, which know no scopes.
    task = asyncio.create_task(work)
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as exc:
                cancelled = exc
                if when_cancelled is not None:
                    when_cancelled()
    if cancelled is not None:
        if not task.cancelled() and (error := task.exception()) is not None:
            cancelled.add_note(f"meanwhile failed: {error!r}")
        raise cancelled
    return task.result()
