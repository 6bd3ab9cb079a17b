"""What every store must do, as tests: subclass `StoreContract` beside your backend and run it with pytest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

import msgspec
import pytest

from boxflow.errors import FenceError, RunNotFoundError, StoreClosedError, StoreCorruptError, StoreError
from boxflow.model import (
    Blob,
    CancelAsked,
    Change,
    ChildEnded,
    Delete,
    EventArrived,
    Failure,
    Head,
    Item,
    Outcome,
    Put,
    RunRecord,
    RunResumed,
    RunStatus,
    StepDone,
    StepFailed,
    TimerFired,
)
from boxflow.ports import Fence, RunQuery, Store, StoredRun

_DRIVEN = frozenset(status for status in RunStatus if status.is_driven)


class StoreContract:
    """The duties of a store, one test each.

        class TestMyStore(StoreContract):
            durable = True

            def make_store(self) -> Store:
                return MyStore(fresh_place())

            def make_again(self, store: Store) -> Store:
                return MyStore(store.place)

    The tests are coroutines: run them with anyio's or pytest-asyncio's plugin, or a hook of your own.

    :cvar durable: what was acknowledged is still there when another process opens the store
    """

    durable: ClassVar[bool] = False

    def make_store(self) -> Store:
        """A store that is empty and not open yet."""
        raise NotImplementedError("a subclass of StoreContract says how its store is made")

    def make_again(self, store: Store) -> Store:
        """A store over the same data as *store*, which was closed. It may be the same object."""
        return store

    # --- creating ------------------------------------------------------------------------------------------------

    async def test_a_run_that_was_created_is_found_as_it_was_given(self) -> None:
        """`create_run` keeps every field of the record and the head."""
        record = _record(
            "a",
            version="2",
            payload=msgspec.Raw(b'{"x":[1,null,"\xc3\xa4\\n"]}'),
            payload_blob=Blob("f" * 64, 5),
            labels=("red", "blue"),
            start_at=12.5,
            parent="p",
        )
        head = Head(status=RunStatus.WAITING, waiting=("event:e", "mail:a"), due=20.25, updated_at=3.0)
        async with self.make_store() as store:
            created = await store.create_run(record, head)
            assert _same(created, StoredRun(record=record, head=head))
            assert _same(await store.get_run("a"), StoredRun(record=record, head=head))

    async def test_creating_a_run_twice_returns_the_first_untouched(self) -> None:
        """`create_run` is idempotent by id."""
        async with self.make_store() as store:
            await store.create_run(_record("a", payload=msgspec.Raw(b"1")), Head())
            fence = await store.claim("a", "engine")
            await store.append("a", [_done(1)], Head(status=RunStatus.RUNNING, length=1), fence)
            again = await store.create_run(_record("a", payload=msgspec.Raw(b"2")), Head(), [_put("c", "k")])
            assert bytes(again.record.payload) == b"1"
            assert again.head.length == 1
            assert await store.get_item("c", "k") is None, "changes of a run that was there already are not applied"
            assert len(await store.read_journal("a")) == 1

    async def test_of_many_who_create_the_same_run_all_get_the_same_one(self) -> None:
        """`create_run` is idempotent under concurrency too."""
        async with self.make_store() as store:
            payloads = [msgspec.Raw(b"%d" % number) for number in range(20)]
            stored = await asyncio.gather(
                *(store.create_run(_record("a", payload=payload), Head()) for payload in payloads)
            )
            assert len({bytes(one.record.payload) for one in stored}) == 1
            assert len(await store.find_runs(RunQuery())) == 1

    async def test_creating_applies_its_changes(self) -> None:
        """`create_run` and its changes are one."""
        async with self.make_store() as store:
            await store.create_run(_record("a"), Head(), [_put("c", "k", b"7")])
            assert _value(await store.get_item("c", "k")) == b"7"

    async def test_an_unknown_run_is_none(self) -> None:
        """`get_run` answers None rather than raising."""
        async with self.make_store() as store:
            assert await store.get_run("nobody") is None

    async def test_ids_are_any_text(self) -> None:
        """Ids with slashes, dots, spaces, quotes and letters of any script do not collide or escape."""
        ids = ["a/b", "a_b", "../x", "ä b\"'\\", "-", "a\nb", "x" * 300]
        async with self.make_store() as store:
            for run_id in ids:
                await store.create_run(_record(run_id), Head())
                blob = await store.put_blob(run_id, run_id.encode())
                assert await store.get_blob(run_id, blob) == run_id.encode()
            assert {run.record.run_id for run in await store.find_runs(RunQuery())} == set(ids)

    # --- appending -----------------------------------------------------------------------------------------------

    async def test_outcomes_are_read_as_they_were_appended(self) -> None:
        """Every kind of outcome comes back equal, in order."""
        outcomes: list[Outcome] = [
            StepDone(seq=1, at=1.0, name="s", value=msgspec.Raw(b'{"a": [1,2]}'), attempt=3),
            StepFailed(seq=2, at=1.5, name="s", occurrence=2, error=Failure(type="E", message="m", traceback="t")),
            TimerFired(seq=3, at=2.0, name="t", due=1.75),
            EventArrived(seq=4, at=2.0, name="e", event_id="x", value=msgspec.Raw(b'"\xe2\x82\xac"'), source="src"),
            ChildEnded(seq=5, at=3.0, name="c", run_id="a/c", status="failed", error=Failure(type="E", message="")),
            CancelAsked(seq=6, at=3.0, reason="why"),
            RunResumed(seq=7, at=4.0, dropped=(2, 5), accept_divergence=True),
        ]
        async with self.make_store() as store:
            fence = await _started(store, "a")
            await store.append("a", outcomes[:1], Head(length=1), fence)
            await store.append("a", outcomes[1:5], Head(length=5), fence)
            await store.append("a", outcomes[5:], Head(length=7), fence)
            assert _plain(await store.read_journal("a")) == _plain(outcomes)

    async def test_an_append_replaces_the_head(self) -> None:
        """`get_run` after a returned append sees its head, and the record as it was."""
        head = Head(
            status=RunStatus.FAILED,
            length=1,
            error=Failure(type="E", message="m"),
            result=msgspec.Raw(b"[1]"),
            reason="r",
            timed_out=True,
            body_ended=1,
            causes=(1,),
            updated_at=9.0,
        )
        async with self.make_store() as store:
            fence = await _started(store, "a")
            await store.append("a", [_done(1)], head, fence)
            assert _same(await store.get_run("a"), StoredRun(record=_record("a"), head=head))

    async def test_an_append_without_outcomes_changes_only_the_head(self) -> None:
        """Heads change without the journal growing."""
        async with self.make_store() as store:
            fence = await _started(store, "a")
            await store.append("a", [_done(1)], Head(length=1), fence)
            await store.append("a", [], Head(status=RunStatus.WAITING, length=1, waiting=("event:e",)), fence)
            run = await store.get_run("a")
            assert run is not None and run.head.status is RunStatus.WAITING
            assert len(await store.read_journal("a")) == 1

    async def test_an_append_applies_its_changes(self) -> None:
        """`append` and its changes are one."""
        async with self.make_store() as store:
            fence = await _started(store, "a")
            await store.change_items([_put("c", "old")])
            await store.append("a", [_done(1)], Head(length=1), fence, [_put("c", "new"), Delete("c", "old")])
            assert [item.key for item in await store.list_items("c")] == ["new"]

    async def test_appends_of_one_run_are_applied_in_the_order_of_the_calls(self) -> None:
        """Also when the second is called before the first has returned."""
        async with self.make_store() as store:
            fence = await _started(store, "a")
            await asyncio.gather(
                *(store.append("a", [_done(seq)], Head(length=seq), fence) for seq in range(1, 51)),
            )
            assert [outcome.seq for outcome in await store.read_journal("a")] == list(range(1, 51))

    async def test_runs_do_not_see_each_others_outcomes(self) -> None:
        """Journals of runs that append at the same time stay apart."""
        async with self.make_store() as store:

            async def fill(run_id: str) -> None:
                fence = await _started(store, run_id)
                for seq in range(1, 11):
                    await store.append(run_id, [_done(seq, name=run_id)], Head(length=seq), fence)

            ids = [f"run-{number}" for number in range(20)]
            await asyncio.gather(*(fill(run_id) for run_id in ids))
            for run_id in ids:
                journal = await store.read_journal(run_id)
                assert [(outcome.seq, outcome.name) for outcome in journal] == [(seq, run_id) for seq in range(1, 11)]

    async def test_outcomes_that_do_not_continue_the_journal_are_refused(self) -> None:
        """A gap or a repetition is a bug of the caller, and changes nothing."""
        async with self.make_store() as store:
            fence = await _started(store, "a")
            await store.append("a", [_done(1)], Head(length=1), fence)
            for outcomes, length in (([_done(3)], 3), ([_done(1)], 1), ([_done(2)], 5)):
                with pytest.raises(StoreError):
                    await store.append("a", outcomes, Head(length=length), fence, [_put("c", "k")])
            assert [outcome.seq for outcome in await store.read_journal("a")] == [1]
            assert await store.get_item("c", "k") is None

    async def test_appending_to_an_unknown_run_is_refused(self) -> None:
        """`append` creates nothing, and none of its changes happen."""
        async with self.make_store() as store:
            fence = await _started(store, "a")
            with pytest.raises(RunNotFoundError):
                await store.append("nobody", [_done(1)], Head(length=1), fence, [_put("c", "k")])
            assert await store.get_run("nobody") is None
            assert await store.get_item("c", "k") is None

    async def test_a_cancelled_append_happened_whole_or_not_at_all(self) -> None:
        """Journal, head and changes of a cancelled append agree."""
        async with self.make_store() as store:
            for number in range(20):
                run_id = f"run-{number}"
                fence = await _started(store, run_id)
                head = Head(length=1, status=RunStatus.RUNNING)
                task = asyncio.ensure_future(store.append(run_id, [_done(1)], head, fence, [_put("c", run_id)]))
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                run = await store.get_run(run_id)
                assert run is not None
                happened = run.head.length == 1
                assert (run.head.status is RunStatus.RUNNING) is happened
                assert len(await store.read_journal(run_id)) == run.head.length
                assert (await store.get_item("c", run_id) is not None) is happened

    async def test_after_a_cancelled_append_the_run_goes_on(self) -> None:
        """Whichever way a cancelled append ended, the store says from where to continue."""
        async with self.make_store() as store:
            fence = await _started(store, "a")
            task = asyncio.ensure_future(store.append("a", [_done(1)], Head(length=1), fence))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            run = await store.get_run("a")
            assert run is not None
            seq = run.head.length + 1
            await store.append("a", [_done(seq)], Head(length=seq), fence)
            assert [outcome.seq for outcome in await store.read_journal("a")] == list(range(1, seq + 1))

    async def test_values_with_line_breaks_come_back_with_the_same_meaning(self) -> None:
        """A value is JSON, however it is laid out."""
        value = msgspec.Raw(b'{\n  "a": [1,\r\n 2],\n  "b": "x\\ny"\n}')
        async with self.make_store() as store:
            fence = await _started(store, "a")
            await store.append("a", [StepDone(seq=1, at=1.0, name="s", value=value)], Head(length=1), fence)
            (outcome,) = await store.read_journal("a")
            assert isinstance(outcome, StepDone)
            assert outcome.data == {"a": [1, 2], "b": "x\ny"}

    async def test_large_values_come_back_whole(self) -> None:
        """A value far larger than any buffer."""
        value = msgspec.Raw(b'"' + b"x" * 3_000_000 + b'"')
        async with self.make_store() as store:
            fence = await _started(store, "a")
            await store.append("a", [StepDone(seq=1, at=1.0, name="s", value=value)], Head(length=1), fence)
            await store.append("a", [_done(2)], Head(length=2), fence)
            first, _ = await store.read_journal("a")
            assert isinstance(first, StepDone) and bytes(first.value) == bytes(value)

    # --- fences --------------------------------------------------------------------------------------------------

    async def test_a_later_claim_has_a_larger_token(self) -> None:
        """Tokens of one run grow."""
        async with self.make_store() as store:
            first = await _started(store, "a")
            second = await store.claim("a", "other")
            assert second.token > first.token

    async def test_a_stale_fence_is_refused_and_changes_nothing(self) -> None:
        """An owner that was replaced cannot write."""
        async with self.make_store() as store:
            stale = await _started(store, "a")
            fence = await store.claim("a", "other")
            with pytest.raises(FenceError):
                await store.append("a", [_done(1)], Head(length=1), stale, [_put("c", "k")])
            assert await store.read_journal("a") == []
            assert await store.get_item("c", "k") is None
            await store.append("a", [_done(1)], Head(length=1), fence)

    async def test_the_fence_of_another_run_is_refused(self) -> None:
        """A fence is good for one run."""
        async with self.make_store() as store:
            await _started(store, "a")
            other = await _started(store, "b")
            with pytest.raises(FenceError):
                await store.append("a", [_done(1)], Head(length=1), other)

    async def test_the_fence_of_a_deleted_run_is_refused_by_a_new_run_of_its_id(self) -> None:
        """Also once that has been claimed as often."""
        async with self.make_store() as store:
            stale = await _started(store, "a")
            await store.delete_run("a")
            fence = await _started(store, "a")
            with pytest.raises(FenceError):
                await store.append("a", [_done(1)], Head(length=1), stale)
            await store.append("a", [_done(1)], Head(length=1), fence)

    async def test_a_run_that_nobody_claimed_takes_no_append(self) -> None:
        """There is no fence that works without a claim."""
        async with self.make_store() as store:
            await store.create_run(_record("a"), Head())
            with pytest.raises(FenceError):
                await store.append("a", [_done(1)], Head(length=1), Fence(0))

    async def test_claiming_an_unknown_run_is_refused(self) -> None:
        """`claim` creates nothing."""
        async with self.make_store() as store:
            with pytest.raises(RunNotFoundError):
                await store.claim("nobody", "engine")

    async def test_a_fence_from_before_reopening_is_refused(self) -> None:
        """Who opens a store takes all of its runs."""
        store = self.make_store()
        async with store:
            stale = await _started(store, "a")
        async with self.make_again(store) as again:
            if not self.durable and await again.get_run("a") is None:
                return
            with pytest.raises(FenceError):
                await again.append("a", [_done(1)], Head(length=1), stale)
            fence = await again.claim("a", "engine")
            with pytest.raises(FenceError):
                await again.append("a", [_done(1)], Head(length=1), stale)
            await again.append("a", [_done(1)], Head(length=1), fence)

    # --- reading -------------------------------------------------------------------------------------------------

    async def test_a_journal_is_read_from_any_position(self) -> None:
        """`after` counts outcomes."""
        async with self.make_store() as store:
            fence = await _started(store, "a")
            await store.append("a", [_done(seq) for seq in range(1, 4)], Head(length=3), fence)
            await store.append("a", [_done(seq) for seq in range(4, 6)], Head(length=5), fence)
            for after in range(7):
                seqs = [outcome.seq for outcome in await store.read_journal("a", after=after)]
                assert seqs == list(range(after + 1, 6))

    async def test_the_journal_of_a_new_run_is_empty(self) -> None:
        """No outcome, no error."""
        async with self.make_store() as store:
            await store.create_run(_record("a"), Head())
            assert list(await store.read_journal("a")) == []

    async def test_the_journal_of_an_unknown_run_is_an_error(self) -> None:
        """Not an empty journal."""
        async with self.make_store() as store:
            with pytest.raises(RunNotFoundError, match="nobody"):
                await store.read_journal("nobody")

    async def test_what_was_handed_out_does_not_change(self) -> None:
        """A journal that was read is data: later appends do not show in it, and changing it changes nothing."""
        async with self.make_store() as store:
            fence = await _started(store, "a")
            await store.append("a", [_done(1)], Head(length=1), fence)
            journal = await store.read_journal("a")
            items = await store.list_items("c")
            await store.append("a", [_done(2)], Head(length=2), fence, [_put("c", "k")])
            assert len(journal) == 1
            assert list(items) == []
            if isinstance(journal, list):
                journal.clear()
            assert len(await store.read_journal("a")) == 2

    # --- finding -------------------------------------------------------------------------------------------------

    async def test_runs_are_found_newest_first(self) -> None:
        """By `created_at`, then by id, both descending."""
        async with self.make_store() as store:
            for run_id, created_at in (("b", 2.0), ("d", 1.0), ("a", 2.0), ("c", 3.0), ("e", 1.0)):
                await store.create_run(_record(run_id, created_at=created_at), Head())
            assert await _ids(store, RunQuery()) == ["c", "b", "a", "e", "d"]

    async def test_runs_are_found_by_status(self) -> None:
        """Each status, and several at once, also after it has changed."""
        async with self.make_store() as store:
            for number, status in enumerate(RunStatus):
                fence = await _started(store, status.value, created_at=float(number))
                await store.append(status.value, [], Head(status=status), fence)
            for status in RunStatus:
                assert await _ids(store, RunQuery(statuses=frozenset({status}))) == [status.value]
            assert set(await _ids(store, RunQuery(statuses=_DRIVEN))) == {status.value for status in _DRIVEN}
            assert await _ids(store, RunQuery(statuses=frozenset())) == []

    async def test_runs_are_found_by_workflow_label_and_parent(self) -> None:
        """Every condition that is given must hold."""
        async with self.make_store() as store:
            await store.create_run(_record("a", workflow="w", labels=("x", "y")), Head())
            await store.create_run(_record("b", workflow="v", labels=("x",)), Head())
            await store.create_run(_record("a/b", workflow="w", parent="a"), Head())
            assert set(await _ids(store, RunQuery(workflow="w"))) == {"a", "a/b"}
            assert set(await _ids(store, RunQuery(label="x"))) == {"a", "b"}
            assert await _ids(store, RunQuery(label="x", workflow="w")) == ["a"]
            assert await _ids(store, RunQuery(parent="a")) == ["a/b"]
            assert await _ids(store, RunQuery(parent="a", workflow="v")) == []
            assert await _ids(store, RunQuery(label="xy")) == []

    async def test_runs_are_found_by_what_they_wait_for(self) -> None:
        """As soon as an append with that head has returned, and no longer than until the next."""
        async with self.make_store() as store:
            fences = {run_id: await _started(store, run_id) for run_id in ("a", "b", "c")}
            waits = {"a": ("event:e", "mail:a"), "b": ("event:e",), "c": ("event:f",)}
            for run_id, waiting in waits.items():
                await store.append(run_id, [], Head(status=RunStatus.WAITING, waiting=waiting), fences[run_id])
            assert set(await _ids(store, RunQuery(waiting_for="event:e"))) == {"a", "b"}
            assert await _ids(store, RunQuery(waiting_for="mail:a")) == ["a"]
            assert await _ids(store, RunQuery(waiting_for="event:")) == []
            await store.append("a", [], Head(status=RunStatus.RUNNING, waiting=("mail:a",)), fences["a"])
            assert await _ids(store, RunQuery(waiting_for="event:e")) == ["b"]
            assert await _ids(store, RunQuery(waiting_for="mail:a")) == ["a"]

    async def test_runs_are_found_when_they_are_due(self) -> None:
        """`due_before` includes its instant; runs without `due` are never due."""
        async with self.make_store() as store:
            for run_id, due in (("a", 100.0), ("b", 200.0), ("c", None), ("d", 100.5)):
                fence = await _started(store, run_id)
                await store.append(run_id, [], Head(status=RunStatus.WAITING, due=due), fence)
            assert await _ids(store, RunQuery(due_before=99.9)) == []
            assert await _ids(store, RunQuery(due_before=100.0)) == ["a"]
            assert set(await _ids(store, RunQuery(due_before=101.0))) == {"a", "d"}
            assert set(await _ids(store, RunQuery(due_before=1e12))) == {"a", "b", "d"}

    async def test_due_follows_the_head(self) -> None:
        """A head without `due` takes the run off the list."""
        async with self.make_store() as store:
            fence = await _started(store, "a")
            await store.append("a", [], Head(due=10.0), fence)
            await store.append("a", [], Head(due=500.0), fence)
            assert await _ids(store, RunQuery(due_before=20.0)) == []
            assert await _ids(store, RunQuery(due_before=500.0)) == ["a"]
            await store.append("a", [], Head(), fence)
            assert await _ids(store, RunQuery(due_before=1000.0)) == []

    async def test_pages_cover_every_run_once(self) -> None:
        """`after` with the last id of a page goes on behind it, in every kind of query."""
        async with self.make_store() as store:
            for number in range(23):
                status = (RunStatus.COMPLETED, RunStatus.WAITING, RunStatus.RUNNING)[number % 3]
                await store.create_run(
                    _record(f"run-{number:02}", created_at=float(number // 4), parent="p"), Head(status=status)
                )
            for query in (
                RunQuery(limit=5),
                RunQuery(limit=5, parent="p"),
                RunQuery(limit=2, statuses=frozenset({RunStatus.COMPLETED})),
                RunQuery(limit=3, statuses=frozenset({RunStatus.RUNNING})),
                RunQuery(limit=4, statuses=_DRIVEN),
            ):
                everything = await _ids(store, _with(query, limit=1000))
                found: list[str] = []
                while page := await _ids(store, _with(query, after=found[-1] if found else None)):
                    assert len(page) <= query.limit
                    found += page
                assert found == everything

    async def test_a_limit_of_zero_finds_nothing(self) -> None:
        """`limit` is the most that is returned."""
        async with self.make_store() as store:
            await store.create_run(_record("a"), Head())
            assert await _ids(store, RunQuery(limit=0)) == []

    # --- deleting ------------------------------------------------------------------------------------------------

    async def test_a_deleted_run_is_gone_with_its_journal_items_and_blobs(self) -> None:
        """Nothing of it is found, and what belongs to others stays."""
        async with self.make_store() as store:
            fence = await _started(store, "a")
            await store.create_run(_record("b", parent="a"), Head(waiting=("event:e",)))
            head = Head(status=RunStatus.WAITING, length=1, waiting=("event:e",), due=5.0)
            changes = [_put("c", "mine", run_id="a"), _put("c", "other", run_id="b"), _put("c", "nobodys")]
            await store.append("a", [_done(1)], head, fence, changes)
            blob = await store.put_blob("a", b"data")
            await store.delete_run("a")
            assert await store.get_run("a") is None
            assert await _ids(store, RunQuery()) == ["b"]
            assert await _ids(store, RunQuery(waiting_for="event:e")) == ["b"]
            assert await _ids(store, RunQuery(due_before=9.0)) == []
            assert [item.key for item in await store.list_items("c")] == ["nobodys", "other"]
            with pytest.raises(RunNotFoundError):
                await store.read_journal("a")
            with pytest.raises(StoreCorruptError):
                await store.get_blob("a", blob)

    async def test_deleting_an_unknown_run_is_no_error(self) -> None:
        """Nor is deleting twice."""
        async with self.make_store() as store:
            await store.create_run(_record("a"), Head())
            await store.delete_run("a")
            await store.delete_run("a")
            await store.delete_run("nobody")

    async def test_a_deleted_run_takes_no_append(self) -> None:
        """Its owner learns that it is gone."""
        async with self.make_store() as store:
            fence = await _started(store, "a")
            await store.delete_run("a")
            with pytest.raises(RunNotFoundError):
                await store.append("a", [_done(1)], Head(length=1), fence)

    async def test_an_id_can_be_used_again_after_deletion(self) -> None:
        """The new run has nothing of the old one."""
        async with self.make_store() as store:
            stale = await _started(store, "a")
            await store.append("a", [_done(1)], Head(length=1), stale, [_put("c", "k", run_id="a")])
            await store.delete_run("a")
            await store.create_run(_record("a", payload=msgspec.Raw(b"2")), Head())
            run = await store.get_run("a")
            assert run is not None and bytes(run.record.payload) == b"2" and run.head.length == 0
            assert list(await store.read_journal("a")) == []
            with pytest.raises(FenceError):
                await store.append("a", [_done(1)], Head(length=1), stale)

    # --- items ---------------------------------------------------------------------------------------------------

    async def test_items_are_kept_replaced_and_deleted(self) -> None:
        """`change_items` applies its changes in their order."""
        async with self.make_store() as store:
            await store.change_items([_put("c", "k", b"1"), _put("c", "k", b"2"), _put("c", "x"), Delete("c", "x")])
            assert _value(await store.get_item("c", "k")) == b"2"
            assert await store.get_item("c", "x") is None
            await store.change_items([Delete("c", "k"), Delete("c", "never was")])
            assert await store.get_item("c", "k") is None

    async def test_items_come_sorted_by_key_with_prefix_and_limit(self) -> None:
        """Keys sort as text."""
        async with self.make_store() as store:
            keys = ["b/2", "a", "b/10", "c", "b", "b/1", "ä"]
            await store.change_items([_put("c", key) for key in keys])
            assert [item.key for item in await store.list_items("c")] == sorted(keys)
            assert [item.key for item in await store.list_items("c", prefix="b/")] == ["b/1", "b/10", "b/2"]
            assert [item.key for item in await store.list_items("c", prefix="b/", limit=2)] == ["b/1", "b/10"]
            assert list(await store.list_items("c", prefix="zz")) == []

    async def test_collections_are_apart(self) -> None:
        """The same key in two collections is two items."""
        async with self.make_store() as store:
            await store.change_items([_put("c", "k", b"1"), _put("d", "k", b"2")])
            await store.change_items([Delete("c", "k")])
            assert await store.get_item("c", "k") is None
            assert _value(await store.get_item("d", "k")) == b"2"
            assert list(await store.list_items("nothing here")) == []

    async def test_an_item_moves_to_the_run_of_its_last_put(self) -> None:
        """It goes with the run it belongs to now."""
        async with self.make_store() as store:
            for run_id in ("a", "b"):
                await store.create_run(_record(run_id), Head())
            await store.change_items([_put("c", "k", run_id="a"), _put("c", "l", run_id="a")])
            await store.change_items([_put("c", "k", run_id="b"), _put("c", "l")])
            await store.delete_run("a")
            assert [item.key for item in await store.list_items("c")] == ["k", "l"]
            await store.delete_run("b")
            assert [item.key for item in await store.list_items("c")] == ["l"]

    # --- blobs ---------------------------------------------------------------------------------------------------

    async def test_a_blob_comes_back_as_it_was_put(self) -> None:
        """Any bytes, also none, also before the run exists."""
        async with self.make_store() as store:
            for data in (b"", b"\x00\xff\n", b"x" * 1_000_000):
                blob = await store.put_blob("a", data)
                assert blob.size_bytes == len(data)
                assert await store.get_blob("a", blob) == data

    async def test_the_same_bytes_are_the_same_blob(self) -> None:
        """Putting twice, or at the same time, is harmless."""
        async with self.make_store() as store:
            blobs = await asyncio.gather(*(store.put_blob("a", b"data") for _ in range(10)))
            assert len(set(blobs)) == 1
            assert await store.put_blob("a", b"other") != blobs[0]
            assert await store.get_blob("a", blobs[0]) == b"data"

    async def test_a_blob_belongs_to_its_run(self) -> None:
        """Deleting a run leaves equal blobs of other runs."""
        async with self.make_store() as store:
            for run_id in ("a", "b"):
                await store.create_run(_record(run_id), Head())
            mine = await store.put_blob("a", b"data")
            other = await store.put_blob("b", b"data")
            await store.delete_run("a")
            assert await store.get_blob("b", other) == b"data"
            with pytest.raises(StoreCorruptError):
                await store.get_blob("a", mine)

    async def test_a_missing_blob_is_named(self) -> None:
        """The error says which blob of which run."""
        async with self.make_store() as store:
            with pytest.raises(StoreCorruptError, match="run-with-blob"):
                await store.get_blob("run-with-blob", Blob("0" * 64, 3))

    # --- opening and closing -------------------------------------------------------------------------------------

    async def test_nothing_works_before_opening_and_after_closing(self) -> None:
        """Every call raises `StoreClosedError`."""
        store = self.make_store()
        for _ in range(2):
            with pytest.raises(StoreClosedError):
                await store.create_run(_record("b"), Head())
            with pytest.raises(StoreClosedError):
                await store.claim("a", "engine")
            with pytest.raises(StoreClosedError):
                await store.append("a", [_done(1)], Head(length=1), Fence(1))
            with pytest.raises(StoreClosedError):
                await store.read_journal("a")
            with pytest.raises(StoreClosedError):
                await store.get_run("a")
            with pytest.raises(StoreClosedError):
                await store.find_runs(RunQuery())
            with pytest.raises(StoreClosedError):
                await store.delete_run("a")
            with pytest.raises(StoreClosedError):
                await store.change_items([_put("c", "k")])
            with pytest.raises(StoreClosedError):
                await store.get_item("c", "k")
            with pytest.raises(StoreClosedError):
                await store.list_items("c")
            with pytest.raises(StoreClosedError):
                await store.put_blob("a", b"")
            with pytest.raises(StoreClosedError):
                await store.get_blob("a", Blob("0" * 64, 0))
            async with store:
                await store.create_run(_record("a"), Head())

    async def test_what_was_acknowledged_is_there_after_reopening(self) -> None:
        """Of a durable store: runs, journals, heads, items and blobs."""
        store = self.make_store()
        async with store:
            fence = await _started(store, "a", labels=("x",))
            head = Head(status=RunStatus.WAITING, length=2, waiting=("event:e",), due=7.0, updated_at=2.0)
            await store.append("a", [_done(1), _done(2)], head, fence, [_put("c", "k", b"5", run_id="a")])
            await store.create_run(_record("gone"), Head())
            await store.delete_run("gone")
            blob = await store.put_blob("a", b"data")
        if not self.durable:
            return
        async with self.make_again(store) as again:
            assert _same(await again.get_run("a"), StoredRun(record=_record("a", labels=("x",)), head=head))
            assert [outcome.seq for outcome in await again.read_journal("a")] == [1, 2]
            assert await _ids(again, RunQuery(waiting_for="event:e")) == ["a"]
            assert await _ids(again, RunQuery(due_before=7.0)) == ["a"]
            assert await again.get_run("gone") is None
            assert _value(await again.get_item("c", "k")) == b"5"
            assert await again.get_blob("a", blob) == b"data"
            await again.delete_run("a")
            assert await again.get_item("c", "k") is None

    async def test_a_run_goes_on_after_reopening(self) -> None:
        """Of a durable store: the journal continues where it ended."""
        store = self.make_store()
        async with store:
            fence = await _started(store, "a")
            await store.append("a", [_done(1)], Head(length=1), fence)
        if not self.durable:
            return
        for seq in range(2, 6):
            store = self.make_again(store)
            async with store:
                fence = await store.claim("a", "engine")
                await store.append("a", [_done(seq)], Head(length=seq), fence)
                assert [outcome.seq for outcome in await store.read_journal("a")] == list(range(1, seq + 1))

    async def test_a_finished_run_can_be_brought_back(self) -> None:
        """A failed run is resumed: claimed, appended to, and driven again."""
        store = self.make_store()
        async with store:
            fence = await _started(store, "a")
            failed = Head(status=RunStatus.FAILED, length=1, error=Failure(type="E", message="m"))
            await store.append("a", [_done(1)], failed, fence)
            fence = await store.claim("a", "engine")
            await store.append("a", [RunResumed(seq=2, at=2.0)], Head(status=RunStatus.RUNNING, length=2), fence)
            assert await _ids(store, RunQuery(statuses=frozenset({RunStatus.RUNNING}))) == ["a"]
            assert await _ids(store, RunQuery(statuses=frozenset({RunStatus.FAILED}))) == []
            assert await _ids(store, RunQuery()) == ["a"]

    # --- the loop ------------------------------------------------------------------------------------------------

    async def test_the_event_loop_goes_on_while_the_store_works(self) -> None:
        """Blocking system calls never run on the event loop: other tasks get their turn meanwhile."""
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with self.make_store() as store:
            fence = await _started(store, "a")
            counting = asyncio.ensure_future(count())
            await asyncio.sleep(0)
            for seq in range(1, 21):
                await store.append("a", [_done(seq)], Head(length=seq), fence)
                await asyncio.sleep(0)
            counting.cancel()
            assert turns >= 20


def _record(run_id: str, **fields: object) -> RunRecord:
    known: dict[str, object] = {"workflow": "w", "created_at": 1.0, "start_at": 1.0}
    return msgspec.convert({"run_id": run_id, **known, **fields}, RunRecord)


def _done(seq: int, name: str = "step") -> Outcome:
    return StepDone(seq=seq, at=float(seq), name=name, occurrence=seq, value=msgspec.Raw(b'{"n":1}'))


def _put(collection: str, key: str, value: bytes = b"null", run_id: str | None = None) -> Change:
    return Put(Item(collection=collection, key=key, value=msgspec.Raw(value), run_id=run_id))


async def _started(store: Store, run_id: str, **fields: object) -> Fence:
    await store.create_run(_record(run_id, **fields), Head())
    return await store.claim(run_id, "engine")


async def _ids(store: Store, query: RunQuery) -> list[str]:
    return [run.record.run_id for run in await store.find_runs(query)]


def _with(query: RunQuery, *, limit: int | None = None, after: str | None = None) -> RunQuery:
    return RunQuery(
        statuses=query.statuses,
        workflow=query.workflow,
        label=query.label,
        parent=query.parent,
        waiting_for=query.waiting_for,
        due_before=query.due_before,
        after=after,
        limit=query.limit if limit is None else limit,
    )


def _value(item: Item | None) -> bytes:
    assert item is not None, "the item is missing"
    return bytes(item.value)


def _plain(outcomes: Sequence[Outcome]) -> object:
    # By meaning: a store may lay out a value's JSON anew.
    return msgspec.json.decode(msgspec.json.encode(outcomes))


def _same(one: StoredRun | None, other: StoredRun) -> bool:
    return one is not None and all(
        msgspec.json.decode(msgspec.json.encode(ours)) == msgspec.json.decode(msgspec.json.encode(theirs))
        for ours, theirs in ((one.record, other.record), (one.head, other.head))
    )
