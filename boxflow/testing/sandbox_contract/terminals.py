"""What does a sandbox promise about a terminal?"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from boxflow.errors import NotSupportedError
from boxflow.ports import Capability, Process, TerminalSize
from boxflow.testing.sandbox_contract.support import HANG_S, TREES, Contract, Reader, Subject


class TerminalPromises(Contract):
    """A process with a terminal sees one of the right size, and is interrupted as at a keyboard."""

    async def _on_terminal(self, subject: Subject, script: str, size: TerminalSize | None = None) -> Process | None:
        """The process, with a terminal; None where a sandbox refuses, as it says."""
        size = size or TerminalSize()
        if Capability.TTY in subject.sandbox.capabilities:
            return await subject.spawn(script, tty=size, env={"TERM": "dumb", "TREE": subject.id})
        with pytest.raises(NotSupportedError):
            await subject.spawn(script, tty=size)
        return None

    async def test_a_terminal_has_the_size_that_was_asked_for(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            # A terminal may be given its size a moment after the process has begun.
            script = (
                'until [ "$(stty size)" != "0 0" ]; do sleep 0.01; done; stty size; [ -t 0 ] && [ -t 1 ] && echo tty'
            )
            if process := await self._on_terminal(subject, script, TerminalSize(columns=101, rows=37)):
                reader = Reader(process)
                assert (await reader.rest()).split() == ["37", "101", "tty"]
                assert await process.wait() == 0

    async def test_a_process_without_a_terminal_has_none(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            assert await subject.out("[ -t 0 ] || [ -t 1 ] || [ -t 2 ] || echo none") == "none\n"
            assert (await subject.run(": 2>/dev/null </dev/tty")).status != 0

    async def test_a_process_sees_that_its_terminal_has_a_new_size(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            script = "trap 'stty size' WINCH; echo up; while :; do sleep 0.05; done"
            if process := await self._on_terminal(subject, script):
                reader = Reader(process)
                await reader.until("up")
                await process.resize(TerminalSize(columns=132, rows=50))
                await reader.until("50 132")
                await process.kill()

    async def test_both_streams_arrive_as_one(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            if process := await self._on_terminal(subject, "echo out; echo err >&2; exit 3"):
                chunks: list[tuple[str, bytes]] = []
                async with asyncio.timeout(HANG_S):
                    chunks.extend([chunk async for chunk in process.read()])
                    assert await process.wait() == 3
                assert {stream for stream, _ in chunks} == {"stdout"}
                assert b"".join(data for _, data in chunks).split() == [b"out", b"err"]

    async def test_an_interrupt_at_the_keyboard_ends_the_process(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            # Its own process: a shell that is just starting a program may hold an interrupt back until that has ended.
            if process := await self._on_terminal(subject, "echo up; exec cat"):
                reader = Reader(process)
                await reader.until("up")
                await process.write(b"\x03")
                await reader.rest()
                assert await process.wait() == 130

    async def test_an_end_of_input_at_the_keyboard_is_one(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            if process := await self._on_terminal(subject, 'echo up; read -r line; echo "[$line]"; cat; echo over'):
                reader = Reader(process)
                await reader.until("up")
                await process.write(b"typed\n")
                await reader.until("[typed]")
                await process.write(b"\x04")
                assert (await reader.rest()).split() == ["over"]
                assert await process.wait() == 0

    @pytest.mark.parametrize("tree", ["grandchild", "daemon", "deaf"])
    async def test_kill_ends_the_tree_of_a_process_with_a_terminal(self, tmp_path: Path, tree: str) -> None:
        async with self.subject(tmp_path) as subject:
            if process := await self._on_terminal(subject, TREES[tree]):
                await Reader(process).until("up")
                async with asyncio.timeout(HANG_S):
                    await process.kill()
                    assert await process.wait() > 128
                assert await subject.survivors(f"TREE={subject.id}") == ""
