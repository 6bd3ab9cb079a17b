"""A paused local box stands still, and goes on where it stood."""

from __future__ import annotations

import asyncio
from pathlib import Path

from boxflow.ports import BoxStatus
from boxflow_backends.local_sandbox import LocalSandbox

from .support import appears, local_box

_TICKING = "i=0; while :; do i=$((i + 1)); echo $i > {0}.new; mv {0}.new {0}; done"


async def test_what_a_process_starts_while_the_box_is_being_paused_stands_still_too(tmp_path: Path) -> None:
    async with local_box(tmp_path) as box:
        work = tmp_path / box.id / "work"
        for n in range(3):
            await box.spawn(f"(setsid sh -c '{_TICKING.format(f't{n}')}' &); {_TICKING.format(f'm{n}')}")
        ticks = [work / f"{kind}{n}" for kind in "tm" for n in range(3)]
        for tick in ticks:
            await appears(tick)
        await box.sandbox.pause(box.id)
        before = [tick.read_text() for tick in ticks]
        await asyncio.sleep(0.3)
        assert [tick.read_text() for tick in ticks] == before
        await box.sandbox.resume(box.id)
        async with asyncio.timeout(20):
            while any(tick.read_text() == was for tick, was in zip(ticks, before, strict=True)):
                await asyncio.sleep(0.01)


async def test_files_of_a_paused_box_can_be_read_and_written(tmp_path: Path) -> None:
    async with local_box(tmp_path) as box:
        await box.sandbox.pause(box.id)
        await box.sandbox.write_file(box.id, "f", b"x")
        assert await box.sandbox.read_file(box.id, "f") == b"x"
        await box.sandbox.snapshot(box.id, "paused", {})
        await box.sandbox.delete_snapshot("paused")


async def test_a_pause_outlives_the_engine(tmp_path: Path) -> None:
    async with local_box(tmp_path) as box:
        await box.sandbox.pause(box.id)
        async with LocalSandbox(tmp_path) as other:
            assert (await other.get(box.id)).status is BoxStatus.PAUSED
            await other.resume(box.id)
        assert await box.run("echo on") == (0, "on\n", "")
