"""The local sandbox keeps every promise of a sandbox."""

from __future__ import annotations

from pathlib import Path

from boxflow.testing.sandbox_contract import SandboxContract
from boxflow_backends.local_sandbox import LocalSandbox


class TestLocalSandbox(SandboxContract):
    def make_sandbox(self, directory: Path) -> LocalSandbox:
        return LocalSandbox(directory / "root")
