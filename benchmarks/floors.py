"""What could a Python program on this machine do at best? The floors that boxflow is measured against.

- `bare_asyncio`: each step is a task on the event loop that returns at once. Nothing is recorded.
- `append_fdatasync`: one record after the other, `write` and `fdatasync`, no event loop, no thread.
- `group_commit`: tasks that append a record and wait for its acknowledgement; a thread writes all that waits with one
  `write`, syncs it with one `fdatasync`, and acknowledges it with one call into the loop.

The records are as long as the lines boxflow writes for the same step, and hold nothing: no encoding, no checksum, no
index, no recovery. So a floor is what the disk and the loop cost alone, not what a durable engine could reach.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import Stopwatch, run
from benchmarks.model import Sample


async def _nothing(number: int) -> int:
    return number


def bare_asyncio(tasks: int, operations: int) -> Sample:
    """*tasks* tasks that each await their share of *operations* further tasks, one after the other."""

    async def body(count: int) -> None:
        loop = asyncio.get_running_loop()
        for number in range(count):
            await loop.create_task(_nothing(number))

    async def main() -> Sample:
        share = max(operations // tasks, 1)
        await body(100)
        with Stopwatch() as watch:
            await asyncio.gather(*(body(share) for _ in range(tasks)))
        return watch.sample(share * tasks)

    return run(main())


def append_fdatasync(operations: int, directory: Path, record: bytes) -> Sample:
    """Append *record* and sync, *operations* times."""
    file = os.open(directory / "floor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sync = getattr(os, "fdatasync", os.fsync)
    try:
        for _ in range(20):
            os.write(file, record)
            sync(file)
        with Stopwatch() as watch:
            for _ in range(operations):
                os.write(file, record)
                sync(file)
    finally:
        os.close(file)
    return watch.sample(operations, record_bytes=len(record))


class GroupCommitLog:
    """A log that many tasks append to, and one thread writes and syncs.

    :param sync: False leaves out the sync, and so shows what the thread and the loop cost alone
    """

    def __init__(self, path: Path, *, sync: bool = True) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._sync = getattr(os, "fdatasync", os.fsync) if sync else lambda _: None
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._records: list[bytes] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._closing = False
        # Acquiring it is waiting for work; it is released when there is some and the thread sleeps.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._is_asleep = False
        self.batches = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def append(self, record: bytes) -> asyncio.Future[None]:
        """What is returned is done when *record* is durable."""
        waiter = self._loop.create_future()
        with self._lock:
            self._records.append(record)
            self._waiters.append(waiter)
            self._rouse()
        return waiter

    def close(self) -> None:
        """Write what was appended, and end."""
        with self._lock:
            self._closing = True
            self._rouse()
        self._thread.join()
        os.close(self._file)

    def _rouse(self) -> None:
        if self._is_asleep:
            self._is_asleep = False
            self._wake.release()

    def _run(self) -> None:
        while True:
            with self._lock:
                records, self._records = self._records, []
                waiters, self._waiters = self._waiters, []
                if not records:
                    if self._closing:
                        return
                    self._is_asleep = True
            if not records:
                self._wake.acquire()
                continue
            os.write(self._file, b"".join(records))
            self._sync(self._file)
            self.batches += 1
            self._loop.call_soon_threadsafe(_settle, waiters)


def _settle(waiters: Sequence[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        waiter.set_result(None)


def group_commit(tasks: int, operations: int, directory: Path, record: bytes, *, sync: bool = True) -> Sample:
    """*tasks* tasks that each append their share of *operations* records, waiting for each."""

    async def body(log: GroupCommitLog, count: int) -> None:
        for _ in range(count):
            await log.append(record)

    async def main() -> Sample:
        share = max(operations // tasks, 1)
        log = GroupCommitLog(directory / "floor.log", sync=sync)
        try:
            await asyncio.gather(*(body(log, 3) for _ in range(tasks)))
            before = log.batches
            with Stopwatch() as watch:
                await asyncio.gather(*(body(log, share) for _ in range(tasks)))
            a_sync = share * tasks / (log.batches - before)
        finally:
            log.close()
        return watch.sample(share * tasks, record_bytes=len(record), records_a_sync=a_sync)

    return run(main())
