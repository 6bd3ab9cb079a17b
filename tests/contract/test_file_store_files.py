"""What a file store does with real files: damage, locks, other formats, other owners, retention."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from boxflow.errors import (
    ConfigurationError,
    RunNotFoundError,
    StoreClosedError,
    StoreCorruptError,
    StoreError,
    StoreFormatError,
    StoreLockedError,
)
from boxflow.model import Head, Item, Put, RunRecord, RunStatus, StepDone
from boxflow.ports import RunQuery
from boxflow_backends.file_store import FileStore


async def start(store: FileStore, run_id: str, *, created_at: float = 1.0) -> None:
    await store.create_run(RunRecord(run_id=run_id, workflow="w", created_at=created_at, start_at=1.0), Head())


async def go_on(
    store: FileStore, run_id: str, steps: int = 1, *, status: RunStatus = RunStatus.RUNNING, at: float = 1.0
) -> None:
    run = await store.get_run(run_id)
    assert run is not None
    fence = await store.claim(run_id, "engine")
    for seq in range(run.head.length + 1, run.head.length + steps + 1):
        head = Head(status=status, length=seq, updated_at=at)
        await store.append(run_id, [StepDone(seq=seq, at=at, name="s", value=msgspec.Raw(b'"text"'))], head, fence)


async def filled(path: Path, *, steps: int = 20) -> None:
    async with FileStore(path) as store:
        await start(store, "a")
        await go_on(store, "a", steps)


async def seqs(store: FileStore, run_id: str) -> list[int]:
    return [outcome.seq for outcome in await store.read_journal(run_id)]


async def ids(store: FileStore, query: RunQuery = RunQuery()) -> list[str]:
    return [run.record.run_id for run in await store.find_runs(query)]


def segments(path: Path) -> list[Path]:
    return sorted((path / "log").iterdir())


def all_bytes(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != "LOCK"}


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


# --- damage ----------------------------------------------------------------------------------------------------------


async def test_a_flipped_byte_is_refused_with_its_file_and_offset_and_nothing_is_changed(tmp_path: Path) -> None:
    await filled(tmp_path)
    (segment,) = segments(tmp_path)
    lines = segment.read_bytes().splitlines(keepends=True)
    offset = sum(map(len, lines[:7]))
    flip(segment, offset + 30)
    before = all_bytes(tmp_path)
    with pytest.raises(StoreCorruptError, match=rf"00000001\.jsonl' is damaged at byte {offset}:.*Nothing was changed"):
        async with FileStore(tmp_path):
            pass
    assert all_bytes(tmp_path) == before


async def test_every_flipped_byte_is_refused_or_was_in_the_unacknowledged_tail(tmp_path: Path) -> None:
    await filled(tmp_path, steps=6)
    (segment,) = segments(tmp_path)
    good = segment.read_bytes()
    last_line = good.rindex(b"\n", 0, len(good) - 1) + 1
    for offset in range(0, last_line, 7):
        flip(segment, offset)
        with pytest.raises(StoreCorruptError):
            async with FileStore(tmp_path, read_only=True):
                pass
        segment.write_bytes(good)


async def test_a_torn_tail_is_cut_off_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await filled(tmp_path, steps=5)
    (segment,) = segments(tmp_path)
    good = segment.read_bytes()
    segment.write_bytes(good + b'{"op":"append","epoch":1,"run":"a","hea')
    with caplog.at_level(logging.WARNING, logger="boxflow.store"):
        async with FileStore(tmp_path) as store:
            assert await seqs(store, "a") == [1, 2, 3, 4, 5]
            await go_on(store, "a")
    assert "dropped torn tail of 39 bytes" in caplog.text
    assert segment.read_bytes() == good
    async with FileStore(tmp_path) as store:
        assert await seqs(store, "a") == [1, 2, 3, 4, 5, 6]


async def test_lines_that_were_doubled_or_taken_out_are_refused(tmp_path: Path) -> None:
    await filled(tmp_path)
    (segment,) = segments(tmp_path)
    lines = segment.read_bytes().splitlines(keepends=True)
    for broken in (lines[:5] + lines[4:], lines[:5] + lines[6:], [*lines[:4], lines[5], lines[4], *lines[6:]]):
        segment.write_bytes(b"".join(broken))
        with pytest.raises(StoreCorruptError):
            async with FileStore(tmp_path):
                pass


@pytest.mark.parametrize("folder", ["log", "checkpoint", "archive"])
async def test_a_missing_file_is_refused(tmp_path: Path, folder: str) -> None:
    async with FileStore(tmp_path) as store:
        await start(store, "a")
        await start(store, "b")
        await go_on(store, "b", status=RunStatus.COMPLETED)
        await store.compact()
        await go_on(store, "a")
    for file in (tmp_path / folder).iterdir():
        file.unlink()
    with pytest.raises(StoreCorruptError, match="missing"):
        async with FileStore(tmp_path):
            pass


async def test_a_segment_missing_in_the_middle_is_named(tmp_path: Path) -> None:
    for _ in range(3):
        async with FileStore(tmp_path) as store:
            await start(store, "a")
    segments(tmp_path)[1].unlink()
    with pytest.raises(StoreCorruptError, match=r"00000002\.jsonl.*missing"):
        async with FileStore(tmp_path):
            pass


async def test_damage_in_an_archived_run_is_found_when_it_is_read(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        await start(store, "a")
        await go_on(store, "a", 3, status=RunStatus.COMPLETED)
        await store.compact()
    (archive,) = (tmp_path / "archive").glob("*.jsonl")
    flip(archive, archive.read_bytes().index(b'"text"') + 2)
    async with FileStore(tmp_path) as store:
        with pytest.raises(StoreCorruptError, match="checksum"):
            await store.read_journal("a")


async def test_a_damaged_blob_is_not_handed_out(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        await start(store, "a")
        blob = await store.put_blob("a", b"x" * 100)
        (file,) = [file for file in (tmp_path / "blobs").rglob("*") if file.is_file()]
        flip(file, 5)
        with pytest.raises(StoreCorruptError, match="damaged"):
            await store.get_blob("a", blob)


async def test_a_newer_format_is_left_to_the_version_that_wrote_it(tmp_path: Path) -> None:
    await filled(tmp_path)
    (segment,) = segments(tmp_path)
    segment.write_bytes(segment.read_bytes().replace(b'"format":1', b'"format":9', 1))
    before = all_bytes(tmp_path)
    with pytest.raises(StoreFormatError, match=r"format 9.*newer version"):
        async with FileStore(tmp_path):
            pass
    assert all_bytes(tmp_path) == before


# --- owners ----------------------------------------------------------------------------------------------------------

OWNER = """
import asyncio, sys
from boxflow_backends.file_store import FileStore
from boxflow.model import Head, RunRecord

async def main():
    async with FileStore(sys.argv[1]) as store:
        number = 0
        while True:
            run_id = f"run-{number}"
            record = RunRecord(run_id=run_id, workflow="w", created_at=float(number), start_at=0.0)
            await store.create_run(record, Head())
            print(run_id, flush=True)
            number += 1
            if number > 3 and len(sys.argv) > 2:
                await asyncio.sleep(600)

asyncio.run(main())
"""


def own_in_another_process(path: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(path), *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


def read_lines(process: subprocess.Popen[str], number: int) -> Sequence[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(number)]


def end(process: subprocess.Popen[str]) -> Sequence[str]:
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate(timeout=30)
    return rest.split("\n")[:-1]


async def test_a_second_process_is_told_who_owns_the_store(tmp_path: Path) -> None:
    owner = own_in_another_process(tmp_path, "idle")
    try:
        read_lines(owner, 4)
        with pytest.raises(StoreLockedError, match=rf"owned by process {owner.pid} \(started \d\d:\d\d\); stop it"):
            async with FileStore(tmp_path):
                pass
        async with FileStore.reader(tmp_path) as reader:
            assert await ids(reader) == ["run-3", "run-2", "run-1", "run-0"]
    finally:
        end(owner)


async def test_a_killed_owner_loses_nothing_that_it_acknowledged_and_its_lock_is_free(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for _ in range(3):
        owner = own_in_another_process(tmp_path)
        acknowledged = [*read_lines(owner, 30), *end(owner)]
        async with FileStore(tmp_path) as store:
            found = set(await ids(store, RunQuery(limit=100_000)))
        assert set(acknowledged) <= found


async def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        await start(store, "a")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    try:
        async with FileStore(tmp_path) as store:
            assert await ids(store) == ["a"]
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)


async def test_a_reader_beside_the_owner_sees_what_was_acknowledged_and_changes_nothing(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as owner:
        await start(owner, "a")
        await go_on(owner, "a", 3)
        before = all_bytes(tmp_path)
        async with FileStore.reader(tmp_path) as reader:
            assert await seqs(reader, "a") == [1, 2, 3]
            with pytest.raises(StoreClosedError, match="reading only"):
                await start(reader, "b")
            with pytest.raises(StoreClosedError, match="reading only"):
                await reader.delete_run("a")
            # What the reader knows may move under it.
            await go_on(owner, "a", 1, status=RunStatus.COMPLETED)
            await owner.compact()
            assert (await seqs(reader, "a"))[:3] == [1, 2, 3]
        assert before.keys() - all_bytes(tmp_path).keys() == {str(tmp_path / "log" / "00000001.jsonl")}


async def test_reading_where_there_is_no_store_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        async with FileStore.reader(tmp_path / "nothing"):
            pass
    assert not (tmp_path / "nothing").exists()


async def test_a_file_in_place_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a directory")
    with pytest.raises(StoreError, match=r"state' could not be opened"):
        async with FileStore(tmp_path / "state"):
            pass


async def test_only_the_owner_of_the_files_can_read_them(tmp_path: Path) -> None:
    async with FileStore(tmp_path / "state") as store:
        await start(store, "a")
        await go_on(store, "a", status=RunStatus.COMPLETED)
        await store.put_blob("a", b"data")
        await store.compact()
        for path in [tmp_path / "state", *(tmp_path / "state").rglob("*")]:
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path


async def test_opening_twice_at_once_is_refused(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        with pytest.raises(StoreError, match="open already"):
            await store.__aenter__()
        with pytest.raises(StoreLockedError):
            async with FileStore(tmp_path):
                pass


async def test_a_cancelled_opening_leaves_the_store_free(tmp_path: Path) -> None:
    await filled(tmp_path)
    opening = asyncio.ensure_future(FileStore(tmp_path).__aenter__())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    async with FileStore(tmp_path) as store:
        assert await ids(store) == ["a"]


def test_settings_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="durability 'never'"):
        FileStore(tmp_path, durability="never")  # type: ignore[arg-type]  # what is refused at runtime too
    with pytest.raises(ConfigurationError):
        FileStore(tmp_path, segment_bytes=0)
    with pytest.raises(ValueError, match="duration"):
        FileStore(tmp_path, retention_s="soon")


# --- form ------------------------------------------------------------------------------------------------------------


async def test_every_line_of_the_log_is_a_json_object(tmp_path: Path) -> None:
    await filled(tmp_path, steps=3)
    (segment,) = segments(tmp_path)
    lines = [json.loads(line) for line in segment.read_text().splitlines()]
    assert [line["op"] for line in lines] == ["log", "create", "append", "append", "append", "close"]
    assert lines[2]["outcomes"][0]["value"] == "text"
    assert {line["epoch"] for line in lines} == {1}


async def test_each_opening_has_a_later_epoch(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        await filled(tmp_path, steps=0)
        assert json.loads(segments(tmp_path)[-1].read_text().splitlines()[0])["epoch"] == epoch


# --- compaction and retention ----------------------------------------------------------------------------------------


async def test_finished_runs_are_found_the_same_before_and_after_compaction(tmp_path: Path) -> None:
    statuses = [RunStatus.COMPLETED, RunStatus.RUNNING, RunStatus.FAILED]
    queries = [
        RunQuery(),
        RunQuery(statuses=frozenset({RunStatus.COMPLETED})),
        RunQuery(statuses=frozenset({RunStatus.FAILED, RunStatus.RUNNING})),
        RunQuery(workflow="w", limit=7),
        RunQuery(after="run-20", limit=5),
        RunQuery(after="run-21", limit=5),
    ]
    async with FileStore(tmp_path) as store:
        for number in range(40):
            await start(store, f"run-{number}", created_at=float(number // 3))
            await go_on(store, f"run-{number}", 2, status=statuses[number % 3])
            if number % 15 == 0:
                await store.compact()
        expected = [await ids(store, query) for query in queries]
        for _ in range(2):
            await store.compact()
            assert [await ids(store, query) for query in queries] == expected
            for number in range(40):
                assert await seqs(store, f"run-{number}") == [1, 2]
    async with FileStore(tmp_path) as store:
        assert [await ids(store, query) for query in queries] == expected


async def test_an_archived_run_is_resumed_deleted_and_made_again(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        for run_id in ("resumed", "deleted", "made again"):
            await start(store, run_id)
            await go_on(store, run_id, 2, status=RunStatus.FAILED)
        await store.compact()
        await go_on(store, "resumed")
        await store.delete_run("deleted")
        await store.delete_run("made again")
        await start(store, "made again")

    for _ in range(3):
        async with FileStore(tmp_path) as store:
            assert sorted(await ids(store)) == ["made again", "resumed"]
            assert await seqs(store, "resumed") == [1, 2, 3]
            assert await seqs(store, "made again") == []
            assert await store.get_run("deleted") is None
            await store.compact()
            assert sorted(await ids(store)) == ["made again", "resumed"]
            assert await seqs(store, "resumed") == [1, 2, 3]


async def test_creating_an_archived_run_again_returns_it(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        await start(store, "a")
        await go_on(store, "a", 2, status=RunStatus.COMPLETED)
        await store.compact()
        again = await store.create_run(RunRecord(run_id="a", workflow="x", created_at=5.0, start_at=5.0), Head())
        assert again.record.workflow == "w" and again.head.length == 2


async def test_finished_runs_are_dropped_after_their_retention_with_items_and_blobs(tmp_path: Path) -> None:
    now = 1000.0
    store = FileStore(tmp_path, retention_s="1h", now=lambda: now)
    async with store:
        for run_id, at in (("old", 1000.0), ("young", 4000.0), ("waits", 4500.0)):
            await start(store, run_id)
            await store.change_items([Put(Item(collection="c", key=run_id, run_id=run_id))])
            await store.put_blob(run_id, b"data")
            status = RunStatus.WAITING if run_id == "waits" else RunStatus.COMPLETED
            await go_on(store, run_id, status=status, at=at)
            now = at
            await store.compact()
        assert sorted(await ids(store)) == ["old", "waits", "young"]
        now = 4601.0
        await store.compact()
        assert sorted(await ids(store)) == ["waits", "young"]
        assert [item.key for item in await store.list_items("c")] == ["waits", "young"]
        with pytest.raises(RunNotFoundError):
            await store.read_journal("old")
        assert len(list((tmp_path / "blobs").iterdir())) == 2
    async with FileStore(tmp_path, retention_s="1h", now=lambda: now) as store:
        assert sorted(await ids(store)) == ["waits", "young"]


async def test_many_small_archives_become_few(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        for number in range(30):
            await start(store, f"run-{number:02}", created_at=float(number))
            await go_on(store, f"run-{number:02}", status=RunStatus.COMPLETED)
            await store.compact()
        assert len(list((tmp_path / "archive").glob("*.jsonl"))) < 16
        assert await ids(store) == [f"run-{number:02}" for number in reversed(range(30))]
        await store.delete_run("run-07")
        await go_on(store, "run-08")
        for number in range(30, 45):
            await start(store, f"run-{number:02}", created_at=float(number))
            await go_on(store, f"run-{number:02}", status=RunStatus.COMPLETED)
            await store.compact()
        assert await ids(store) == [f"run-{number:02}" for number in reversed(range(45)) if number != 7]
        assert await seqs(store, "run-08") == [1, 2]


async def test_opening_reads_nothing_of_what_is_archived(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        for number in range(50):
            await start(store, f"run-{number}")
            await go_on(store, f"run-{number}", status=RunStatus.COMPLETED)
        await store.compact()
    left_bytes = sum(file.stat().st_size for folder in ("log", "checkpoint") for file in (tmp_path / folder).iterdir())
    assert left_bytes < 1000


async def test_work_goes_on_while_segments_are_compacted(tmp_path: Path) -> None:
    """Appends, reads, listings and deletions, all at once, with a compaction after every few records."""

    async def live(store: FileStore, number: int) -> None:
        run_id = f"run-{number}"
        await start(store, run_id)
        for steps in range(1, 16):
            status = RunStatus.COMPLETED if steps % 3 == 0 else RunStatus.RUNNING
            await go_on(store, run_id, status=status)
            assert await seqs(store, run_id) == list(range(1, steps + 1))
            assert (await ids(store)).count(run_id) == 1
        if number % 4 == 0:
            await store.delete_run(run_id)
            assert await store.get_run(run_id) is None

    expected = sorted(f"run-{number}" for number in range(20) if number % 4)
    async with FileStore(tmp_path, durability="os", segment_bytes=2000) as store:
        await asyncio.gather(*(live(store, number) for number in range(20)))
        assert sorted(await ids(store)) == expected
    async with FileStore(tmp_path) as store:
        assert sorted(await ids(store)) == expected
        for run_id in expected:
            assert await seqs(store, run_id) == list(range(1, 16))
