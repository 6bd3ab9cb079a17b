"""Who carries out a call to a box: the world at once, or the run whose body makes it?

Every public call of a box goes through `call`. On the private loop of a run the loop's `owner` journals it like a step;
anywhere else it happens directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar, cast, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class DurableCaller(Protocol):
    """What a private event loop has as its `owner`, so that boxes work in a workflow body."""

    async def box_call(self, name: str, fn: Callable[[], Awaitable[T]], *, type: object) -> T:
        """Run *fn* on the host loop as a step and journal what it returns, as *type*, under *name*."""
        ...


async def call(name: str, fn: Callable[[], Awaitable[T]], *, type: object) -> T:
    """What *fn* returns: from the journal in a workflow body, from the world elsewhere.

    *fn* runs on the host loop and touches nothing of the private one.
    """
    owner = cast(object, getattr(asyncio.get_running_loop(), "owner", None))
    if isinstance(owner, DurableCaller):
        return await owner.box_call(name, fn, type=type)
    return await fn()
