"""The Docker sandbox keeps every promise of a sandbox."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from docker_image import engine_answers, tools_image

from boxflow.testing.sandbox_contract import SandboxContract
from boxflow_backends.docker_sandbox import DockerSandbox


@pytest.fixture(scope="module")
def answers() -> bool:
    return engine_answers()


@pytest.mark.real
@pytest.mark.docker
class TestDockerSandbox(SandboxContract):
    @pytest.fixture(autouse=True)
    def _docker(self, need: Callable[[str, bool], None], answers: bool) -> None:
        need("docker", answers)

    def make_sandbox(self, directory: Path) -> DockerSandbox:
        # Boxes of a test are those of its directory: others test on the same engine.
        namespace = hashlib.sha256(str(directory).encode()).hexdigest()[:16]
        return DockerSandbox(tools_image(), namespace=namespace)
