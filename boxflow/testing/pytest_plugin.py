"""How does a pytest test get a world? By the fixture `boxflow`, in which the test runs from its beginning to its end.

    async def test_a_poem_is_published(boxflow: World) -> None:
        boxflow.when_waiting("review", True)
        assert await boxflow.run(publish, "boxes") == "published"

It needs no plugin of its own for coroutine tests: those of anyio and pytest-asyncio, and any other that calls the
test's function, run it. `@pytest.mark.boxflow(start=..., audit=False)` says how the world is made.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    # Loaded when a test asks for it: every pytest of an environment that has boxflow loads this plugin.
    from boxflow.testing.world import World


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "boxflow(**options): how the world of the fixture `boxflow` is made; see World")


@pytest.fixture
def boxflow(request: pytest.FixtureRequest) -> World:
    """A `boxflow.testing.World`, entered before a coroutine test begins and left when it has ended.

    In another test enter it yourself: `async with boxflow:`; or use `boxflow.testing.run_workflow`.
    """
    from boxflow.testing.world import World

    marker = request.node.get_closest_marker("boxflow")
    if marker is not None and marker.args:
        raise pytest.UsageError(f"@pytest.mark.boxflow takes options by name, as in seed=1; got {marker.args!r}")
    options: dict[str, Any] = dict(marker.kwargs) if marker is not None else {}
    world = World(**options)
    item: Any = request.node
    if inspect.iscoroutinefunction(getattr(item, "obj", None)):
        item.obj = _inside(item.obj, world)
    return world


def _inside(test: Callable[..., Awaitable[object]], world: World) -> Callable[..., Awaitable[object]]:
    @functools.wraps(test)
    async def run_inside(*args: Any, **kwargs: Any) -> object:
        async with world:
            return await test(*args, **kwargs)

    return run_inside
