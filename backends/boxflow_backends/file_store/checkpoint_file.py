"""The new checkpoint, while a compaction writes it: it has its name only once it is whole and durable."""

from __future__ import annotations

from pathlib import Path

from boxflow_backends.file_store.disk import Disk, remove_if_there, write_all
from boxflow_backends.file_store.lines import Kind, Line, encode, file_path, place, seal


class CheckpointFile:
    """A checkpoint up to segment *number*."""

    def __init__(self, disk: Disk, root: Path, number: int) -> None:
        self.path = file_path(root, Kind.CHECKPOINT, number)
        self._unfinished = self.path.with_suffix(".jsonl.tmp")
        self._number = number
        self._disk = disk
        remove_if_there(disk, self._unfinished)
        self._file = disk.create(self._unfinished)
        self._crc = 0
        self._lines: list[bytes] = []
        self._waiting_bytes = 0
        self.size_bytes = 0
        self.count = 0

    def add(self, body: bytes) -> int:
        """Write one encoded object as a line; its place."""
        line, self._crc = seal(body, self._crc)
        where = place(Kind.CHECKPOINT, self._number, self.size_bytes)
        self._lines.append(line)
        self._waiting_bytes += len(line)
        self.size_bytes += len(line)
        self.count += 1
        if self._waiting_bytes > 1 << 20:
            self._flush()
        return where

    def finish(self) -> None:
        """Make it count."""
        self.add(encode(Line(op="end", count=self.count + 1)))
        self._flush()
        self._disk.sync(self._file)
        self.close()
        self._disk.rename(self._unfinished, self.path)
        self._disk.sync_directory(self.path.parent)

    def close(self) -> None:
        """Close it, finished or not."""
        if self._file >= 0:
            file, self._file = self._file, -1
            self._disk.close(file)

    def _flush(self) -> None:
        write_all(self._disk, self._file, b"".join(self._lines))
        self._lines = []
        self._waiting_bytes = 0
