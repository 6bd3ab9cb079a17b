"""A box on a private loop: every call goes through the loop's owner, as a step whose result the journal can keep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from boxflow.boxes import Box, Boxes, BoxSpec
from boxflow.errors import CommandFailedError, CommandTimeoutError
from boxflow_backends.local_sandbox import LocalSandbox

T = TypeVar("T")


class OwnedLoop(asyncio.SelectorEventLoop):
    """A loop that belongs to somebody, as the private loop of a run does."""

    owner: object = None


class Journal:
    """Keeps the outcome of each call as JSON, and gives it back instead of calling again."""

    def __init__(self, recorded: list[tuple[str, bytes]] | None = None) -> None:
        self.recorded = recorded if recorded is not None else []
        self._replay = list(self.recorded)

    async def box_call(self, name: str, fn: Callable[[], Awaitable[T]], *, type: object, is_job: bool) -> T:
        if not self._replay:
            self.recorded.append((name, msgspec.json.encode(await fn())))
            data = self.recorded[-1][1]
        else:
            expected, data = self._replay.pop(0)
            assert name == expected
        return msgspec.json.decode(data, type=type)  # type: ignore[arg-type,no-any-return] # a type at runtime


def run(body: Callable[[], Awaitable[T]], owner: object) -> T:
    with asyncio.Runner(loop_factory=OwnedLoop) as runner:
        runner.get_loop().owner = owner  # type: ignore[attr-defined] # an OwnedLoop

        async def main() -> T:
            return await body()

        return runner.run(main())


async def story(box: Box) -> list[Any]:
    told: list[Any] = [await box.exec.command("echo out; exit 3"), await box.status()]
    await box.files.write("d/f", b"\xff\x00")
    told += [await box.files.read_bytes("d/f"), await box.files.list("d"), await box.files.stat("d/f")]
    await box.files.mkdir("e")
    await box.files.rename("e", "g")
    await box.files.remove("g")
    await box.git.exec("init", "-q", "-b", "main")
    await box.git.commit("first", author="A <a@b>")
    await box.files.write("text", "text\n")
    told += [await box.files.read("text"), await box.git.status(), await box.git.diff()]
    with pytest.raises(CommandFailedError) as failed:
        await box.exec.command("echo why >&2; exit 4", check=True)
    with pytest.raises(CommandTimeoutError) as late:
        await box.exec.command("echo some; sleep 600", timeout=0.3)
    await box.delete()
    return [*told, str(failed.value), str(late.value), late.value.stdout]


def test_a_replay_tells_the_same_story_without_touching_the_box(tmp_path: Path) -> None:
    sandbox = LocalSandbox(tmp_path)
    made = asyncio.run(_make(sandbox))
    journal = Journal()
    box = Box(sandbox, box_id=made.id, name="a", spec=made.spec)
    first = run(lambda: story(box), journal)
    assert not list(tmp_path.iterdir())
    again = Box(sandbox, box_id=made.id, name="a", spec=made.spec)
    assert run(lambda: story(again), Journal(journal.recorded)) == first
    assert [name for name, _ in journal.recorded] == [
        "a.exec.command", "a.status", "a.files.write", "a.files.read_bytes", "a.files.list", "a.files.stat",
        "a.files.mkdir", "a.files.rename", "a.files.remove", "a.git.exec", "a.git.commit", "a.files.write",
        "a.files.read", "a.git.status", "a.git.diff", "a.exec.command", "a.exec.command", "a.delete",
    ]  # fmt: skip


async def _make(sandbox: LocalSandbox) -> Box:
    async with Boxes(sandbox) as boxes:
        return await boxes.create("a")


def test_boxes_made_on_a_private_loop_have_the_same_id_on_replay(tmp_path: Path) -> None:
    boxes = Boxes(LocalSandbox(tmp_path))

    async def body() -> tuple[str, list[str]]:
        async with boxes.create("a") as box:
            return box.id, [found.id for found in await boxes.list()]

    journal = Journal()
    first = run(body, journal)
    assert run(body, Journal(journal.recorded)) == first
    assert [name for name, _ in journal.recorded] == ["a.create", "boxes.list", "a.delete"]


def test_an_owner_that_journals_nothing_is_passed_by(tmp_path: Path) -> None:
    sandbox = LocalSandbox(tmp_path)

    async def body() -> str:
        async with Boxes(sandbox).create() as box:
            return (await box.exec.command("echo x")).stdout

    assert run(body, owner=object()) == "x\n"


def test_making_a_box_object_does_nothing(tmp_path: Path) -> None:
    box = Box(LocalSandbox(tmp_path / "root"), box_id="x", name="n", spec=BoxSpec(labels={"a": "b"}))
    assert (box.id, box.name, box.labels, repr(box)) == ("x", "n", {"a": "b"}, "<Box 'n' id='x'>")
    assert not (tmp_path / "root").exists()
