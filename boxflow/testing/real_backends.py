"""When is something of the real world at work for a scripted one? While somebody awaits its store or its sandbox.

Files and processes take their own time: while a call of theirs is under way, no time passes in the world, so that a
command which really runs for a second does not run into its timeout of an hour.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self


class AtWork:
    """How many calls of real things are under way."""

    def __init__(self) -> None:
        self.calls = 0

    def watching(self, backend: object) -> Any:
        """*backend*, whose calls are counted from here on."""
        return _Watched(backend, self)


class _Watched:
    """Something whose coroutine methods are counted while they run, and those of the processes that it starts."""

    def __init__(self, backend: Any, at_work: AtWork) -> None:
        self._backend = backend
        self._at_work = at_work

    async def __aenter__(self) -> Self:
        await self._counted(self._backend.__aenter__)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._counted(self._backend.__aexit__, kind, error, traceback)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def counted(*args: Any, **options: Any) -> Any:
            result = await self._counted(found, *args, **options)
            return _Watched(result, self._at_work) if name == "spawn" else result

        return counted

    async def read(self) -> AsyncIterator[tuple[str, bytes]]:
        """Of a process: each piece of its output is awaited by itself."""
        pieces = aiter(self._backend.read())
        while (piece := await self._counted(anext, pieces, None)) is not None:
            yield piece

    async def _counted(self, call: Any, *args: Any, **options: Any) -> Any:
        self._at_work.calls += 1
        try:
            return await call(*args, **options)
        finally:
            self._at_work.calls -= 1
