"""A box whose owner died goes with the next one who opens the sandbox; a box of somebody who lives is left alone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from boxflow import Boxes, BoxStatus, Context, Engine, workflow
from boxflow.boxes import OWNER_LABEL, delete_orphans, this_process
from boxflow.boxes.orphans import is_orphan
from boxflow.ports import BoxInfo
from boxflow_backends.file_store import FileStore
from boxflow_backends.local_sandbox import LocalSandbox

IN_A_BLOCK = """
import asyncio, sys
from boxflow import Boxes

async def main():
    async with Boxes("local:" + sys.argv[1]) as boxes, boxes.create("block") as box:
        await boxes.create("kept")
        await box.exec.command("sleep 600 >/dev/null 2>&1 &")
        print("made", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""

IN_A_RUN = """
import asyncio, sys
from boxflow import Context, Engine, workflow

@workflow
async def waits(ctx: Context, _: None) -> None:
    async with ctx.box("of-run") as box:
        print("made", flush=True)
        await ctx.wait_for_event("never", "never")

async def main():
    async with Engine([waits], sandbox="local:" + sys.argv[1]) as engine:
        await engine.run(waits)

asyncio.run(main())
"""


@contextmanager
def killed(program: str, directory: Path) -> Iterator[None]:
    """Run *program* until it has made its boxes; the block sees it alive, and then it is killed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(directory)], stdout=subprocess.PIPE, env=environment
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"made\n"
            yield
        finally:
            child.send_signal(signal.SIGKILL)


def names(directory: Path) -> list[str]:
    return sorted(path.name.rsplit("-", 1)[0] for path in directory.glob("[!.]*"))


def test_a_box_of_a_block_goes_when_its_process_was_killed(tmp_path: Path) -> None:
    async def look() -> list[str]:
        async with Boxes(LocalSandbox(tmp_path)) as boxes:
            return [box.name for box in await boxes.list()]

    with killed(IN_A_BLOCK, tmp_path):
        assert asyncio.run(look()) == ["block", "kept"]
    assert asyncio.run(look()) == ["kept"]


def test_boxes_of_an_engine_without_a_lasting_store_go_when_it_was_killed(tmp_path: Path) -> None:
    @workflow
    async def other(ctx: Context, _: None) -> list[str]:
        async with ctx.box("other"):
            return names(tmp_path)

    async def look() -> list[str]:
        async with Engine([other], sandbox=LocalSandbox(tmp_path)) as engine:
            return await engine.run(other)

    with killed(IN_A_RUN, tmp_path):
        assert asyncio.run(look()) == ["of-run", "other"]
    assert asyncio.run(look()) == ["other"]
    assert names(tmp_path) == []


async def test_boxes_alone_go_at_their_time(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        short = await boxes.create("short", ttl=10)
        await boxes.create("long", ttl=1000)
        created = (await boxes.sandbox.get(short.id)).created_at
        assert await delete_orphans(boxes.sandbox, created + 5) == 0
        assert await delete_orphans(boxes.sandbox, created + 20) == 1
        assert await short.status() is BoxStatus.DELETED
        assert [box.name for box in await boxes.list()] == ["long"]


async def test_what_an_engine_has_in_its_records_is_its_own_business(tmp_path: Path) -> None:
    sandbox = LocalSandbox(tmp_path / "boxes")
    async with Engine([], store=FileStore(tmp_path / "store"), sandbox=sandbox) as engine:
        box = await engine.boxes.create("a", ttl=10)
        assert await delete_orphans(sandbox, 10**12) == 0
        assert await box.status() is BoxStatus.RUNNING


def test_whether_an_owner_is_dead_is_known_of_this_machine_only() -> None:
    def owned(owner: str) -> bool:
        return is_orphan(BoxInfo(box_id="b", status=BoxStatus.RUNNING, labels={OWNER_LABEL: owner}, created_at=0), 0)

    node, boot, pid, started = this_process().split("|")
    assert not owned(this_process())
    assert not owned(f"elsewhere|{boot}|{pid}|0")
    assert owned(f"{node}|{boot}|{pid}|{int(started) + 1}")
    assert owned(f"{node}|another-boot|{pid}|{started}")
    assert not owned("nonsense")
