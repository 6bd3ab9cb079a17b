"""Do CPython's own tests of asyncio's primitives pass on the private loop?"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import boxflow

HERE = Path(__file__).parent

MODULES = {
    "test_locks": 60,
    "test_queues": 40,
    "test_taskgroups": 30,
    "test_timeouts": 30,
    "test_waitfor": 15,
    "test_futures2": 3,
    "test_staggered": 5,
}
"""The modules, with a lower bound of how many tests each has in every version of Python that has it."""

NEWER = {"test_staggered": (3, 13)}
"""Modules that an older Python does not have."""

DO_NOT_APPLY: dict[str, dict[str, str]] = {}
"""By module: each test that does not apply to the private loop, as `Class.method`, with the reason.

Everything else passes. Empty: all of them apply.
"""

found = importlib.util.find_spec("test") is not None and importlib.util.find_spec("test.test_asyncio") is not None


@pytest.mark.parametrize("module", MODULES)
def test_what_cpython_promises_of_asyncio_holds_on_the_private_loop(
    module: str, need: Callable[[str, bool], None]
) -> None:
    if sys.version_info < NEWER.get(module, (3, 11)):
        pytest.skip(f"test.test_asyncio.{module} came with Python {'.'.join(map(str, NEWER[module]))}")
    need("cpython-tests", found)
    roots = (str(Path(boxflow.__file__).parents[1]), str(HERE))
    program = subprocess.run(
        [sys.executable, str(HERE / "run_module.py"), module],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    result = json.loads(program.stdout.splitlines()[-1])
    reasons = DO_NOT_APPLY.get(module, {})
    unexpected = {name: text for name, text in result["failed"].items() if name not in reasons}
    assert not unexpected, "\n".join(f"{name}:\n{text}" for name, text in unexpected.items())
    # A reason for a test that passes, or is gone, is a leftover.
    assert set(reasons) <= set(result["failed"])
    assert result["skipped"] == {}
    assert len(result["passed"]) + len(reasons) == result["ran"] >= MODULES[module]
