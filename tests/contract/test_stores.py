"""Every store does what `StoreContract` says."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from boxflow.ports import Store
from boxflow.testing import StoreContract
from boxflow_backends.file_store import FileStore
from boxflow_backends.file_store.writer import Durability
from boxflow_backends.memory_store import MemoryStore


class TestMemoryStore(StoreContract):
    def make_store(self) -> Store:
        return MemoryStore()


class _OnFiles(StoreContract):
    durable = True
    durability: ClassVar[Durability]
    segment_bytes: ClassVar[int] = 8 << 20
    path: Path

    @pytest.fixture(autouse=True)
    def fresh_directory(self, tmp_path: Path) -> None:
        self.path = tmp_path / "state"

    def make_store(self) -> Store:
        return FileStore(self.path, durability=self.durability, segment_bytes=self.segment_bytes)

    def make_again(self, store: Store) -> Store:
        return self.make_store()


class TestFileStoreAlways(_OnFiles):
    durability = "always"


class TestFileStoreInterval(_OnFiles):
    durability = "interval"


class TestFileStoreOs(_OnFiles):
    durability = "os"


class TestFileStoreThatCompactsAllTheTime(_OnFiles):
    """A new segment after every few records: runs move while they are read, found and changed."""

    durability = "os"
    segment_bytes = 400
