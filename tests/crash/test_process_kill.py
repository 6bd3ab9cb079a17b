"""SIGKILL at any moment: what was acknowledged is there, once; what was done is not done again; nothing is left."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.crash.killing import Killing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for left processes in /proc")


def kill(directory: Path, *, times: int, seed: int) -> None:
    killing = Killing(directory, seed)
    asyncio.run(killing.kill_often(times))
    assert killing.kills == times
    asyncio.run(killing.judge())
    assert len(killing.jobs) > times, "the child was hardly ever at work"


@pytest.mark.real
def test_an_engine_that_is_killed_twenty_times_loses_and_repeats_nothing(tmp_path: Path) -> None:
    kill(tmp_path, times=20, seed=1)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("seed", [2, 3])
def test_an_engine_that_is_killed_again_and_again_loses_and_repeats_nothing(tmp_path: Path, seed: int) -> None:
    kill(tmp_path, times=50, seed=seed)
