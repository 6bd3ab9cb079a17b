"""How does a test that is no coroutine run a workflow?"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, Unpack, cast

from boxflow.testing.world import EngineOptions, World
from boxflow.workflow import Workflow

I = TypeVar("I")  # noqa: E741 - the design's letters: payload in, result out
O = TypeVar("O")  # noqa: E741 - likewise


def run_workflow(
    workflow: Workflow[I, O],
    payload: I = ...,  # type: ignore[assignment] # the workflow's default, as in `Engine.start`
    script: Callable[[World], Awaitable[object] | object] | None = None,
    **options: Unpack[EngineOptions],
) -> O:
    """Run *workflow* in a world of its own, on a loop of its own, and return its result.

    :param script: gets the world before the run starts, and says what everybody else does
    :param options: of its engine
    :raises StuckError: it waits for something that nobody sends
    """

    async def main() -> O:
        async with World(**options) as world:
            if script is not None:
                prepared = script(world)
                if inspect.isawaitable(prepared):
                    await prepared
            return await world.run(workflow, cast(Any, payload))

    return asyncio.run(main())
