"""A FileStore remembers the runs of a moment ago, and never says what is not so any more."""

from __future__ import annotations

from pathlib import Path

from boxflow.model import Head, RunRecord, RunStatus, StepDone, Value
from boxflow.ports import Fence, RunQuery
from boxflow_backends.file_store import FileStore, recent


def record(run_id: str, payload: bytes = b"1") -> RunRecord:
    return RunRecord(run_id=run_id, workflow="w", payload=Value(payload), created_at=1.0, start_at=1.0)


def step(seq: int) -> StepDone:
    return StepDone(seq=seq, at=2.0, name="s", occurrence=seq, value=Value(b"1"), blob=None, attempt=1)


async def grow(store: FileStore, run_id: str, fence: Fence, length: int) -> None:
    new = Head(status=RunStatus.RUNNING, length=length, updated_at=2.0)
    await store.append(run_id, [step(length)], new, fence)


def lose_the_files(path: Path) -> None:
    """What is known without reading is known still."""
    for file in path.glob("*/*.jsonl"):
        file.rename(file.with_suffix(".away"))


async def test_what_was_just_written_is_known_without_its_file(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        await store.create_run(record("a"), Head(updated_at=1.0))
        fence = await store.claim("a", "me")
        await grow(store, "a", fence, 1)
        waiting = Head(status=RunStatus.WAITING, length=1, waiting=("event:go",), updated_at=3.0)
        await store.append("a", [], waiting, fence)
        lose_the_files(tmp_path)

        found = await store.get_run("a")
        assert found is not None and found.record == record("a") and found.head == waiting
        assert list(await store.find_runs(RunQuery(waiting_for="event:go"))) == [found]


async def test_a_run_that_was_deleted_is_gone_and_one_of_its_name_is_another(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        await store.create_run(record("a"), Head(updated_at=1.0))
        await store.delete_run("a")
        assert await store.get_run("a") is None

        await store.create_run(record("a", b"2"), Head(updated_at=1.0))
        found = await store.get_run("a")
        assert found is not None and bytes(found.record.payload) == b"2"


async def test_compaction_and_reopening_change_nothing(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        await store.create_run(record("a"), Head(updated_at=1.0))
        fence = await store.claim("a", "me")
        await grow(store, "a", fence, 1)
        before = await store.get_run("a")
        await store.compact()
        assert await store.get_run("a") == before
        await grow(store, "a", fence, 2)
        after = await store.get_run("a")
        assert after is not None and after.head.length == 2
    async with FileStore(tmp_path) as store:
        assert await store.get_run("a") == after


async def test_few_runs_are_held_and_no_large_ones() -> None:
    held = recent.Recent()
    for number in range(3000):
        held.hold(record(f"r{number}"), Head(updated_at=1.0), number)
    assert sum(held.find(f"r{number}", number) is not None for number in range(3000)) == 1024
    assert held.find("r2999", 2998) is None

    held.hold(record("large", b'"' + b"x" * 100_000 + b'"'), Head(updated_at=1.0), 1)
    assert held.find("large", 1) is None
    held.changed("r2999", 2999, Head(status=RunStatus.COMPLETED, result=Value(b"1" * 100_000), updated_at=1.0), 5000)
    assert held.find("r2999", 5000) is None
    assert held.find("r2999", 2999) is None

    held.changed("r2998", 2997, Head(updated_at=2.0), 5000)
    assert held.find("r2998", 5000) is None, "what was held belongs to another of its id"
