"""What does a sandbox promise about the life of a box: made once, found again, and gone when it is deleted?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from boxflow.boxes import Boxes
from boxflow.errors import BoxNotFoundError, CommandFailedError, NotSupportedError, SandboxError
from boxflow.ports import BoxSpec, BoxStatus, Capability, ProcessSpec, Sandbox
from boxflow.testing.sandbox_contract.support import TREES, Contract, Subject, made, new_id

Call = Callable[[Sandbox, Path], Awaitable[object]]

# Every call that names a box. "sent" and "received" are on the machine's side.
CALLS: dict[str, Call] = {
    "get": lambda sandbox, _: sandbox.get("unknown"),
    "attach": lambda sandbox, _: sandbox.attach("unknown"),
    "pause": lambda sandbox, _: sandbox.pause("unknown"),
    "resume": lambda sandbox, _: sandbox.resume("unknown"),
    "url": lambda sandbox, _: sandbox.url("unknown", 8000),
    "spawn": lambda sandbox, _: sandbox.spawn("unknown", ProcessSpec(argv=("true",))),
    "signal": lambda sandbox, _: sandbox.signal("unknown", "e", 15),
    "end": lambda sandbox, _: sandbox.end("unknown", "e"),
    "read_file": lambda sandbox, _: sandbox.read_file("unknown", "f"),
    "write_file": lambda sandbox, _: sandbox.write_file("unknown", "f", b""),
    "list_files": lambda sandbox, _: sandbox.list_files("unknown", "."),
    "stat_file": lambda sandbox, _: sandbox.stat_file("unknown", "f"),
    "make_directory": lambda sandbox, _: sandbox.make_directory("unknown", "d"),
    "rename_file": lambda sandbox, _: sandbox.rename_file("unknown", "f", "g"),
    "remove_file": lambda sandbox, _: sandbox.remove_file("unknown", "f"),
    "upload": lambda sandbox, place: sandbox.upload("unknown", place / "sent", "f"),
    "download": lambda sandbox, place: sandbox.download("unknown", "f", place / "received"),
    "snapshot": lambda sandbox, _: sandbox.snapshot("unknown", new_id("snapshot"), {}),
}
_CAPABILITY_OF = {
    "pause": Capability.PAUSE,
    "resume": Capability.PAUSE,
    "snapshot": Capability.SNAPSHOT,
}


class BoxPromises(Contract):
    """Boxes are made once, found again, and gone when they are deleted."""

    async def test_a_created_box_is_found_by_its_id(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = new_id()
            created = await sandbox.create(box_id, BoxSpec(), {"owner": "a"})
            try:
                for found in (await sandbox.get(box_id), await sandbox.attach(box_id)):
                    assert (found.box_id, found.status, found.labels) == (box_id, BoxStatus.RUNNING, {"owner": "a"})
                    assert found.created_at == created.created_at
            finally:
                await sandbox.delete(box_id)

    async def test_creating_twice_with_one_id_gives_the_same_box(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = new_id()
            await sandbox.create(box_id, BoxSpec(), {"try": "1"})
            try:
                await sandbox.write_file(box_id, "kept", b"work")
                again = await sandbox.create(box_id, BoxSpec(), {"try": "2"})
                assert again.labels == {"try": "1"}
                assert await sandbox.read_file(box_id, "kept") == b"work"
            finally:
                await sandbox.delete(box_id)

    async def test_of_many_creators_of_one_id_all_get_the_same_box(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox, self.sandbox(tmp_path) as other:
            box_id = new_id()
            try:
                created = await asyncio.gather(
                    *(
                        maker.create(box_id, BoxSpec(), {"n": str(n), "tag": box_id})
                        for n, maker in enumerate([sandbox, other] * 4)
                    )
                )
                assert len({info.labels["n"] for info in created}) == 1
                assert len(await sandbox.list({"tag": box_id})) == 1
                assert await Subject(other, box_id).out("echo usable") == "usable\n"
            finally:
                await sandbox.delete(box_id)

    async def test_boxes_that_are_made_at_once_are_boxes_of_their_own(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            ids = [new_id() for _ in range(5)]
            try:
                await asyncio.gather(*(sandbox.create(box_id, BoxSpec(), {}) for box_id in ids))
                subjects = [Subject(sandbox, box_id) for box_id in ids]
                await asyncio.gather(*(subject.run(f"echo {subject.id} > mine") for subject in subjects))
                found = await asyncio.gather(*(subject.out("cat mine; ls | wc -l") for subject in subjects))
                assert [text.split() for text in found] == [[box_id, "1"] for box_id in ids]
            finally:
                await asyncio.gather(*(sandbox.delete(box_id) for box_id in ids))

    async def test_list_finds_the_boxes_that_carry_all_labels_oldest_first(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            tag = new_id("tag")
            ids = {"ab": {"a": "1", "b": "1"}, "a": {"a": "1"}, "b": {"b": "1"}}
            named = {key: new_id(key) for key in ids}
            try:
                for key, labels in ids.items():
                    await sandbox.create(named[key], BoxSpec(), {**labels, "tag": tag})
                for wanted, keys in (
                    ({}, "ab a b"),
                    ({"a": "1"}, "ab a"),
                    ({"a": "1", "b": "1"}, "ab"),
                    ({"a": "2"}, ""),
                ):
                    found = await sandbox.list({**wanted, "tag": tag})
                    assert [info.box_id for info in found] == [named[key] for key in keys.split()]
            finally:
                for box_id in named.values():
                    await sandbox.delete(box_id)

    async def test_labels_hold_any_text(self, tmp_path: Path) -> None:
        tag = new_id("tag")
        odd = {
            "tag": tag,
            "a=b": "c=d",
            "with blanks and, commas": "x, y = z",
            "ünïcödé": "日本 🎉",
            "json": '{"a": ["b\\n"]}',
            "lines": "one\ntwo",
            "empty": "",
            "long": "x" * 5000,
        }
        async with self.sandbox(tmp_path) as sandbox:
            box_id = new_id()
            await sandbox.create(box_id, BoxSpec(), odd)
            try:
                assert (await sandbox.get(box_id)).labels == odd
                for key, value in odd.items():
                    assert [one.box_id for one in await sandbox.list({"tag": tag, key: value})] == [box_id], key
                    assert not await sandbox.list({"tag": tag, key: f"{value}?"}), key
            finally:
                await sandbox.delete(box_id)

    async def test_boxes_outlive_the_sandbox_that_made_them(self, tmp_path: Path) -> None:
        box_id = new_id()
        async with self.sandbox(tmp_path) as first:
            await first.create(box_id, BoxSpec(env={"KEPT": "yes"}), {"l": "1"})
            await first.write_file(box_id, "f", b"data")
        async with self.sandbox(tmp_path) as second:
            try:
                box = await Boxes(second).get(box_id)
                assert box.labels == {"l": "1"}
                assert await box.files.read("f") == "data"
                assert (await box.exec.command("echo $KEPT")).stdout == "yes\n"
            finally:
                await second.delete(box_id)

    async def test_a_sandbox_can_be_entered_again(self, tmp_path: Path) -> None:
        sandbox = self.make_sandbox(tmp_path)
        box_id = new_id()
        try:
            async with sandbox:
                await sandbox.create(box_id, BoxSpec(), {})
            async with sandbox:
                assert await Subject(sandbox, box_id).out("echo again") == "again\n"
        finally:
            async with sandbox:
                await sandbox.delete(box_id)

    async def test_the_init_command_runs_once(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = new_id()
            boxes = Boxes(sandbox)
            try:
                for _ in range(2):
                    box = await boxes.create("init", box_id=box_id, init="echo ran >> log")
                    assert await box.files.read("log") == "ran\n"
            finally:
                await sandbox.delete(box_id)

    async def test_a_box_whose_init_command_fails_is_deleted(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = new_id()
            with pytest.raises(CommandFailedError, match="wrong"):
                await Boxes(sandbox).create("init", box_id=box_id, init="echo wrong >&2; exit 3")
            with pytest.raises(BoxNotFoundError):
                await sandbox.get(box_id)

    # --- gone --------------------------------------------------------------------------------------------------

    async def test_a_deleted_box_is_gone(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = new_id()
            await sandbox.create(box_id, BoxSpec(), {"tag": box_id})
            await sandbox.delete(box_id)
            with pytest.raises(BoxNotFoundError, match=box_id):
                await sandbox.get(box_id)
            assert await sandbox.list({"tag": box_id}) in ([], ())
            assert await Subject(sandbox, box_id).box().status() == BoxStatus.DELETED

    async def test_deleting_twice_or_what_never_was_is_no_error(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = new_id()
            await sandbox.create(box_id, BoxSpec(), {})
            await asyncio.gather(*(sandbox.delete(box_id) for _ in range(3)))
            await sandbox.delete(box_id)
            await sandbox.delete(new_id("never"))

    async def test_a_box_of_a_deleted_one_s_id_is_new(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = new_id()
            await sandbox.create(box_id, BoxSpec(), {})
            await sandbox.write_file(box_id, "old", b"")
            await sandbox.delete(box_id)
            await sandbox.create(box_id, BoxSpec(), {})
            try:
                assert not await sandbox.list_files(box_id, ".")
            finally:
                await sandbox.delete(box_id)

    async def test_creating_and_deleting_at_once_leaves_a_whole_box_or_none(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = new_id()
            for _ in range(3):
                await asyncio.gather(
                    sandbox.create(box_id, BoxSpec(), {}), sandbox.delete(box_id), return_exceptions=True
                )
                await sandbox.create(box_id, BoxSpec(), {})
                assert await Subject(sandbox, box_id).out("echo whole") == "whole\n"
                await sandbox.delete(box_id)
            with pytest.raises(BoxNotFoundError):
                await sandbox.get(box_id)

    @pytest.mark.parametrize("turns", [0, 1, 5, 50])
    async def test_a_creation_that_is_cancelled_can_be_repeated_and_undone(self, tmp_path: Path, turns: int) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = new_id()
            creating = asyncio.create_task(sandbox.create(box_id, BoxSpec(), {}))
            for _ in range(turns):
                await asyncio.sleep(0)
            creating.cancel()
            await asyncio.wait({creating})
            try:
                await sandbox.create(box_id, BoxSpec(), {})
                assert await Subject(sandbox, box_id).out("echo whole") == "whole\n"
            finally:
                await sandbox.delete(box_id)
            with pytest.raises(BoxNotFoundError):
                await sandbox.get(box_id)

    @pytest.mark.parametrize("call", sorted(CALLS))
    async def test_a_call_to_an_unknown_box_says_so(self, tmp_path: Path, call: str) -> None:
        (tmp_path / "sent").write_text("x")
        async with self.sandbox(tmp_path / "boxes") as sandbox:
            needed = _CAPABILITY_OF.get(call)
            lacking = needed is not None and needed not in sandbox.capabilities
            with pytest.raises((NotSupportedError, BoxNotFoundError) if lacking else BoxNotFoundError) as caught:
                await CALLS[call](sandbox, tmp_path)
            assert lacking or "unknown" in str(caught.value)
        assert not (tmp_path / "received").exists()

    async def test_delete_ends_what_runs_in_the_box(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox, made(sandbox) as watcher, made(sandbox) as subject:
            mark = f"TREE={subject.id}"
            running = asyncio.create_task(
                subject.box().exec.command(f"({TREES['daemon']}) | tee up", env={"TREE": subject.id}, timeout=30)
            )
            await subject.appears("up")
            await sandbox.delete(subject.id)
            assert await watcher.survivors(mark) == ""
            try:
                assert (await running).exit_code != 0
            except SandboxError:
                # The box is gone, and how the command ended may be gone with it.
                pass

    @pytest.mark.parametrize("what", ["reading", "writing", "starting"])
    async def test_a_box_that_is_deleted_meanwhile_is_an_error_and_not_a_hang(self, tmp_path: Path, what: str) -> None:
        async with self.sandbox(tmp_path) as sandbox, made(sandbox) as subject:
            data = bytes(1_000_000)
            await sandbox.write_file(subject.id, "f", data)
            begun = asyncio.Event()

            async def use() -> None:
                while True:
                    if what == "reading":
                        assert await sandbox.read_file(subject.id, "f") == data
                    elif what == "writing":
                        await sandbox.write_file(subject.id, "f", data)
                    else:
                        await subject.run("true")
                    begun.set()

            using = asyncio.create_task(use())
            async with asyncio.timeout(30):
                await begun.wait()
                await sandbox.delete(subject.id)
                with pytest.raises(SandboxError):
                    await using
            with pytest.raises(BoxNotFoundError):
                await sandbox.get(subject.id)
