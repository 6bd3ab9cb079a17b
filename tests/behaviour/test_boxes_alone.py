"""Boxes without a workflow: made, found again, and deleted whatever happens."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest

from boxflow.boxes import Boxes, BoxSpec, BoxStatus, make_box
from boxflow.errors import BoxNotFoundError, CommandFailedError, ConfigurationError
from boxflow_backends.local_sandbox import LocalSandbox


async def test_a_block_deletes_its_box_at_the_end(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        async with boxes.create("a") as box:
            assert await box.status() == BoxStatus.RUNNING
        assert await box.status() == BoxStatus.DELETED
    assert not list(tmp_path.iterdir())


async def test_a_block_deletes_its_box_when_it_fails(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        with pytest.raises(ZeroDivisionError):
            async with boxes.create():
                raise ZeroDivisionError
        assert await boxes.list() == []


@pytest.mark.parametrize("times", [1, 5])
async def test_a_block_deletes_its_box_however_often_it_is_cancelled(tmp_path: Path, times: int) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        inside = asyncio.Event()

        async def work() -> None:
            async with boxes.create() as box:
                inside.set()
                await box.exec.command("sleep 600")

        task = asyncio.create_task(work())
        await inside.wait()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await boxes.list() == []


async def test_a_block_deletes_its_box_inside_a_cancelled_anyio_scope(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        with anyio.move_on_after(0.3) as scope:
            async with boxes.create() as box:
                await box.exec.command("sleep 600")
        assert scope.cancelled_caught
        assert await boxes.list() == []


async def test_cancelling_a_creation_leaves_no_box(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        for turns in range(12):
            task = asyncio.ensure_future(_create(boxes))
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await boxes.list() == []
        assert not list(tmp_path.iterdir())


async def _create(boxes: Boxes) -> None:
    await boxes.create(init="sleep 600")


async def test_an_awaited_box_stays_until_it_is_deleted(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        box = await boxes.create("a")
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        assert [found.id for found in await boxes.list()] == [box.id]
        await boxes.delete(box.id)
        await boxes.delete(box.id)
        assert await boxes.list() == []


async def test_a_kept_box_outlives_its_block(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        async with boxes.create(keep=True) as box:
            pass
        assert await box.status() == BoxStatus.RUNNING


async def test_a_box_that_is_found_again_is_the_one_that_was_made(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        made = await boxes.create(
            "a name", image="agent", labels={"team": "x"}, ttl="2h", keep=True, init="true", env={"SECRET": "s"}
        )
        found = await boxes.get(made.id)
        assert (found.id, found.name, found.labels) == (made.id, "a name", {"team": "x"})
        assert (found.spec.image, found.spec.ttl_s, found.spec.keep, found.spec.init) == ("agent", 7200, True, "true")
        assert made.labels == {"team": "x"}
        assert "SECRET" not in str((await boxes.sandbox.get(made.id)).labels)
        assert [box.id for box in await boxes.list({"team": "x"})] == [made.id]
        assert await boxes.list({"team": "y"}) == []


async def test_boxes_of_one_name_are_different_boxes(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        first, second = await asyncio.gather(_made(boxes, "a"), _made(boxes, "a"))
        assert first != second


async def _made(boxes: Boxes, name: str) -> str:
    return (await boxes.create(name)).id


async def test_init_runs_once_in_the_new_box(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        for _ in range(2):
            box = await boxes.create(box_id="one", init="echo $A '$x' >> log", env={"A": "set"})
        assert await box.files.read("log") == "set $x\n"


async def test_a_box_whose_init_fails_is_deleted(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        with pytest.raises(CommandFailedError, match="why") as caught:
            await boxes.create(box_id="one", init="echo why >&2; exit 3")
        assert caught.value.exit_code == 3
        assert await boxes.list() == []


async def test_init_that_was_interrupted_runs_again(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        init = "echo try >> log; [ -e $HOME/go ] || sleep 600"
        with anyio.move_on_after(0.5):
            await boxes.create(box_id="one", init=init)
        box = await boxes.get("one")
        await box.exec.command("touch $HOME/go")
        again = await boxes.create(box_id="one", init=init)
        assert await again.files.read("log") == "try\ntry\n"


@pytest.mark.parametrize("box_id", ["", ".", "..", "a/b", "../x", ".hidden", "a\0b", "ä", "x" * 200, "-rf", "a~b"])
async def test_an_id_that_could_play_tricks_with_paths_is_refused(tmp_path: Path, box_id: str) -> None:
    sandbox = LocalSandbox(tmp_path / "root")
    async with Boxes(sandbox) as boxes:
        for asked in (boxes.get(box_id), boxes.delete(box_id)):
            with pytest.raises(ConfigurationError, match="cannot name a local box"):
                await asked
        if box_id:
            with pytest.raises(ConfigurationError):
                await boxes.create(box_id=box_id)


async def test_a_damaged_record_is_told_and_the_box_can_be_deleted(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        box = await boxes.create()
        (tmp_path / box.id / "box.json").write_text("{")
        with pytest.raises(Exception, match="damaged; delete the box"):
            await boxes.get(box.id)
        await boxes.delete(box.id)
        with pytest.raises(BoxNotFoundError):
            await boxes.get(box.id)


async def test_what_others_cannot_read_are_the_boxes(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path / "new" / "root")) as boxes:
        box = await boxes.create(env={"TOKEN": "secret"})
        root = tmp_path / "new" / "root"
        assert root.stat().st_mode & 0o077 == 0
        assert (root / box.id / "box.json").stat().st_mode & 0o077 == 0


async def test_labels_of_boxflow_itself_are_found_but_not_shown(tmp_path: Path) -> None:
    sandbox = LocalSandbox(tmp_path)
    await make_box(sandbox, BoxSpec(labels={"a": "1"}), box_id="x", name="n", labels={"boxflow.run": "r"})
    (box,) = await Boxes(sandbox).list({"boxflow.run": "r"})
    assert (box.id, box.name, box.labels) == ("x", "n", {"a": "1"})
