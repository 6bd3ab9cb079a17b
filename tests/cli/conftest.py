"""The command, called in this process or as a program, with nothing of our own environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

from boxflow.cli.main import cli

TESTS = Path(__file__).parent.parent


@attrs.frozen
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[list[str]]:
        """The words of each line of its output."""
        return [line.split() for line in self.out.splitlines()]


Boxflow = Callable[..., Done]


@pytest.fixture
def boxflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boxflow:
    """`boxflow("runs", "list")` in this process; variables only where a test gives them."""
    for name in list(os.environ):
        if name.startswith("BOXFLOW_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SHOP_STORE", f"file:{tmp_path}/state")
    monkeypatch.setenv("SHOP_SANDBOX", f"local:{tmp_path}/boxes")

    def run(*arguments: str, input: str | bytes | None = None, **variables: str) -> Done:
        result = CliRunner().invoke(cli, arguments, input=input, env=variables, prog_name="boxflow")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The store of `cli.shop:engine`."""
    return f"file:{tmp_path}/state"


def program(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """The command as a program of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BOXFLOW_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent), str(TESTS.parent / "backends")])
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "boxflow.cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, **variables},
    )
