"""Who kills an engine that has boxes, starts it again, and looks at what is left?"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from random import Random

from boxflow import Boxes
from boxflow.errors import BoxFileNotFoundError, BoxNotFoundError
from tests.crash import box_child

END_S = 50.0
"""How long the last life may take."""


class BoxLife:
    """One child on *directory*, with boxes of *sandbox*."""

    def __init__(self, directory: Path, sandbox: str, workflow: str, runs: int) -> None:
        self._arguments = [str(directory), sandbox, workflow, str(runs)]
        self._child: asyncio.subprocess.Process | None = None

    async def begin(self) -> None:
        """Start it, and wait until its engine runs."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._child = await asyncio.create_subprocess_exec(
            sys.executable, box_child.__file__, *self._arguments, stdout=asyncio.subprocess.PIPE, env=environment
        )
        assert self._child.stdout is not None
        assert await self._child.stdout.readline() == b"ready\n"

    async def kill(self) -> None:
        """SIGKILL."""
        assert self._child is not None
        if self._child.returncode is None:
            self._child.send_signal(signal.SIGKILL)
        await self._child.wait()

    async def end(self) -> dict[str, str]:
        """Let it end by itself; the results by run."""
        assert self._child is not None
        output, _ = await asyncio.wait_for(self._child.communicate(), END_S)
        assert self._child.returncode == 0, "the child ended with an error"
        lines = [line.split(" ", 2) for line in output.decode().splitlines()]
        return {run: result for _, run, result in lines}


async def kill_at_work(directory: Path, sandbox: str, *, times: int, span_s: float, seed: int) -> dict[str, str]:
    """Kill the engine *times* times, each some moment after it began; then let it finish. Its results."""
    random = Random(seed)
    for _ in range(times):
        life = BoxLife(directory, sandbox, "busy", runs=3)
        await life.begin()
        await asyncio.sleep(random.random() * span_s)
        await life.kill()
    life = BoxLife(directory, sandbox, "busy", runs=3)
    await life.begin()
    return await life.end()


async def until_written(boxes: Boxes, name: str, path: str) -> str:
    """The id of the box of that *name*, once it has a file *path* with something in it."""
    while True:
        for box in [box for box in await boxes.list() if box.name == name]:
            try:
                if await box.files.read(path):
                    return box.id
            except (BoxFileNotFoundError, BoxNotFoundError):
                continue
        await asyncio.sleep(0.05)
