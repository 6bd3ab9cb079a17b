"""What somebody found who set out to break compaction, retention and fences: each lost or doubled something once."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from boxflow.errors import FenceError, StoreClosedError
from boxflow.model import Change, Head, Item, Put, RunRecord, RunStatus, StepDone
from boxflow.ports import Fence, RunQuery
from boxflow_backends.file_store import FileStore
from boxflow_backends.file_store.disk import RealDisk

LATER = 1e9


class HeldDisk(RealDisk):
    """The first call for which *holds* says so waits until it is let go."""

    def __init__(self, holds: Callable[[str, Path], bool]) -> None:
        self._holds = holds
        self.is_held = threading.Event()
        self.go_on = threading.Event()

    async def until_held(self) -> None:
        assert await asyncio.to_thread(self.is_held.wait, 60)

    def create(self, path: Path) -> int:
        self._at("create", path)
        return super().create(path)

    def remove_directory(self, path: Path) -> None:
        self._at("remove_directory", path)
        super().remove_directory(path)

    def _at(self, call: str, path: Path) -> None:
        if not self.is_held.is_set() and self._holds(call, path):
            self.is_held.set()
            assert self.go_on.wait(60)


def at_checkpoint(call: str, path: Path) -> bool:
    return call == "create" and path.parent.name == "checkpoint"


async def start(store: FileStore, run_id: str, at: float = 1.0, payload: bytes = b"null") -> None:
    record = RunRecord(run_id=run_id, workflow="w", created_at=at, start_at=at, payload=msgspec.Raw(payload))
    await store.create_run(record, Head())


async def go_on(
    store: FileStore,
    run_id: str,
    status: RunStatus = RunStatus.COMPLETED,
    *,
    fence: Fence | None = None,
    changes: Sequence[Change] = (),
) -> None:
    run = await store.get_run(run_id)
    assert run is not None
    seq = run.head.length + 1
    fence = fence or await store.claim(run_id, "me")
    await store.append(run_id, [StepDone(seq=seq, at=1.0, name="s")], Head(status=status, length=seq), fence, changes)


async def finish(store: FileStore, run_id: str, at: float = 1.0) -> None:
    await start(store, run_id, at)
    await go_on(store, run_id)


async def ids(store: FileStore) -> list[str]:
    return sorted(run.record.run_id for run in await store.find_runs(RunQuery(limit=1000)))


async def test_part_of_what_an_earlier_owner_left_is_compacted_and_the_rest_still_belongs_to_it(tmp_path: Path) -> None:
    expected = [f"run-{number:02}" for number in range(60)]
    disk = HeldDisk(lambda call, path: call == "create" and path.parent.name != "log")
    store = FileStore(tmp_path / "store", segment_bytes=1 << 12, disk=disk)
    await store.__aenter__()
    for run_id in expected:
        await finish(store, run_id)
    await disk.until_held()
    shutil.copytree(tmp_path / "store", tmp_path / "killed")
    disk.go_on.set()
    await store.__aexit__(None, None, None)
    assert len(list((tmp_path / "killed" / "log").iterdir())) > 4

    archives = 0

    def second_archive(call: str, path: Path) -> bool:
        nonlocal archives
        archives += call == "create" and path.parent.name == "archive" and path.suffix == ".jsonl"
        return archives == 2

    disk = HeldDisk(second_archive)
    store = FileStore(tmp_path / "killed", segment_bytes=1 << 12, disk=disk)
    await store.__aenter__()
    await disk.until_held()
    shutil.copytree(tmp_path / "killed", tmp_path / "killed again")
    async with FileStore.reader(tmp_path / "killed") as reader:
        assert await ids(reader) == expected
    disk.go_on.set()
    await store.__aexit__(None, None, None)
    for path in ("killed", "killed again"):
        async with FileStore(tmp_path / path) as store:
            assert await ids(store) == expected


async def test_closing_waits_for_a_compaction_that_somebody_asked_for(tmp_path: Path) -> None:
    disk = HeldDisk(at_checkpoint)
    store = FileStore(tmp_path, disk=disk)
    await store.__aenter__()
    await finish(store, "a")
    compaction = asyncio.create_task(store.compact())
    await disk.until_held()
    leaving = asyncio.create_task(store.__aexit__(None, None, None))
    await asyncio.wait([leaving], timeout=0.2)
    assert not leaving.done(), "the directory would be somebody else's while we change it"
    disk.go_on.set()
    await leaving
    await asyncio.gather(compaction, return_exceptions=True)
    async with FileStore(tmp_path) as store:
        await finish(store, "b")
    async with FileStore(tmp_path) as store:
        assert await ids(store) == ["a", "b"]


async def test_a_compaction_or_blob_that_comes_after_closing_changes_nothing(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        await finish(store, "a")
        session = store._session
        assert session is not None
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(StoreClosedError):
        session.compact()  # type: ignore[union-attr]  # the owner's
    with pytest.raises(StoreClosedError):
        session.blobs.put("a", b"late")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


async def test_a_reader_that_knows_an_archive_never_reads_another_in_its_place(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        await finish(store, "aa")
        await finish(store, "bbbbb")
        await store.compact()
        async with FileStore.reader(tmp_path) as reader:
            await store.delete_run("aa")
            await store.delete_run("bbbbb")
            await store.compact()
            await finish(store, "other-1")
            await finish(store, "other-2")
            await store.compact()
            assert await ids(reader) == ["other-1", "other-2"]


async def test_a_run_made_again_while_the_old_one_is_dropped_is_the_only_one_after_a_crash(tmp_path: Path) -> None:
    path, crashed = tmp_path / "store", tmp_path / "crashed"
    async with FileStore(path, retention_s=None, now=lambda: 1000.0) as store:
        await finish(store, "again")
        await store.change_items([Put(Item(collection="c", key="of the old one", run_id="again"))])
        await finish(store, "deleted")
        await store.put_blob("deleted", b"data")
        await store.compact()
    disk = HeldDisk(at_checkpoint)
    async with FileStore(path, retention_s="1h", now=lambda: LATER, disk=disk) as store:
        await start(store, "other")
        compaction = asyncio.create_task(store.compact())
        await disk.until_held()
        await start(store, "again", 50.0)
        await go_on(store, "again", changes=[Put(Item(collection="c", key="of the new one", run_id="again"))])
        blob = await store.put_blob("again", b"precious")
        await store.delete_run("deleted")
        shutil.copytree(path, crashed)
        disk.go_on.set()
        await compaction
        assert await ids(store) == ["again", "other"]

    async with FileStore(crashed, retention_s=None, now=lambda: LATER) as store:
        assert await ids(store) == ["again", "other"]
        await store.compact()
    for late_s in (1, 2):
        async with FileStore(crashed, retention_s="1h", now=lambda: LATER + late_s) as store:  # noqa: B023 - called within
            await start(store, f"another-{late_s}")
            await store.compact()
            found = await store.get_run("again")
            assert found is not None and found.record.created_at == 50.0
            assert [item.key for item in await store.list_items("c")] == ["of the new one"]
            assert await store.get_blob("again", blob) == b"precious"


async def test_a_blob_of_a_run_made_again_is_not_removed_with_those_of_the_old_one(tmp_path: Path) -> None:
    async with FileStore(tmp_path, retention_s=None, now=lambda: 1000.0) as store:
        for number in range(5):
            await finish(store, f"run-{number}")
            await store.put_blob(f"run-{number}", b"old")
        await store.compact()
    disk = HeldDisk(lambda call, _: call == "remove_directory")
    async with FileStore(tmp_path, retention_s="1h", now=lambda: LATER, disk=disk) as store:
        await start(store, "other")
        compaction = asyncio.create_task(store.compact())
        await disk.until_held()
        # As an engine does it: a large payload comes first, then the run.
        putting = asyncio.create_task(store.put_blob("run-4", b"new"))
        await asyncio.sleep(0.05)
        disk.go_on.set()
        blob = await putting
        await start(store, "run-4", 50.0)
        await compaction
        assert await store.get_blob("run-4", blob) == b"new"


@pytest.mark.parametrize("payload", [b'"new"', b'"%b"' % (b"n" * 5000)], ids=["small", "large"])
async def test_a_run_made_again_has_its_own_payload(tmp_path: Path, payload: bytes) -> None:
    async with FileStore(tmp_path) as store:
        await start(store, "a", 1.0, b'"old"')
        await store.delete_run("a")
        await start(store, "a", 2.0, payload)
        await go_on(store, "a", RunStatus.RUNNING)
        found = await store.get_run("a")
        assert found is not None and bytes(found.record.payload) == payload and found.record.created_at == 2.0


async def test_the_fence_of_a_dropped_run_is_refused_by_one_made_again_and_archived(tmp_path: Path) -> None:
    now = 1000.0
    async with FileStore(tmp_path, retention_s="1h", now=lambda: now) as store:
        await start(store, "a")
        stale = await store.claim("a", "me")
        await go_on(store, "a", fence=stale)
        await store.compact()
        now = LATER
        await start(store, "other")
        await store.compact()
        assert await store.get_run("a") is None
        record = RunRecord(run_id="a", workflow="w", created_at=2.0, start_at=2.0)
        await store.create_run(record, Head(status=RunStatus.CANCELLED))
        await store.compact()
        with pytest.raises(FenceError):
            await store.append("a", [StepDone(seq=1, at=1.0, name="s")], Head(length=1), stale)
