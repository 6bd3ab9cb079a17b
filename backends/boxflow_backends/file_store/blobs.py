"""Values too large for the log: one file each, named by what is in it, in a directory for each run."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

from boxflow.errors import StoreClosedError, StoreCorruptError
from boxflow.model import Blob
from boxflow_backends.file_store.disk import Disk, read_whole, remove_if_there, write_file


class Blobs:
    """The blobs under one directory. Every call blocks."""

    def __init__(self, disk: Disk, root: Path) -> None:
        self._disk = disk
        self._folder = root / "blobs"
        # Two callers may put the same bytes at once, and both use the same unfinished name.
        self._writing = threading.Lock()
        self._is_closed = False
        self._given: set[str] = set()

    def put(self, run_id: str, data: bytes) -> Blob:
        """Keep *data*; durable on return."""
        name = hashlib.sha256(data).hexdigest()
        folder = self._folder_of(run_id)
        with self._writing:
            self._check_open()
            self._given.add(run_id)
            self._disk.make_directory(folder)
            self._disk.sync_directory(self._folder)
            if name in self._disk.list_directory(folder):
                # Named only once it was whole; but whoever named it may have died before the name was durable.
                self._disk.sync_directory(folder)
            else:
                write_file(self._disk, folder / name, data)
        return Blob(name, len(data))

    def get(self, run_id: str, blob: Blob) -> bytes:
        """The bytes of a blob, checked.

        :raises StoreCorruptError: it is missing or not what was put
        """
        path = self._folder_of(run_id) / blob.blob
        try:
            data = read_whole(self._disk, path)
        except FileNotFoundError:
            raise StoreCorruptError(
                f"blob {str(path)!r} of run {run_id!r} is missing; restore it from a backup"
            ) from None
        if hashlib.sha256(data).hexdigest() != blob.blob:
            raise StoreCorruptError(f"blob {str(path)!r} of run {run_id!r} is damaged; restore it from a backup")
        return data

    def remove(self, run_id: str, *, unless: Callable[[str], bool]) -> None:
        """Remove all blobs of a run, *unless* there is another of that id by now."""
        folder = self._folder_of(run_id)
        with self._writing:
            self._check_open()
            if unless(run_id):
                return
            try:
                names = self._disk.list_directory(folder)
            except FileNotFoundError:
                return
            for name in names:
                remove_if_there(self._disk, folder / name)
            self._disk.remove_directory(folder)

    def watch(self) -> None:
        """Take note of the runs that are given a blob from here on."""
        with self._writing:
            self._given.clear()

    def was_given_one(self, run_id: str) -> bool:
        """Whether the run was given a blob since `watch`: it may be about to be created."""
        return run_id in self._given

    def close(self) -> None:
        """Wait for what is being written, and change nothing more: the directory will belong to somebody else."""
        with self._writing:
            self._is_closed = True

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreClosedError(f"store {str(self._folder.parent)!r} was closed meanwhile; this changed nothing")

    def _folder_of(self, run_id: str) -> Path:
        # A hash, not a cleaned-up id: "a/b" and "a_b" must not share a directory.
        return self._folder / hashlib.sha256(run_id.encode()).hexdigest()[:32]
