"""Who carries out a call to a box: the world at once, or the run whose body makes it?

Every public call of a box goes through `call`. On the private loop of a run the loop's `owner` journals it like a step;
anywhere else it happens directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Protocol, TypeVar, cast, runtime_checkable

import msgspec

from boxflow.errors import NotDurableError

T = TypeVar("T")


class DurableCall(msgspec.Struct, frozen=True):
    """The step as which a call of a workflow body is carried out.

    :param key: the same on every attempt and after every crash
    :param leaving: whether a cancellation that comes now only means that the engine stops, or the run leaves memory:
        what was begun in the box goes on then, and is found again by *key*
    """

    key: str
    leaving: Callable[[], bool]


durable_call: ContextVar[DurableCall | None] = ContextVar("boxflow_durable_call", default=None)
"""Set while a call of a workflow body is carried out; None where the world is acted on directly."""


@runtime_checkable
class DurableCaller(Protocol):
    """What a private event loop has as its `owner`, so that boxes work in a workflow body."""

    async def box_call(self, name: str, fn: Callable[[], Awaitable[T]], *, type: object, is_job: bool) -> T:
        """Run *fn* on the host loop as a step and journal what it returns, as *type*, under *name*."""
        ...


async def call(name: str, fn: Callable[[], Awaitable[T]], *, type: object, is_job: bool = False) -> T:
    """What *fn* returns: from the journal in a workflow body, from the world elsewhere.

    *fn* runs on the host loop and touches nothing of the private one.

    :param is_job: it waits for a job of a box, for long: the run may leave memory meanwhile
    """
    owner = _owner()
    if owner is not None:
        return await owner.box_call(name, fn, type=type, is_job=is_job)
    return await fn()


def refuse_in_body(what: str, instead: str) -> None:
    """Raise where a call cannot be durable: what it gives cannot be kept in a journal.

    :raises NotDurableError: called in a workflow body
    """
    if _owner() is not None:
        raise NotDurableError(f"{what} cannot be used in a workflow body; {instead}")


def _owner() -> DurableCaller | None:
    owner = cast(object, getattr(asyncio.get_running_loop(), "owner", None))
    return owner if isinstance(owner, DurableCaller) else None
