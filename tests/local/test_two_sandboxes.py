"""Two sandboxes of one program may use one root: none takes the other's exit statuses."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from boxflow.ports import BoxSpec, ProcessSpec
from boxflow_backends.local_sandbox import LocalSandbox

pytestmark = pytest.mark.real


async def test_who_waits_for_a_process_hears_how_another_sandbox_ended_it(tmp_path: Path) -> None:
    async with LocalSandbox(tmp_path) as one, LocalSandbox(tmp_path) as other:
        await one.create("box", BoxSpec(), {})
        process = await one.spawn("box", ProcessSpec(argv=["sleep", "600"], exec_id="it"))

        ending = asyncio.create_task(other.end("box", "it"))
        for _ in range(4):
            await asyncio.sleep(0)
        # The thread is at work by now, and sees the process dead long before this loop can.
        time.sleep(1.0)
        await ending

        assert await process.wait() == 128 + 9
        await one.delete("box")
