"""The thread that writes: takes everything that waits, writes it at once, syncs it at once, acknowledges it at once.

A record costs the event loop two appends to a list. What one turn of the loop puts shares a sync, and so does what
arrives while the sync before is running (group commit). What waits needs no bound of its own: each record has a caller
that waits for it.
"""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from boxflow.errors import StoreFailedError
from boxflow_backends.file_store.disk import Disk, write_all

Durability: TypeAlias = Literal["always", "interval", "os"]
Waiter: TypeAlias = asyncio.Future[None]


class Roll:
    """What follows belongs to the next file."""

    __slots__ = ("number", "path")

    def __init__(self, number: int, path: Path) -> None:
        self.number = number
        self.path = path


class Stop:
    """Nothing follows."""


class Mark:
    """A thread waits until everything before it is durable, or failed."""

    __slots__ = ("passed",)

    def __init__(self) -> None:
        self.passed = threading.Event()


class _Batch:
    """Lines that are written together, who waits for them on one loop, and what comes after them."""

    __slots__ = ("lines", "loop", "then", "waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop
        self.lines: list[bytes] = []
        self.waiters: list[Waiter] = []
        self.then: Roll | Stop | Mark | None = None

    def tell(self, why: str | None) -> None:
        """Let go on whoever waits, with one call into the loop; with `StoreFailedError` where there is a *why*."""
        if isinstance(self.then, Mark):
            self.then.passed.set()
        if self.loop is None or not self.waiters:
            return
        try:
            self.loop.call_soon_threadsafe(_settle, self.waiters, why)
        except RuntimeError:
            # The loop is closed: nobody is left who could wait.
            return


class Writer:
    """Writes lines in the order in which they are put. Made open on its first file.

    :param lock: held by whoever puts
    :param rolled: told when a file was begun
    :param failed: told why nothing more can be written; after that, nothing more is put
    """

    def __init__(
        self,
        disk: Disk,
        file: int,
        number: int,
        written: int,
        *,
        lock: threading.Lock,
        durability: Durability,
        interval_s: float,
        rolled: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._disk = disk
        self._file = file
        self._number = number
        self._written = written
        self._durability = durability
        self._interval_s = interval_s
        self._rolled = rolled
        self._failed = failed
        # Read by other threads, which may see it late but never early: one tuple, replaced whole.
        self.synced = self.written = (number, written)
        self._sync_due: float | None = None
        self._lock = lock
        self._batches: list[_Batch] = []
        self._batch = _Batch(None)
        self._is_asleep = False
        #: What was put is to be written now.
        self._is_due = False
        #: The loop that says so in its next turn.
        self._called_by: asyncio.AbstractEventLoop | None = None
        # Held, except for the moment in which the thread is woken: acquiring it is sleeping, in C.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._thread = threading.Thread(target=self._run, name="boxflow-file-store-writer", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Have *line* written."""
        self._batch.lines.append(line)
        self._call()

    def put_awaited(self, line: bytes, loop: asyncio.AbstractEventLoop) -> Waiter:
        """Have *line* written; what is returned is done when it is durable."""
        batch = self._batch
        if batch.loop is not loop:
            if batch.waiters:
                batch = self._next_batch()
            batch.loop = loop
        waiter = loop.create_future()
        batch.lines.append(line)
        batch.waiters.append(waiter)
        if self._called_by is not loop:
            # Not yet: what else this turn of the loop has to write shall share the sync.
            self._called_by = loop
            loop.call_soon(self._turn_ended, loop)
        return waiter

    def _turn_ended(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if self._called_by is loop:
                self._called_by = None
            self._call()

    def _call(self) -> None:
        self._is_due = True
        if self._is_asleep:
            self._is_asleep = False
            self._wake.release()

    def put_then(self, then: Roll | Stop | Mark) -> None:
        """Have *then* done after everything that was put."""
        self._batch.then = then
        self._next_batch()
        self.put(b"")

    def wait(self) -> None:
        """Return when everything that was put is durable, or the store has failed. Blocks."""
        mark = Mark()
        with self._lock:
            self.put_then(mark)
        while not mark.passed.wait(1.0) and self._thread.is_alive():
            # The thread may have failed before the mark was put; then nobody passes it.
            continue

    def stop(self) -> None:
        """Write and sync what was put, and end. Blocks."""
        with self._lock:
            self.put_then(Stop())
        self._thread.join()

    def _next_batch(self) -> _Batch:
        self._batches.append(self._batch)
        self._batch = _Batch(None)
        return self._batch

    def _run(self) -> None:
        batches: list[_Batch] = []
        try:
            while True:
                batches = self._take()
                goes_on = self._commit(batches)
                for batch in batches:
                    batch.tell(None)
                if not goes_on:
                    return
        except OSError as error:
            self._give_up(batches, say(error))
        except BaseException as error:
            # A bug of ours: nobody may wait for ever because of it.
            self._give_up(batches, f"the store's writer stopped: {error!r}; open the store again")
            raise
        finally:
            self._disk.close(self._file)

    def _give_up(self, batches: Sequence[_Batch], why: str) -> None:
        self._failed(why)
        with self._lock:
            batches = [*batches, *self._batches, self._batch]
        for batch in batches:
            batch.tell(why)

    def _take(self) -> list[_Batch]:
        """Everything that waits; nothing when a sync is due first."""
        while True:
            with self._lock:
                if self._is_due and self._batch.lines:
                    self._next_batch()
                self._is_due = False
                batches, self._batches = self._batches, []
                self._is_asleep = not batches
            if batches:
                return batches
            due = self._sync_due
            if not self._wake.acquire(timeout=-1 if due is None else max(due - time.monotonic(), 0.0)):
                with self._lock:
                    if self._is_asleep:
                        self._is_asleep = False
                        return []
                # It was woken in the same instant: the lock was released, and must be held again.
                self._wake.acquire()

    def _commit(self, batches: Sequence[_Batch]) -> bool:
        """Bring *batches* to disk, as far as the durability asks for; False when they were the last."""
        for batch in batches:
            self._write(b"".join(batch.lines))
            match batch.then:
                case Roll() as roll:
                    self._roll(roll)
                case Mark():
                    self._sync()
                case Stop():
                    self._sync()
                    return False
                case None:
                    pass
        if self._durability == "always" or (self._sync_due is not None and time.monotonic() >= self._sync_due):
            self._sync()
        return True

    def _write(self, data: bytes) -> None:
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
        self.synced = self.written = (roll.number, 0)
        self._rolled()


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
