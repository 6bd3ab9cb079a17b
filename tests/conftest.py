"""What every test shares: coroutine tests run in a fresh event loop, and nothing real is skipped in silence."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable

import pytest

REQUIRED = frozenset(name for name in os.environ.get("BOXFLOW_REQUIRE", "").split(",") if name)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests; each has a minute, real agents have three, so that a hang is a failure with a name."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    limit_s = 180 if pyfuncitem.get_closest_marker("agents") else 60

    async def bounded() -> None:
        async with asyncio.timeout(limit_s):
            await pyfuncitem.obj(**arguments)

    asyncio.run(bounded())
    return True


@pytest.fixture
def need() -> Callable[[str, bool], None]:
    """`need("bwrap", found)`: skip where something real is missing, and fail where it is required."""

    def check(name: str, found: bool) -> None:
        if found:
            return
        if name in REQUIRED:
            pytest.fail(f"{name} is required by BOXFLOW_REQUIRE and is not here")
        pytest.skip(f"{name} is not here")

    return check
