"""What does a sandbox promise about ending processes: all of a tree, nothing beside it, and from anywhere?"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from boxflow.errors import CommandTimeoutError
from boxflow.ports import BoxSpec, TerminalSize
from boxflow.testing.sandbox_contract.support import FOREVER, HANG_S, TREES, Contract, Reader, Subject, made, ran


class EndingPromises(Contract):
    """A timeout, a cancellation, `kill` and `end` leave nothing of a process tree, and spare what is beside it."""

    async def test_a_timeout_ends_the_whole_tree_and_keeps_what_was_written(self, tmp_path: Path) -> None:
        async def check(subject: Subject, tree: str, mark: str) -> None:
            with pytest.raises(CommandTimeoutError) as caught:
                await subject.box().exec.command(TREES[tree], env={"TREE": mark}, timeout=3)
            assert caught.value.stdout == "up\n", tree
            assert await subject.survivors(mark) == "", tree

        await self._for_each_tree(tmp_path, check)

    async def test_cancelling_a_command_ends_the_whole_tree(self, tmp_path: Path) -> None:
        async def check(subject: Subject, tree: str, mark: str) -> None:
            script = f"({TREES[tree]}) | tee '{mark}'"
            task = asyncio.create_task(subject.box().exec.command(script, env={"TREE": mark}))
            await subject.appears(mark)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await subject.survivors(f"TREE={mark}") == "", tree

        await self._for_each_tree(tmp_path, check)

    async def test_kill_returns_when_nothing_of_the_tree_is_left(self, tmp_path: Path) -> None:
        async def check(subject: Subject, tree: str, mark: str) -> None:
            process = await subject.spawn(TREES[tree], env={"TREE": mark})
            await Reader(process).until("up\n")
            await process.kill()
            assert await subject.survivors(mark) == "", tree
            assert await process.wait() > 128, tree

        await self._for_each_tree(tmp_path, check)

    async def test_another_sandbox_ends_a_process_by_its_name(self, tmp_path: Path) -> None:
        async def check(subject: Subject, tree: str, mark: str) -> None:
            process = await subject.spawn(TREES[tree], env={"TREE": mark}, exec_id=mark)
            await Reader(process).until("up\n")
            async with self.sandbox(tmp_path) as other:
                await other.end(subject.id, mark)
            assert await subject.survivors(mark) == "", tree
            assert await process.wait() > 128, tree

        await self._for_each_tree(tmp_path, check)

    async def _for_each_tree(self, directory: Path, check: Callable[[Subject, str, str], Awaitable[None]]) -> None:
        """All of them in one box, at once: killing the one must not be stopped by another, nor mistake it."""
        async with self.subject(directory) as subject, asyncio.timeout(HANG_S):
            await asyncio.gather(*(check(subject, tree, f"mark of {tree}") for tree in TREES))
            assert await subject.out("echo fine") == "fine\n"

    async def test_a_tree_is_found_by_its_name_when_its_first_process_is_gone(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject, self.sandbox(tmp_path) as other:
            left = f"(setsid sh -c 'echo up; exec sleep {FOREVER}' &)"
            process = await subject.spawn(f"{left} >log 2>&1", env={"TREE": subject.id}, exec_id="left")
            assert (await ran(process)).status == 0
            await subject.appears("log")
            assert await subject.survivors(f"TREE={subject.id}") != ""
            await other.end(subject.id, "left")
            assert await subject.survivors(f"TREE={subject.id}") == ""

    async def test_a_tree_that_grows_while_it_is_killed_is_killed_whole(self, tmp_path: Path) -> None:
        # Each ends soon, and leaves one behind in a session of its own, the first one two. When the box is gone, none.
        growing = """
            next() { setsid sh -c "$0" "$0" & }
            sleep 0.02; [ -e on ] || exit; next; [ -e more ] || { : > more; next; }
        """
        async with self.subject(tmp_path) as subject:
            process = await subject.spawn(
                ["sh", "-c", ': > on; sh -c "$0" "$0"; echo up; exec sleep 600', growing], env={"TREE": subject.id}
            )
            await Reader(process).until("up\n")
            await process.kill()
            assert await subject.survivors(f"TREE={subject.id}") == ""

    async def test_ending_one_command_spares_the_others(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            spared = await subject.spawn("until [ -e go ]; do sleep 0.01; done; echo alive", exec_id="spared")
            ended = await subject.spawn(TREES["daemon"], exec_id="ended")
            also = await subject.spawn(TREES["child"])
            for process in (ended, also):
                await Reader(process).until("up\n")
            await subject.sandbox.end(subject.id, "ended")
            await also.kill()
            await subject.sandbox.write_file(subject.id, "go", b"")
            assert (await ran(spared)).stdout == b"alive\n"

    async def test_names_of_one_box_end_nothing_in_another(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox, made(sandbox) as one, made(sandbox) as other:
            script = "echo up; until [ -e go ]; do sleep 0.01; done; echo alive"
            process = await other.spawn(script, exec_id="same")
            reader = Reader(process)
            await reader.until("up\n")
            await sandbox.end(one.id, "same")
            await sandbox.signal(one.id, "same", signal.SIGKILL)
            await sandbox.write_file(other.id, "go", b"")
            assert await reader.rest() == "alive\n"

    async def test_ending_what_has_ended_is_no_error(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            process = await subject.spawn("exit 3", exec_id="done")
            async with asyncio.timeout(HANG_S):
                assert (await ran(process)).status == 3
                await process.signal(signal.SIGTERM)
                await process.resize(TerminalSize())
                await process.kill()
                await process.kill()
                for name in ("done", "never was"):
                    await subject.sandbox.end(subject.id, name)
                    await subject.sandbox.signal(subject.id, name, signal.SIGTERM)
            assert await process.wait() == 3

    async def test_killing_twice_at_once_is_no_error(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject, self.sandbox(tmp_path) as other:
            process = await subject.spawn(TREES["grandchild"], exec_id="twice", env={"TREE": subject.id})
            await Reader(process).until("up\n")
            async with asyncio.timeout(HANG_S):
                await asyncio.gather(process.kill(), process.kill(), other.end(subject.id, "twice"))
            assert await subject.survivors(f"TREE={subject.id}") == ""

    async def test_a_killing_whose_caller_is_cancelled_is_carried_out(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            process = await subject.spawn(TREES["deaf"], env={"TREE": subject.id})
            await Reader(process).until("up\n")
            killing = asyncio.create_task(process.kill())
            await asyncio.sleep(0)
            killing.cancel()
            await asyncio.wait({killing}, timeout=HANG_S)
            async with asyncio.timeout(HANG_S):
                assert await process.wait() > 128
            assert await subject.survivors(f"TREE={subject.id}") == ""

    @pytest.mark.parametrize("turns", [0, 1, 10, 100])
    async def test_a_start_that_is_cancelled_leaves_no_process(self, tmp_path: Path, turns: int) -> None:
        async with self.subject(tmp_path) as subject:
            starting = asyncio.create_task(subject.spawn(f"exec sleep {FOREVER}", env={"TREE": subject.id}))
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            await asyncio.wait({starting}, timeout=HANG_S)
            if not starting.cancelled():
                # It was quicker than we.
                await starting.result().kill()
            assert await subject.survivors(f"TREE={subject.id}") == ""

    @pytest.mark.parametrize("by", ["its handle", "its name", "its name, from another sandbox"])
    async def test_a_signal_reaches_the_process_itself(self, tmp_path: Path, by: str) -> None:
        script = "trap 'echo got; exit 7' USR1; echo up; while :; do sleep 0.01; done"
        async with self.subject(tmp_path) as subject, self.sandbox(tmp_path) as other:
            process = await subject.spawn(script, exec_id="trapped")
            reader = Reader(process)
            await reader.until("up\n")
            match by:
                case "its handle":
                    await process.signal(signal.SIGUSR1)
                case "its name":
                    await subject.sandbox.signal(subject.id, "trapped", signal.SIGUSR1)
                case _:
                    await other.signal(subject.id, "trapped", signal.SIGUSR1)
            assert await reader.rest() == "got\n"
            assert await process.wait() == 7

    async def test_what_a_dead_box_s_process_was_is_not_another_s_of_the_same_name(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox, made(sandbox) as subject:
            await ran(await subject.spawn("true", exec_id="again"))
            await sandbox.delete(subject.id)
            await sandbox.create(subject.id, BoxSpec(), {})
            process = await subject.spawn("echo up; exec sleep 600", exec_id="again")
            await Reader(process).until("up\n")
            await sandbox.end(subject.id, "again")
            assert await process.wait() > 128
