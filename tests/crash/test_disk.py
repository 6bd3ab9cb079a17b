"""Whatever the disk does, an opened store has what was acknowledged, and a beginning of what was asked for.

Every scenario is run again and again, each time cut one call to the disk later, or with one call later failing. What is
then found must be the state after some first part of the operations, and that part must contain all that returned.
"""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Awaitable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxflow.errors import StoreError, StoreFailedError
from boxflow.model import Blob, Change, Delete, Head, Item, Put, RunRecord, RunStatus, StepDone
from boxflow.ports import Fence, RunQuery
from boxflow_backends.file_store import FileStore
from tests.crash.simulated_disk import Fault, Loss, SimulatedDisk

ROOT = Path("/disk/state")
LOSSES: tuple[Loss, ...] = ("all", "nothing", "last write torn")

Content: TypeAlias = dict[str, Any]


# --- what is asked of the store, and what should then be there --------------------------------------------------------


@attrs.frozen
class Create:
    run_id: str

    def change(self, content: Content) -> None:
        content["runs"].setdefault(self.run_id, {"status": "pending", "journal": []})


@attrs.frozen
class Append:
    run_id: str
    outcomes: int = 1
    status: RunStatus = RunStatus.RUNNING
    item: str | None = None

    def change(self, content: Content) -> None:
        run = content["runs"].get(self.run_id)
        if run is None:
            return
        run["status"] = self.status.value
        run["journal"] += range(len(run["journal"]) + 1, len(run["journal"]) + self.outcomes + 1)
        if self.item is not None:
            content["items"][self.item] = self.run_id


@attrs.frozen
class Remove:
    run_id: str

    def change(self, content: Content) -> None:
        content["runs"].pop(self.run_id, None)
        content["items"] = {key: run_id for key, run_id in content["items"].items() if run_id != self.run_id}


@attrs.frozen
class ChangeItems:
    put: str
    delete: str

    def change(self, content: Content) -> None:
        content["items"].pop(self.delete, None)
        content["items"][self.put] = None


@attrs.frozen
class PutBlob:
    run_id: str
    data: bytes

    def change(self, content: Content) -> None:
        """Blobs are looked at by themselves: they are in no order with the log."""


@attrs.frozen
class Compact:
    def change(self, content: Content) -> None:
        """Compaction changes no content."""


@attrs.frozen
class Reopen:
    def change(self, content: Content) -> None:
        """Nor does closing and opening."""


Operation: TypeAlias = Create | Append | Remove | ChangeItems | PutBlob | Compact | Reopen


def expected(operations: Sequence[Operation]) -> Content:
    content: Content = {"runs": {}, "items": {}}
    for operation in operations:
        operation.change(content)
    return content


async def found(store: FileStore) -> Content:
    runs: Content = {}
    for run in await store.find_runs(RunQuery(limit=10_000)):
        run_id = run.record.run_id
        assert run_id not in runs, "a run is listed once"
        journal = [outcome.seq for outcome in await store.read_journal(run_id)]
        assert len(journal) == run.head.length, "head and journal belong together"
        single = await store.get_run(run_id)
        assert single is not None and single.head.status == run.head.status
        runs[run_id] = {"status": run.head.status.value, "journal": journal}
    return {"runs": runs, "items": {item.key: item.run_id for item in await store.list_items("c")}}


# --- running a scenario ----------------------------------------------------------------------------------------------


@attrs.define
class Played:
    """How far a scenario came: operations in the order of their calls, which returned, and which blobs are owed."""

    called: list[Operation] = attrs.field(factory=list["Operation"])
    returned: int = 0
    blobs: dict[tuple[str, Blob], bytes] = attrs.field(factory=dict[tuple[str, Blob], bytes])


def file_store(disk: SimulatedDisk) -> FileStore:
    # Small segments, so that they end in the middle of everything.
    return FileStore(ROOT, disk=disk, segment_bytes=700, retention_s=None)


async def play(disk: SimulatedDisk, groups: Sequence[Sequence[Operation]]) -> Played:
    """Do each group's operations at once, one group after the other, until the end or the first failure."""
    played = Played()
    store = file_store(disk)
    try:
        await store.__aenter__()
        try:
            for group in groups:
                if isinstance(group[0], Reopen):
                    await store.__aexit__(None, None, None)
                    store = file_store(disk)
                    await store.__aenter__()
                    played.called.append(group[0])
                    played.returned = len(played.called)
                    continue
                await play_group(store, group, played)
        finally:
            await store.__aexit__(None, None, None)
    except StoreError:
        # The disk has failed; what counts is what is on it.
        return played
    return played


async def play_group(store: FileStore, group: Sequence[Operation], played: Played) -> None:
    calls: list[Awaitable[object]] = []
    before = len(played.called)
    try:
        for operation in group:
            call = await prepared(store, operation, expected(played.called), played)
            played.called.append(operation)
            if call is not None:
                calls.append(call)
                # Begun in this order: the first step of each call decides its place in the log.
                await asyncio.sleep(0)
    finally:
        results = await asyncio.gather(*calls, return_exceptions=True)
    failed = [result for result in results if isinstance(result, BaseException)]
    if not failed:
        played.returned = len(played.called)
        return
    # Which of a group returned is not told apart; all before the group did.
    played.returned = before
    raise failed[0]


async def prepared(
    store: FileStore, operation: Operation, content: Content, played: Played
) -> Awaitable[object] | None:
    match operation:
        case Create(run_id):
            record = RunRecord(run_id=run_id, workflow="w", created_at=float(len(run_id)), start_at=0.0)
            return asyncio.ensure_future(store.create_run(record, Head()))
        case Append(run_id, outcomes, status, item):
            run = content["runs"].get(run_id)
            if run is None:
                return None
            fence = await store.claim(run_id, "engine")
            length = len(run["journal"])
            done = [
                StepDone(seq=length + 1 + n, at=1.0, name="s", value=msgspec.Raw(b'"some text"'))
                for n in range(outcomes)
            ]
            changes: list[Change] = [] if item is None else [Put(Item(collection="c", key=item, run_id=run_id))]
            head = Head(status=status, length=length + outcomes)
            return asyncio.ensure_future(store.append(run_id, done, head, fence, changes))
        case Remove(run_id):
            for key in [key for key in played.blobs if key[0] == run_id]:
                del played.blobs[key]
            return asyncio.ensure_future(store.delete_run(run_id))
        case ChangeItems(added, removed):
            return asyncio.ensure_future(
                store.change_items([Delete("c", removed), Put(Item(collection="c", key=added))])
            )
        case PutBlob(run_id, data):
            if run_id not in content["runs"]:
                return None

            async def put_blob() -> None:
                played.blobs[run_id, await store.put_blob(run_id, data)] = data

            return asyncio.ensure_future(put_blob())
        case Compact():
            return asyncio.ensure_future(store.compact())
        case Reopen():
            return None


async def check(disk: SimulatedDisk, played: Played) -> None:
    """Open the disk, and find a beginning of what was called that has all that returned. Then go on working."""
    async with file_store(disk) as store:
        content = await found(store)
        allowed = [expected(played.called[:length]) for length in range(played.returned, len(played.called) + 1)]
        assert content in allowed, (
            f"found {json.dumps(content)}\nafter {played.called[: played.returned]} returned\n"
            f"and {played.called[played.returned :]} were called"
        )
        for (run_id, blob), data in played.blobs.items():
            if run_id in content["runs"]:
                assert await store.get_blob(run_id, blob) == data
        for run_id, run in content["runs"].items():
            fence = await store.claim(run_id, "engine")
            length = len(run["journal"]) + 1
            await store.append(run_id, [StepDone(seq=length, at=1.0, name="s")], Head(length=length), fence)
            run["status"] = "pending"
            run["journal"].append(length)
    async with file_store(disk) as store:
        assert await found(store) == content


async def number_of_calls(groups: Sequence[Sequence[Operation]]) -> int:
    disk = SimulatedDisk()
    played = await play(disk, groups)
    assert played.returned == len(played.called)
    await check(disk, played)
    return disk.calls


async def cut_everywhere(groups: Sequence[Sequence[Operation]], *, seeds: int, begin: int = 1, step: int = 1) -> None:
    for cut_after in range(begin, await number_of_calls(groups) + 1, step):
        disk = SimulatedDisk(cut_after=cut_after)
        played = await play(disk, groups)
        for loss in LOSSES:
            await check(disk.after_power_loss(loss), played)
        for seed in range(seeds):
            await check(disk.after_power_loss("random", seed), played)


#: Every third call, from the first, the second and the third on, is every call.
THOROUGH = pytest.mark.thorough

SCRIPT: list[list[Operation]] = [
    [Create("a")],
    [Create("bb"), Create("ccc")],
    [Append("a", item="k1"), Append("bb", 2), Append("ccc", status=RunStatus.WAITING)],
    [PutBlob("a", b"blob of a"), Append("a", 3)],
    [Append("bb", 1, RunStatus.COMPLETED, "k2"), ChangeItems("k3", "k1")],
    [Compact()],
    [Append("a", 2), Append("ccc", 0, RunStatus.FAILED), Create("dddd")],
    [Compact()],
    [Append("ccc", 1, RunStatus.RUNNING, "k4"), PutBlob("bb", b"blob of bb")],
    [Reopen()],
    [Append("a", 1), Append("dddd", 1, RunStatus.CANCELLED)],
    [Remove("bb")],
    [Append("ccc", 1, RunStatus.COMPLETED)],
    [Compact()],
    [Create("bb"), Append("a", 1, RunStatus.COMPLETED)],
    [Remove("dddd")],
    [Compact()],
    [Reopen()],
    [Append("bb", 1)],
]


@pytest.mark.parametrize("begin", [1, *(pytest.param(begin, marks=THOROUGH) for begin in (2, 3))])
async def test_a_power_cut_at_any_call_loses_nothing_that_was_acknowledged(begin: int) -> None:
    await cut_everywhere(SCRIPT, seeds=2, begin=begin, step=3)


async def test_a_power_cut_during_recovery_loses_nothing_either() -> None:
    calls = await number_of_calls(SCRIPT)
    for cut_after in range(5, calls, max(calls // 12, 1)):
        broken = SimulatedDisk(cut_after=cut_after)
        played = await play(broken, SCRIPT)
        for again_after in count(1):
            disk = broken.after_power_loss("random", cut_after)
            second = disk.after_power_loss("nothing")
            second.cut_after(again_after)
            reached_the_end = not await fails_to_open(second)
            for loss in LOSSES:
                await check(second.after_power_loss(loss), played)
            if reached_the_end:
                break


async def fails_to_open(disk: SimulatedDisk) -> bool:
    try:
        async with file_store(disk):
            return False
    except StoreError:
        return True


@pytest.mark.parametrize("begin", [1, *(pytest.param(begin, marks=THOROUGH) for begin in (2, 3))])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, None], ids=["EIO", "ENOSPC", "short write"])
async def test_any_failing_call_loses_nothing_that_was_acknowledged(code: int | None, begin: int) -> None:
    for at in count(begin, 3):
        fault = Fault(at, code)
        disk = SimulatedDisk(fault=fault)
        played = await play(disk, SCRIPT)
        if not fault.fired:
            assert at > 50
            return
        after_power_loss = disk.after_power_loss("all")
        await check(disk.after_process_death(), played)
        await check(after_power_loss, played)


async def test_what_was_read_back_after_a_failed_sync_survives_the_next_power_cut() -> None:
    """The pages of a failed sync look clean: opening must write them again, not only sync them again."""
    calls = await number_of_calls(SCRIPT)
    for at in range(1, calls, 2):
        disk = SimulatedDisk(fault=Fault(at, errno.EIO))
        played = await play(disk, SCRIPT)
        survivor = disk.after_process_death()
        async with file_store(survivor) as store:
            content = await found(store)
            await store.change_items([Put(Item(collection="c", key="after"))])
        content["items"]["after"] = None
        async with file_store(survivor.after_power_loss("all")) as store:
            assert await found(store) == content, f"call {at} failed; {played.called[: played.returned]} returned"


async def test_after_a_failed_sync_every_change_says_to_open_the_store_again() -> None:
    async with FileStore(ROOT, disk=SimulatedDisk()) as store:
        await store.create_run(RunRecord(run_id="a", workflow="w", created_at=1.0, start_at=1.0), Head())
    disk = SimulatedDisk()
    store = FileStore(ROOT, disk=disk)
    await store.__aenter__()
    await store.create_run(RunRecord(run_id="a", workflow="w", created_at=1.0, start_at=1.0), Head())
    fence = await store.claim("a", "engine")
    disk.fail_next(errno.EIO)
    with pytest.raises(StoreFailedError, match="open the store again"):
        await store.append("a", [StepDone(seq=1, at=1.0, name="s")], Head(length=1), fence)
    calls = disk.calls
    for change in (
        store.append("a", [StepDone(seq=2, at=1.0, name="s")], Head(length=2), fence),
        store.create_run(RunRecord(run_id="b", workflow="w", created_at=1.0, start_at=1.0), Head()),
        store.change_items([Put(Item(collection="c", key="k"))]),
        store.put_blob("a", b"data"),
        store.delete_run("a"),
        store.claim("a", "engine"),
    ):
        with pytest.raises(StoreFailedError, match="open the store again"):
            await change
    assert disk.calls == calls, "nothing is tried again on a disk that failed"
    await store.__aexit__(None, None, None)


async def test_a_full_disk_is_named_and_refuses_all_who_wait() -> None:
    disk = SimulatedDisk()
    store = FileStore(ROOT, disk=disk)
    async with store:
        fences: list[Fence] = []
        for number in range(10):
            record = RunRecord(run_id=f"r{number}", workflow="w", created_at=1.0, start_at=1.0)
            await store.create_run(record, Head())
            fences.append(await store.claim(record.run_id, "engine"))
        disk.fail_next(errno.ENOSPC)
        results = await asyncio.gather(
            *(
                store.append(f"r{number}", [StepDone(seq=1, at=1.0, name="s")], Head(length=1), fence)
                for number, fence in enumerate(fences)
            ),
            return_exceptions=True,
        )
        assert all(isinstance(result, StoreFailedError) for result in results)
        assert all("no space left" in str(result) for result in results)
    async with FileStore(ROOT, disk=disk.after_power_loss("all")) as store:
        assert all(run.head.length == 0 for run in await store.find_runs(RunQuery()))


async def test_a_directory_that_cannot_be_written_is_named_at_once() -> None:
    for code in (errno.EROFS, errno.EACCES):
        with pytest.raises(StoreError, match=r"'/disk/state' could not be opened"):
            async with FileStore(ROOT, disk=SimulatedDisk(fault=Fault(1, code))):
                pass


OPERATIONS = st.one_of(
    st.builds(Create, st.sampled_from(["a", "bb", "ccc"])),
    st.builds(
        Append,
        st.sampled_from(["a", "bb", "ccc"]),
        st.integers(0, 3),
        st.sampled_from([RunStatus.RUNNING, RunStatus.WAITING, RunStatus.COMPLETED, RunStatus.FAILED]),
        st.sampled_from([None, "k1", "k2"]),
    ),
    st.builds(Remove, st.sampled_from(["a", "bb", "ccc"])),
    st.builds(ChangeItems, st.sampled_from(["k1", "k3"]), st.sampled_from(["k1", "k2"])),
    st.builds(PutBlob, st.sampled_from(["a", "bb", "ccc"]), st.sampled_from([b"x", b"yy"])),
)
GROUPS = st.lists(
    st.one_of(
        st.lists(OPERATIONS, min_size=1, max_size=1),
        st.just([Compact()]),
        st.just([Reopen()]),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(groups=GROUPS, cut=st.floats(0, 1), seed=st.integers(0, 1000))
def test_any_history_survives_a_power_cut_anywhere(groups: list[list[Operation]], cut: float, seed: int) -> None:
    async def survives() -> None:
        calls = await number_of_calls(groups)
        disk = SimulatedDisk(cut_after=int(cut * calls))
        played = await play(disk, groups)
        for loss in LOSSES:
            await check(disk.after_power_loss(loss), played)
        for further in range(6):
            await check(disk.after_power_loss("random", seed + further), played)

    asyncio.run(survives())
