"""The fixture `boxflow`: a world around a test, whoever runs coroutine tests there."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent

TESTS = """
import asyncio
import pytest
from boxflow import Context, workflow
from boxflow.testing import World


@workflow
async def nap(ctx: Context, days: int) -> int:
    await ctx.sleep("nap", f"{days}d")
    return days


pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.parametrize("days", [1, 2])
async def test_it_is_entered(boxflow: World, days: int) -> None:
    assert await boxflow.run(nap, days) == days
    assert boxflow.audit is not None


@pytest.mark.boxflow(audit=False, max_resident_runs=0)
async def test_it_is_made_as_the_marker_says(boxflow: World) -> None:
    assert boxflow.audit is None


class TestClass:
    async def test_methods_have_it_too(self, boxflow: World) -> None:
        assert await boxflow.run(nap, 3) == 3


def test_others_enter_it_themselves(boxflow: World) -> None:
    async def main() -> int:
        async with boxflow:
            return await boxflow.run(nap, 4)

    assert asyncio.run(main()) == 4


async def test_what_fails_in_it_fails_as_itself(boxflow: World) -> None:
    async def wait(ctx: Context, _: None) -> None:
        await ctx.wait_for_event("never", "never")

    await boxflow.run(workflow(wait))


@pytest.mark.boxflow("positional")
async def test_a_marker_that_cannot_work_says_so(boxflow: World) -> None: ...
"""


def test_tests_run_in_a_world_under_anyio_s_plugin(tmp_path: Path) -> None:
    (tmp_path / "test_naps.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "anyio.pytest_plugin", "-p", "boxflow.testing.pytest_plugin",
         "--strict-markers", "-W", "error", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        # Found by name here, whatever is installed: that there is an entry point is tested below.
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
             "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")])},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "5 passed, 1 failed" in done.stdout or "1 failed, 5 passed" in done.stdout, done.stdout
    assert "StuckError: run 'wait-1' of 'wait' cannot go on" in done.stdout
    assert "@pytest.mark.boxflow takes options by name, as in seed=1; got ('positional',)" in done.stdout


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"boxflow": "boxflow.testing.pytest_plugin"}
