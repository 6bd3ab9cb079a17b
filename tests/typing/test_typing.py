"""mypy strict and pyright strict accept the right calls and refuse the wrong ones, line by line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RIGHT, WRONG = HERE / "right.py", HERE / "wrong.py"

STRICT = {
    "typeCheckingMode": "strict",
    "pythonVersion": "3.11",
    "extraPaths": [str(ROOT), str(ROOT / "backends")],
    # Each checker has markers of its own; a marker that nothing answers is an error.
    "enableTypeIgnoreComments": False,
    "reportUnnecessaryTypeIgnoreComment": "error",
    "reportMissingTypeStubs": "none",
}


def mypy(*files: Path, cache: Path) -> str:
    """What mypy strict says, nothing when all is well."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--follow-imports=silent"]
    command += ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(cache)]
    return _said(command, *files, cwd=ROOT)


def pyright(directory: Path) -> str:
    """What pyright strict says of the files in *directory*, nothing when all is well."""
    (directory / "pyrightconfig.json").write_text(json.dumps({"include": ["."], **STRICT}))
    said = _said([sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", str(directory)], cwd=directory)
    return "\n".join(line for line in said.splitlines() if " - error: " in line or " - warning: " in line)


def _said(command: list[str], *files: Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": "", "MYPYPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")])}
    done = subprocess.run(
        [*command, *map(str, files)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert not done.stderr.strip() or done.stdout.strip(), done.stderr
    return done.stdout.strip()


@pytest.fixture
def checkers(need: Callable[[str, bool], None]) -> None:
    need("mypy", find_spec("mypy") is not None)
    need("pyright", find_spec("pyright") is not None)


@pytest.mark.slow
@pytest.mark.usefixtures("checkers")
def test_mypy_accepts_every_right_call_and_refuses_every_marked_one(tmp_path: Path) -> None:
    assert mypy(RIGHT, WRONG, cache=tmp_path) == ""


@pytest.mark.slow
@pytest.mark.usefixtures("checkers")
def test_pyright_accepts_every_right_call_and_refuses_every_marked_one(tmp_path: Path) -> None:
    for file in (RIGHT, WRONG):
        shutil.copy(file, tmp_path)
    assert pyright(tmp_path) == ""


@pytest.mark.slow
@pytest.mark.usefixtures("checkers")
def test_a_marker_on_a_right_call_would_be_noticed(tmp_path: Path) -> None:
    """The check itself is checked: a right call that is marked as wrong fails it, with both checkers."""
    file = tmp_path / "marked.py"
    file.write_text(
        "from boxflow import Retry\n\n"
        "Retry(attempts=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]\n"
    )
    assert 'Unused "type: ignore" comment' in mypy(file, cache=tmp_path / "cache")
    assert "Unnecessary" in pyright(tmp_path)


def test_every_wrong_call_is_marked_for_both_checkers_or_says_why_not() -> None:
    marked = [line for line in WRONG.read_text().splitlines() if "ignore[" in line]
    one_only = [line for line in marked if "type: ignore[" not in line or "pyright: ignore[" not in line]
    assert len(marked) > 40
    assert [re.sub(r"\s+#.*", "", line).strip() for line in one_only] == [
        'wrong_event: str = await ctx.wait_for_event("wait", "event", type=int)'
    ]
