"""What an engine that was killed has left running is signalled, ended and deleted by the next one."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from boxflow.ports import BoxStatus
from boxflow_backends.local_sandbox import LocalSandbox

from .support import LocalBox, appears, pids_of

ROOT = Path(__file__).parents[2]
Isolation = Literal["none", "bubblewrap"]


@contextmanager
def _killed_engine(root: Path, box_id: str, isolation: str) -> Iterator[None]:
    """It has started its processes, and is dead."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    engine = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "engine_child.py"), str(root), box_id, isolation],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    with engine:
        assert engine.stdout is not None
        assert engine.stdout.readline() == b"ready\n"
        engine.kill()
    yield


@pytest.mark.parametrize("isolation", ["none", pytest.param("bubblewrap", marks=pytest.mark.real)])
async def test_another_engine_ends_what_a_killed_one_started(
    tmp_path: Path, isolation: Isolation, need: Callable[[str, bool], None]
) -> None:
    need("bwrap", isolation == "none" or shutil.which("bwrap") is not None)
    box_id = f"box-{secrets.token_hex(4)}"
    with _killed_engine(tmp_path, box_id, isolation):
        async with LocalSandbox(tmp_path, isolation=isolation) as sandbox:
            try:
                assert (await sandbox.get(box_id)).status is BoxStatus.RUNNING
                work = tmp_path / box_id / "work"
                await appears(work / "daemon")
                await sandbox.signal(box_id, "tree", signal.SIGUSR1)
                await appears(work / "got")
                await sandbox.end(box_id, "tree")
                assert pids_of(f"tree-{box_id}") == [] == pids_of(f"daemon-{box_id}")
                assert len(pids_of(f"other-{box_id}")) >= 1
                assert await LocalBox(sandbox, box_id).run("ls up") == (0, "up\n", "")
            finally:
                await sandbox.delete(box_id)
            assert pids_of(f"other-{box_id}") == []
            assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize("isolation", ["none", pytest.param("bubblewrap", marks=pytest.mark.real)])
async def test_a_signal_to_what_has_ended_reaches_nothing_that_it_left(
    tmp_path: Path, isolation: Isolation, need: Callable[[str, bool], None]
) -> None:
    need("bwrap", isolation == "none" or shutil.which("bwrap") is not None)
    box_id = f"box-{secrets.token_hex(4)}"
    with _killed_engine(tmp_path, box_id, isolation):
        async with LocalSandbox(tmp_path, isolation=isolation) as sandbox:
            try:
                await appears(tmp_path / box_id / "work" / "daemon")
                await sandbox.signal(box_id, "tree", signal.SIGKILL)
                await sandbox.signal(box_id, "tree", signal.SIGKILL)
                assert len(pids_of(f"daemon-{box_id}")) == 1
            finally:
                await sandbox.delete(box_id)
            assert pids_of(f"daemon-{box_id}") == []
