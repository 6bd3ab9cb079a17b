"""What does a sandbox promise about a box that is paused?"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from boxflow.errors import BoxNotFoundError, BoxStateError, NotSupportedError
from boxflow.ports import BoxStatus, Capability
from boxflow.testing.sandbox_contract.support import HANG_S, TREES, Contract, Reader, Subject, made

# How long a process that writes every few milliseconds must be silent, to be taken for frozen.
_SILENCE_S = 0.5


class PausePromises(Contract):
    """A paused box stands still, starts nothing, and goes on where it stood; or pausing is refused."""

    async def _paused(self, subject: Subject) -> bool:
        if Capability.PAUSE in subject.sandbox.capabilities:
            await subject.sandbox.pause(subject.id)
            return True
        with pytest.raises(NotSupportedError):
            await subject.sandbox.pause(subject.id)
        assert await subject.out("echo goes on") == "goes on\n"
        return False

    async def test_a_paused_box_stands_still_and_goes_on(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            # In a session of its own, which whoever looks at process groups only would miss.
            script = "setsid sh -c 'while [ ! -e stop ]; do echo tick; sleep 0.01; done; echo end' & wait; echo over"
            process = await subject.spawn(script)
            chunks = process.read()
            await anext(chunks)
            if not await self._paused(subject):
                await process.kill()
                return
            async with asyncio.timeout(HANG_S):
                waiting = asyncio.ensure_future(anext(chunks))
                while (await asyncio.wait({waiting}, timeout=_SILENCE_S))[0]:
                    # What it had written before.
                    waiting = asyncio.ensure_future(anext(chunks))
                await subject.sandbox.resume(subject.id)
                await waiting
                await subject.out("echo > stop")
                rest = [data async for _, data in chunks]
            assert b"".join(rest).endswith(b"end\nover\n")
            assert await process.wait() == 0

    async def test_nothing_is_started_in_a_paused_box(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            if await self._paused(subject):
                assert (await subject.sandbox.get(subject.id)).status == BoxStatus.PAUSED
                async with asyncio.timeout(HANG_S):
                    with pytest.raises(BoxStateError, match="resume"):
                        await subject.run("echo started > f")
                await subject.sandbox.resume(subject.id)
                assert (await subject.sandbox.get(subject.id)).status == BoxStatus.RUNNING
                assert await subject.out("ls; echo fine") == "fine\n"

    async def test_pausing_and_resuming_twice_is_no_error(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject, self.sandbox(tmp_path) as other:
            if await self._paused(subject):
                await subject.sandbox.pause(subject.id)
                await other.pause(subject.id)
                assert (await other.get(subject.id)).status == BoxStatus.PAUSED
                await other.resume(subject.id)
                await other.resume(subject.id)
                await subject.sandbox.resume(subject.id)
                assert await subject.out("echo fine") == "fine\n"

    async def test_a_paused_box_is_listed_and_stays_paused_for_others(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox, made(sandbox) as subject:
            if await self._paused(subject):
                async with self.sandbox(tmp_path) as other:
                    statuses = {info.box_id: info.status for info in await other.list({})}
                    assert statuses[subject.id] == BoxStatus.PAUSED
                    with pytest.raises(BoxStateError):
                        await Subject(other, subject.id).run("true")

    @pytest.mark.parametrize("tree", ["daemon", "deaf"])
    async def test_a_paused_box_is_deleted_with_what_stands_still_in_it(self, tmp_path: Path, tree: str) -> None:
        async with self.sandbox(tmp_path) as sandbox, made(sandbox) as watcher, made(sandbox) as subject:
            process = await subject.spawn(TREES[tree], env={"TREE": subject.id})
            await Reader(process).until("up\n")
            await self._paused(subject)
            async with asyncio.timeout(HANG_S):
                await sandbox.delete(subject.id)
            assert await watcher.survivors(f"TREE={subject.id}") == ""
            with pytest.raises(BoxNotFoundError):
                await sandbox.get(subject.id)

    async def test_a_process_of_a_paused_box_can_be_killed(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            process = await subject.spawn(TREES["daemon"], env={"TREE": subject.id})
            await Reader(process).until("up\n")
            if await self._paused(subject):
                killing = asyncio.create_task(process.kill())
                # At once, or as soon as the box goes on: where everything stands still, so does a killer in the box.
                await asyncio.wait({killing}, timeout=1)
                await subject.sandbox.resume(subject.id)
                async with asyncio.timeout(HANG_S):
                    await asyncio.wait({killing})
            await process.kill()
            assert await subject.survivors(f"TREE={subject.id}") == ""
