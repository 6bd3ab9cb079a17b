"""Boxes of the local sandbox, and ways to look at their processes from outside."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from boxflow.ports import BoxSpec, Process, ProcessSpec
from boxflow_backends.local_sandbox import LocalSandbox


class LocalBox:
    """A box of a local sandbox."""

    def __init__(self, sandbox: LocalSandbox, box_id: str) -> None:
        self.sandbox = sandbox
        self.id = box_id

    async def spawn(self, script: str, **options: Any) -> Process:
        return await self.sandbox.spawn(self.id, ProcessSpec(argv=("sh", "-c", script), **options))

    async def run(self, script: str, **options: Any) -> tuple[int, str, str]:
        """How it ended, and what it wrote."""
        async with asyncio.timeout(30):
            process = await self.spawn(script, **options)
            streams = {"stdout": b"", "stderr": b""}
            async for stream, data in process.read():
                streams[stream] += data
            return await process.wait(), streams["stdout"].decode(), streams["stderr"].decode()


@asynccontextmanager
async def local_box(root: Path, spec: BoxSpec | None = None, **options: Any) -> AsyncIterator[LocalBox]:
    """A box that is deleted in the end."""
    async with LocalSandbox(root, **options) as sandbox:
        box_id = f"box-{secrets.token_hex(4)}"
        try:
            await sandbox.create(box_id, spec or BoxSpec(), {})
            yield LocalBox(sandbox, box_id)
        finally:
            await sandbox.delete(box_id)


class Screen:
    """What a terminal shows, as it comes."""

    def __init__(self, process: Process) -> None:
        self._chunks = process.read()
        self._text = ""

    async def until(self, text: str) -> str:
        """All up to *text*; what follows is for the next call."""
        try:
            async with asyncio.timeout(20):
                while text not in self._text:
                    self._text += (await anext(self._chunks))[1].decode()
        except TimeoutError:
            raise TimeoutError(f"{text!r} did not come, but {self._text!r}") from None
        shown, _, self._text = self._text.partition(text)
        return shown + text

    async def rest(self) -> str:
        async with asyncio.timeout(20):
            async for _, data in self._chunks:
                self._text += data.decode()
        return self._text


def pids_of(word: str) -> list[int]:
    """The living processes of this machine with *word* as an argument."""
    found: list[int] = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
            state = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if word.encode() in words and state != "Z":
            found.append(int(name))
    return found


async def appears(path: Path) -> str:
    """The content of a file, once it has some."""
    async with asyncio.timeout(20):
        while not path.exists() or not path.read_text():
            await asyncio.sleep(0.01)
    return path.read_text()
