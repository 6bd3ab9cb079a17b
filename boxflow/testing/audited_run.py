"""Does one run depend on anything but its payload and its journal? `audit`, for tests without a world of their own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, Unpack, cast

from boxflow.errors import RunDivergedError
from boxflow.testing.world import EngineOptions, World
from boxflow.workflow import Workflow

I = TypeVar("I")  # noqa: E741 - the design's letters: payload in, result out
O = TypeVar("O")  # noqa: E741 - likewise


async def audit(
    workflow: Workflow[I, O],
    payload: I = ...,  # type: ignore[assignment] # the workflow's default, as in `Engine.start`
    script: Callable[[World], Awaitable[object] | object] | None = None,
    **options: Unpack[EngineOptions],
) -> O:
    """Run *workflow* in a world, and after every outcome rebuild its body from the journal and compare; its result.

    A rebuilt body must wait for the same calls with the same arguments. It is rebuilt with other clocks, without most
    of the environment, with sets of texts in another order, and with the globals that it reads as they were at first.
    Every line that reads the world itself is named.

    :param script: sets up the world before the run starts
    :param options: of each engine, as of `World`
    :raises AuditError: the body has other inputs than its payload and its journal
    """
    async with World(audit=True, **options) as world:
        assert world.audit is not None
        if script is not None:
            prepared = script(world)
            if inspect.isawaitable(prepared):
                await prepared
        try:
            return await world.run(workflow, cast(Any, payload))
        except RunDivergedError:
            for finding in world.audit.findings:
                raise finding from None
            raise
