"""An archived run that changes while its archive becomes part of another stays as it is, and closing does not wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from boxflow.model import Head, RunRecord, RunStatus, StepDone
from boxflow.ports import RunQuery
from boxflow_backends.file_store import FileStore
from boxflow_backends.file_store.disk import RealDisk


class HeldDisk(RealDisk):
    """A disk on which the making of one file waits until it is let go."""

    def __init__(self) -> None:
        self.holds: Callable[[Path], bool] = lambda _: False
        self.is_held = threading.Event()
        self.go_on = threading.Event()
        self.made: list[Path] = []

    def create(self, path: Path) -> int:
        if self.holds(path) and not self.is_held.is_set():
            self.is_held.set()
            assert self.go_on.wait(60)
        self.made.append(path)
        return super().create(path)


async def finish(store: FileStore, run_id: str, at: float) -> None:
    await store.create_run(RunRecord(run_id=run_id, workflow="w", created_at=at, start_at=at), Head())
    await go_on(store, run_id, RunStatus.FAILED)


async def go_on(store: FileStore, run_id: str, status: RunStatus) -> None:
    run = await store.get_run(run_id)
    assert run is not None
    seq = run.head.length + 1
    outcome = StepDone(seq=seq, at=1.0, name="s", value=msgspec.Raw(b"1"))
    await store.append(run_id, [outcome], Head(status=status, length=seq), await store.claim(run_id, "me"))


async def lengths(store: FileStore) -> dict[str, int]:
    found = {run.record.run_id: run.head.length for run in await store.find_runs(RunQuery(limit=1000))}
    for run_id, length in found.items():
        assert len(await store.read_journal(run_id)) == length
    return found


def is_archive(path: Path) -> bool:
    return path.parent.name == "archive" and path.suffix == ".jsonl"


async def test_runs_that_come_back_or_go_while_their_archive_is_merged_stay_so(tmp_path: Path) -> None:
    disk = HeldDisk()
    expected = {f"run-{number}": 1 for number in range(8)} | {"resumed": 2, "resumed and over": 2, "made again": 0}
    async with FileStore(tmp_path, disk=disk) as store:
        for number in range(7):
            await finish(store, f"run-{number}", float(number))
            for name in ("resumed", "resumed and over", "deleted", "made again") if number == 3 else ():
                await finish(store, name, 3.5)
            await store.compact()
        assert len(list((tmp_path / "archive").glob("*.jsonl"))) == 7

        await finish(store, "run-7", 7.0)
        disk.holds = is_archive
        compaction = asyncio.create_task(store.compact())
        await asyncio.to_thread(disk.is_held.wait, 60)
        await go_on(store, "resumed", RunStatus.RUNNING)
        await go_on(store, "resumed and over", RunStatus.COMPLETED)
        await store.delete_run("deleted")
        await store.delete_run("made again")
        await store.create_run(RunRecord(run_id="made again", workflow="w", created_at=9.0, start_at=9.0), Head())
        disk.go_on.set()
        await compaction

        assert len(list((tmp_path / "archive").glob("*.jsonl"))) == 1, "the eight have become one"
        assert await lengths(store) == expected
        await store.compact()
        assert await lengths(store) == expected
    for _ in range(2):
        async with FileStore(tmp_path) as store:
            assert await lengths(store) == expected
            await store.compact()
            assert await lengths(store) == expected


async def test_a_store_that_is_closed_in_the_middle_of_dropping_old_runs_drops_them_next_time(tmp_path: Path) -> None:
    now = 1000.0
    async with FileStore(tmp_path, retention_s=None) as store:
        for number in range(300):
            await finish(store, f"run-{number}", 1.0)
            await store.put_blob(f"run-{number}", b"data")
        await store.compact()

    class Halting(RealDisk):
        """Tells when the blobs of the first run have been removed, and goes on when the store is being closed."""

        def remove_directory(self, path: Path) -> None:
            super().remove_directory(path)
            dropping.set()
            assert closing.wait(60)

    dropping, closing = threading.Event(), threading.Event()
    now = 1e12
    store = FileStore(tmp_path, retention_s="1h", now=lambda: now, disk=Halting())
    await store.__aenter__()
    await finish(store, "new", 2.0)
    compaction = asyncio.create_task(store.compact())
    await asyncio.to_thread(dropping.wait, 60)
    leaving = asyncio.create_task(store.__aexit__(None, None, None))
    while store._session is not None:
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    closing.set()
    await asyncio.gather(compaction, leaving, return_exceptions=True)

    async with FileStore(tmp_path, retention_s="1h", now=lambda: now) as store:
        await store.create_run(RunRecord(run_id="newer", workflow="w", created_at=3.0, start_at=3.0), Head())
        await store.compact()
        assert await lengths(store) == {"new": 1, "newer": 0}
        assert list((tmp_path / "blobs").iterdir()) == []


async def test_what_has_piled_up_is_compacted_a_part_at_a_time_until_nothing_is_left(tmp_path: Path) -> None:
    disk = HeldDisk()
    disk.holds = is_archive
    expected = {f"run-{number:03}": 1 for number in range(120)}
    async with FileStore(tmp_path, disk=disk, segment_bytes=1 << 12) as store:
        for position, run_id in enumerate(expected):
            await finish(store, run_id, float(position))
        await asyncio.to_thread(disk.is_held.wait, 60)
        piled_up = len(list((tmp_path / "log").iterdir()))
        assert piled_up > 8
        disk.go_on.set()
        while len(list((tmp_path / "log").iterdir())) > 2:
            await asyncio.sleep(0.01)
        assert await lengths(store) == expected
        archives = [path for path in disk.made if is_archive(path)]
        assert len(archives) >= piled_up // 2
    async with FileStore(tmp_path) as store:
        assert await lengths(store) == expected
