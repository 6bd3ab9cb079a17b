"""Machines that die: a store which engines use one after another, each until it stops or is cut off."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from boxflow import Engine, Outcome, Run, RunStatus, Workflow
from boxflow.ports import Store
from boxflow_backends.memory_store import MemoryStore


class CutOffStore:
    """A store behind a plug: once `cut` is set, no call ever answers, as on a machine that lost its power."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.cut = False

    async def __aenter__(self) -> CutOffStore:
        await self.store.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.store.__aexit__(*error)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        async def call(*args: Any, **options: Any) -> Any:
            if self.cut:
                await asyncio.Event().wait()
            return await method(*args, **options)

        return call if inspect.iscoroutinefunction(method) else method


class Machine:
    """Where engines live, one after another, on the same stored state.

    :param open_store: gives the store that the next engine opens
    :param options: given to every engine, unless it is started with others
    """

    def __init__(self, open_store: Callable[[], Store], **options: Any) -> None:
        self._open_store = open_store
        self.options: dict[str, Any] = {"blocking_limit": None, **options}

    @asynccontextmanager
    async def running(self, *workflows: Workflow[Any, Any], **options: Any) -> AsyncIterator[Engine]:
        """An engine that is stopped in good order at the end of the block."""
        async with Engine(workflows, store=self._open_store(), **{**self.options, **options}) as engine:
            yield engine

    @asynccontextmanager
    async def crashing(self, *workflows: Workflow[Any, Any], **options: Any) -> AsyncIterator[Engine]:
        """An engine whose machine dies at the end of the block: from then on it records nothing."""
        store: Any = CutOffStore(self._open_store())
        async with Engine(workflows, store=store, **{**self.options, **options}) as engine:
            try:
                yield engine
            finally:
                store.cut = True


def in_memory(**options: Any) -> Machine:
    """A machine whose state is in this process."""
    store = MemoryStore()
    return Machine(lambda: store, **options)


async def eventually(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return once *holds* does; the test's own deadline ends the waiting."""
    while True:
        found = holds()
        if await found if inspect.isawaitable(found) else found:
            return
        await asyncio.sleep(0.001)


async def until(run: Run[Any], status: RunStatus) -> None:
    """Return once *run* has that status."""

    async def reached() -> bool:
        return await run.status() is status

    await eventually(reached)


async def until_recorded(run: Run[Any], kind: str, count: int = 1) -> None:
    """Return once the run's journal holds *count* outcomes of that kind."""

    async def reached() -> bool:
        return kinds(await run.history()).count(kind) >= count

    await eventually(reached)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and that nobody has reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def settle(turns: int = 50) -> None:
    """Let everything that needs no time run."""
    for _ in range(turns):
        await asyncio.sleep(0)


def kinds(outcomes: list[Outcome]) -> list[str]:
    """What happened, a word each."""
    return [outcome.kind for outcome in outcomes]


def keys(outcomes: list[Outcome]) -> list[tuple[str, str, int]]:
    """What happened to which call."""
    return [(outcome.kind, outcome.name, outcome.occurrence) for outcome in outcomes]
