"""The thread that writes: takes everything that waits, writes it at once, syncs it at once, acknowledges it at once.

A record costs the event loop one entry in a queue; how many records share a sync is decided by how many arrive while
the sync before is running (group commit). The queue needs no bound of its own: each record in it has a caller that
waits for it.
"""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal, TypeAlias

from boxflow.errors import StoreFailedError
from boxflow_backends.file_store.disk import Disk, write_all

Durability: TypeAlias = Literal["always", "interval", "os"]
Waiter: TypeAlias = asyncio.Future[None]

# One write of more would only delay the first of those who wait.
_BATCH_BYTES = 8 << 20


class Roll:
    """In the queue: what follows belongs to the next file."""

    __slots__ = ("number", "path")

    def __init__(self, number: int, path: Path) -> None:
        self.number = number
        self.path = path


class Stop:
    """In the queue: nothing follows."""


class Mark:
    """In the queue, for a thread that waits until everything before it is durable, or failed."""

    __slots__ = ("passed",)

    def __init__(self) -> None:
        self.passed = threading.Event()


_Entry: TypeAlias = tuple[bytes | Roll | Stop | Mark, Waiter | None]


class Writer:
    """Writes lines in the order in which they are put. Made open on its first file."""

    def __init__(
        self,
        disk: Disk,
        file: int,
        number: int,
        written: int,
        *,
        durability: Durability,
        interval_s: float,
        rolled: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._disk = disk
        self._file = file
        self._durability = durability
        self._interval_s = interval_s
        self._rolled = rolled
        self._failed = failed
        self._queue: SimpleQueue[_Entry] = SimpleQueue()
        self._written = written
        # Read by other threads, which may see it late but never early: one tuple, replaced whole.
        self.synced = (number, written)
        self.written = (number, written)
        self._number = number
        self._sync_due: float | None = None
        self._thread = threading.Thread(target=self._run, name="boxflow-file-store-writer", daemon=True)
        self.put = self._queue.put

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write and sync what was put, and end. Blocks."""
        self._queue.put((Stop(), None))
        self._thread.join()

    def wait(self) -> None:
        """Return when everything that was put is durable, or the store has failed. Blocks."""
        mark = Mark()
        self._queue.put((mark, None))
        mark.passed.wait()

    def _run(self) -> None:
        batch: list[_Entry] = []
        try:
            while True:
                batch = self._take()
                if not self._commit(batch):
                    break
                acknowledge([waiter for _, waiter in batch if waiter is not None])
            self._sync()
        except OSError as error:
            why = say(error)
            self._failed(why)
            self._refuse(batch, why)
        finally:
            self._disk.close(self._file)

    def _take(self) -> list[_Entry]:
        """Everything that waits, at least one entry; nothing when a sync is due first."""
        try:
            if self._sync_due is None:
                first = self._queue.get()
            else:
                first = self._queue.get(timeout=max(self._sync_due - time.monotonic(), 0.0))
        except Empty:
            return []
        batch = [first]
        size = 0
        while size < _BATCH_BYTES:
            try:
                entry = self._queue.get_nowait()
            except Empty:
                break
            batch.append(entry)
            if isinstance(entry[0], bytes):
                size += len(entry[0])
        return batch

    def _commit(self, batch: Sequence[_Entry]) -> bool:
        """Bring *batch* to disk, as far as the durability asks for; False when it was the last."""
        lines: list[bytes] = []
        for what, _ in batch:
            if isinstance(what, bytes):
                lines.append(what)
                continue
            self._write(lines)
            lines = []
            match what:
                case Stop():
                    return False
                case Roll():
                    self._roll(what)
                case Mark():
                    self._sync()
                    what.passed.set()
        self._write(lines)
        if self._durability == "always" or (self._sync_due is not None and time.monotonic() >= self._sync_due):
            self._sync()
        return True

    def _write(self, lines: list[bytes]) -> None:
        data = b"".join(lines)
        if not data:
            return
        write_all(self._disk, self._file, data)
        self._written += len(data)
        self.written = (self._number, self._written)
        if self._durability == "interval" and self._sync_due is None:
            self._sync_due = time.monotonic() + self._interval_s

    def _sync(self) -> None:
        self._sync_due = None
        if self.synced != (self._number, self._written):
            self._disk.sync(self._file)
            self.synced = (self._number, self._written)

    def _roll(self, roll: Roll) -> None:
        """Go on in a new file. The old one is durable before the new one exists, so only the last can be incomplete."""
        self._sync()
        file = self._disk.create(roll.path)
        self._disk.close(self._file)
        self._file = file
        self._disk.sync_directory(roll.path.parent)
        self._number = roll.number
        self._written = 0
        self.synced = (roll.number, 0)
        self._rolled()

    def _refuse(self, batch: list[_Entry], why: str) -> None:
        # `failed` was called: nothing more is put, so what is in the queue now is all.
        while True:
            refuse([waiter for _, waiter in batch if waiter is not None], why)
            for what, _ in batch:
                if isinstance(what, Mark):
                    what.passed.set()
            try:
                batch = [self._queue.get_nowait()]
            except Empty:
                return


def acknowledge(waiters: Sequence[Waiter]) -> None:
    """Let go on whoever waits, on whichever loop; one call into each loop."""
    _tell(waiters, None)


def refuse(waiters: Sequence[Waiter], why: str) -> None:
    """Raise `StoreFailedError` in whoever waits."""
    _tell(waiters, why)


def _tell(waiters: Sequence[Waiter], why: str | None) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[Waiter]] = {}
    for waiter in waiters:
        loops.setdefault(waiter.get_loop(), []).append(waiter)
    for loop, its_waiters in loops.items():
        try:
            loop.call_soon_threadsafe(_settle, its_waiters, why)
        except RuntimeError:
            # The loop is closed: nobody is left who could wait.
            continue


def _settle(waiters: Sequence[Waiter], why: str | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if why is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(StoreFailedError(why))


def say(error: OSError) -> str:
    """What failed, and what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "there is no space left on the device; make room"
    else:
        what = f"the disk failed with {error.strerror or error!s}; see to the disk"
    where = f" ({error.filename!r})" if error.filename else ""
    return (
        f"the store could not write{where}: {what}, then open the store again. What was acknowledged is safe; "
        "until then nothing more is accepted"
    )
