"""Where the next line goes: the open segment as callers see it, one step ahead of the thread that writes it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from boxflow_backends.file_store.disk import Disk, write_all
from boxflow_backends.file_store.lines import (
    FORMAT,
    Kind,
    Line,
    encode,
    file_path,
    is_in_log,
    number_of,
    offset_of,
    place,
    seal,
)
from boxflow_backends.file_store.writer import Durability, Roll, Waiter, Writer


class Log:
    """The log from one opening to the next; begins a segment of its own. All calls are made under the store's lock.

    :param sealed: the size of each segment of this or an earlier opening that the checkpoint does not cover
    """

    def __init__(
        self,
        disk: Disk,
        root: Path,
        *,
        number: int,
        crc: int,
        epoch: int,
        lock: threading.Lock,
        segment_bytes: int,
        durability: Durability,
        interval_s: float,
        rolled: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._root = root
        self._segment_bytes = segment_bytes
        self.epoch = epoch
        self.number = number
        self.sealed: dict[int, int] = {}
        line, self._crc = seal(self._header(number), crc)
        file = disk.create(file_path(root, Kind.LOG, number))
        try:
            # The new epoch is durable before anything is accepted in it.
            write_all(disk, file, line)
            disk.sync(file)
            disk.sync_directory(root / "log")
        except BaseException:
            disk.close(file)
            raise
        self._offset = len(line)
        self._begin = place(Kind.LOG, number, 0)
        self.writer = Writer(
            disk,
            file,
            number,
            len(line),
            lock=lock,
            durability=durability,
            interval_s=interval_s,
            rolled=rolled,
            failed=failed,
        )
        self.writer.start()

    def add(self, body: bytes, loop: asyncio.AbstractEventLoop) -> tuple[int, Waiter]:
        """Have one encoded object written as a line: its place, and what is done when it is durable."""
        line, self._crc = seal(body, self._crc)
        where = self._begin + self._offset
        self._offset += len(line)
        waiter = self.writer.put_awaited(line, loop)
        if self._offset >= self._segment_bytes:
            self.roll()
        return where, waiter

    def add_unawaited(self, body: bytes) -> None:
        """Have one encoded object written as a line."""
        line, self._crc = seal(body, self._crc)
        self._offset += len(line)
        self.writer.put(line)

    def roll(self) -> None:
        """Go on in a new segment."""
        self.sealed[self.number] = self._offset
        self.number += 1
        line, self._crc = seal(self._header(self.number), self._crc)
        self._offset = len(line)
        self._begin = place(Kind.LOG, self.number, 0)
        self.writer.put_then(Roll(self.number, file_path(self._root, Kind.LOG, self.number)))
        self.writer.put(line)

    def close(self) -> None:
        """Say that everything was written; what is damaged after that is damage, and not a crash."""
        self.add_unawaited(encode(Line(op="close", epoch=self.epoch, synced=self._offset)))

    def synced_bytes(self) -> int:
        """Up to where the open segment is durable, as far as is known here."""
        number, synced = self.writer.synced
        return synced if number == self.number else 0

    def is_written(self, where: int) -> bool:
        """Whether a line can be read from its file yet."""
        return not is_in_log(where) or (number_of(where), offset_of(where)) < self.writer.written

    def since_checkpoint_bytes(self) -> int:
        """How much there is to read when the store is opened, besides the checkpoint."""
        return sum(self.sealed.values()) + self._offset

    def _header(self, number: int) -> bytes:
        return encode(Line(op="log", epoch=self.epoch, format=FORMAT, number=number))
