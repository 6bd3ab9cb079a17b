"""The local sandbox keeps every promise of a sandbox, with isolation and without."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from boxflow.testing.sandbox_contract import SandboxContract
from boxflow_backends.local_sandbox import LocalSandbox


class TestLocalSandbox(SandboxContract):
    def make_sandbox(self, directory: Path) -> LocalSandbox:
        return LocalSandbox(directory / "root")


@pytest.mark.real
class TestIsolatedLocalSandbox(SandboxContract):
    @pytest.fixture(autouse=True)
    def _needs_bubblewrap(self, need: Callable[[str, bool], None]) -> None:
        need("bwrap", shutil.which("bwrap") is not None)

    def make_sandbox(self, directory: Path) -> LocalSandbox:
        return LocalSandbox(directory / "root", isolation="bubblewrap")
