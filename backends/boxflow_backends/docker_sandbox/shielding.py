"""How does something that must not stop half way go on while its caller is being cancelled?"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def unbroken(work: Coroutine[Any, Any, T]) -> T:
    """What *work* returns. It runs to its end, and bounds its own time; a cancellation is raised only after that."""
    task = asyncio.ensure_future(work)
    held_back: asyncio.CancelledError | None = None
    # A task of its own, since `Task.cancel` reaches through every scope; a scope, since anyio cancels again and again.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as exc:
                held_back = exc
    if held_back is None:
        return task.result()
    if not task.cancelled() and (error := task.exception()) is not None:
        held_back.add_note(f"meanwhile: {error!r}")
    raise held_back
