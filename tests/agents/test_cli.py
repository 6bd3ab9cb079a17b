"""The `boxflow` command: what it understands, and what it says when it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def boxflow(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "boxflow.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_what_it_does_not_understand_shows_what_it_does() -> None:
    for arguments in ((), ("fly",)):
        done = boxflow(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("usage: boxflow agents install NAME...")
    assert boxflow("--help").returncode == 0


def test_an_agent_that_is_not_known_is_refused_by_name() -> None:
    done = boxflow("agents", "install", "clod")
    assert done.returncode == 2
    assert "usage: boxflow agents" in done.stderr and "clod" in done.stderr


def test_the_doctor_tells_what_is_there_and_what_to_do(tmp_path: Path) -> None:
    done = boxflow("doctor", "--directory", str(tmp_path))
    assert done.returncode in (0, 1)
    assert "python" in done.stdout.lower()
    assert "claude-code" in done.stdout
