"""What tests of behaviour share: a machine with each kind of store."""

from __future__ import annotations

from pathlib import Path

import pytest
from behaviour.support import Machine, in_memory

from boxflow_backends.file_store import FileStore


@pytest.fixture(params=["memory", "file"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A machine with an empty store, of each kind."""
    if request.param == "memory":
        return in_memory()
    return Machine(lambda: FileStore(str(tmp_path / "state"), durability="os"))


@pytest.fixture
def memory_machine() -> Machine:
    """A machine with an empty store in memory."""
    return in_memory()
