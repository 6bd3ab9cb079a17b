"""How does clean-up get done although its task is being cancelled? Shielded, and limited in time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, T], *, timeout_s: float) -> T:
    """What *work* returns, run to its end even while the calling task is cancelled, any number of times.

    A cancellation that came meanwhile is raised after the work is done.

    :raises TimeoutError: it took longer than *timeout_s* and was cancelled
    """
    cancelled: asyncio.CancelledError | None = None
    # Two shields: `CancelScope` holds off the scopes of anyio, which would cancel again at every turn of the loop; the
    # task of its own holds off `Task.cancel()`, which knows no scopes.
    task = asyncio.create_task(_bounded(work, timeout_s))
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as exc:
                cancelled = exc
    if cancelled is not None:
        if not task.cancelled() and (error := task.exception()) is not None:
            cancelled.add_note(f"clean-up failed meanwhile: {error!r}")
        raise cancelled
    return task.result()


async def _bounded(work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    async with asyncio.timeout(timeout_s):
        return await work
