"""Processes of local boxes: none is left behind, none is a thread or a zombie of ours, and none blocks the loop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from boxflow.boxes import Boxes
from boxflow.errors import BoxNotFoundError, CommandTimeoutError, SandboxError
from boxflow.ports import ProcessSpec
from boxflow_backends.local_sandbox import LocalSandbox

linux = pytest.mark.skipif(sys.platform != "linux", reason="daemons are found through /proc")


def _with(variable: str) -> list[int]:
    """Living processes in whose environment *variable* stands."""
    found: list[int] = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (directory / "environ").read_bytes().split(b"\0"):
                found.append(int(directory.name))
        except OSError:
            continue
    return found


def _zombies() -> list[str]:
    listed = subprocess.run(
        ["ps", "-o", "stat=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return [line for line in listed.stdout.split() if line.startswith("Z")]


_ENGINE = """
import asyncio, sys
from boxflow.boxes import Boxes
from boxflow_backends.local_sandbox import LocalSandbox

async def main():
    boxes = Boxes(LocalSandbox(sys.argv[1]))
    box = await boxes.create(box_id="orphaned", env={"WHOSE": sys.argv[2]})
    await box.exec.command("(setsid sh -c 'while :; do sleep 1 & wait; done' >/dev/null 2>&1 &)")
    running = asyncio.create_task(box.exec.command("sleep 600"))
    await asyncio.sleep(0.3)
    print("ready", flush=True)
    await running

asyncio.run(main())
"""


@linux
async def test_after_sigkill_of_the_engine_the_next_one_s_delete_ends_what_runs(tmp_path: Path) -> None:
    whose = f"killed-{os.getpid()}"
    engine = subprocess.Popen(
        [sys.executable, "-c", _ENGINE, str(tmp_path), whose],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with engine:
        assert engine.stdout is not None
        assert await asyncio.to_thread(engine.stdout.readline) == b"ready\n"
        engine.kill()
    assert len(_with(f"WHOSE={whose}")) >= 2
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        await boxes.delete("orphaned")
    assert _with(f"WHOSE={whose}") == []
    assert not list(tmp_path.iterdir())


@linux
async def test_boxes_of_one_id_below_two_roots_do_not_end_each_other_s_processes(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path / "a")) as one, Boxes(LocalSandbox(tmp_path / "b")) as other:
        first, second = await one.create(box_id="same"), await other.create(box_id="same")
        running = asyncio.create_task(
            second.exec.command("until [ -e go ]; do sleep 0.01; done; echo alive", timeout=30)
        )
        await first.delete()
        await second.files.write("go", "")
        assert (await running).stdout == "alive\n"
        await second.delete()


@linux
async def test_a_process_that_wiped_its_environment_is_ended_with_its_session(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes, boxes.create() as box:
        with pytest.raises(CommandTimeoutError) as caught:
            await box.exec.command("env -i sleep 600 & echo $!; sleep 600", timeout=0.5)
        assert not Path(f"/proc/{caught.value.stdout.strip()}").exists() or "Z" in _state(int(caught.value.stdout))


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@linux
async def test_a_fork_storm_is_ended(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes, boxes.create(env={"STORM": str(tmp_path)}) as box:
        storm = "n() { while :; do (setsid sleep 30 &); sleep 0.005; done; }; n & n & n"
        with pytest.raises(CommandTimeoutError):
            await box.exec.command(storm, timeout=0.5)
        assert _with(f"STORM={tmp_path}") == []


@linux
async def test_no_zombie_and_no_thread_is_left(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes, boxes.create() as box:
        await asyncio.gather(*(box.exec.command("true") for _ in range(30)))
        with pytest.raises(CommandTimeoutError):
            await box.exec.command("(setsid sleep 600 &); sleep 600", timeout=0.2)
        assert _zombies() == []
        # Those of the pool that starts processes and works on files; none for each process.
        assert threading.active_count() <= 20


@linux
async def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes, boxes.create() as box:
        await box.exec.command("true")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            await box.exec.command("cat", stdin="x")
            await box.exec.command("sleep 600 & echo x")
            await box.files.write("a/b", "x")
            await box.files.list(recursive=True)
            with pytest.raises(SandboxError):
                await box.files.read("a")
            with pytest.raises(CommandTimeoutError):
                await box.exec.command("sleep 600", timeout=0.05)
        assert len(os.listdir("/proc/self/fd")) == before


async def test_a_slow_reader_holds_the_writer_and_loses_nothing(tmp_path: Path) -> None:
    async with LocalSandbox(tmp_path) as sandbox:
        box = await Boxes(sandbox).create()
        argv = ["sh", "-c", "head -c 5000000 /dev/zero; echo end"]
        process = await sandbox.spawn(box.id, ProcessSpec(argv=argv))
        total, last = 0, b""
        async for _, data in process.read():
            total, last = total + len(data), data
            await asyncio.sleep(0.002)
        assert total == 5_000_004
        assert last.endswith(b"end\n")
        assert await process.wait() == 0
        await process.kill()
        await box.delete()


async def test_one_can_talk_with_a_process(tmp_path: Path) -> None:
    async with LocalSandbox(tmp_path) as sandbox:
        box = await Boxes(sandbox).create()
        process = await sandbox.spawn(box.id, ProcessSpec(argv=["cat"], stdin=True))
        output = process.read()
        for line in (b"one\n", b"two\n"):
            await process.write(line)
            assert await anext(output) == ("stdout", line)
        await process.close_stdin()
        assert [chunk async for chunk in output] == []
        assert await process.wait() == 0
        with pytest.raises(SandboxError, match="closed"):
            await process.write(b"late")
        await box.delete()


async def test_killing_twice_is_no_error(tmp_path: Path) -> None:
    async with LocalSandbox(tmp_path) as sandbox:
        box = await Boxes(sandbox).create()
        process = await sandbox.spawn(box.id, ProcessSpec(argv=["sleep", "600"]))
        await asyncio.gather(process.kill(), process.kill())
        await process.kill()
        assert await process.wait() == 128 + signal.SIGKILL
        await box.delete()


async def test_cancelling_a_start_leaves_no_process(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes, boxes.create(env={"START": str(tmp_path)}) as box:
        for turns in range(15):
            task = asyncio.create_task(box.exec.command("sleep 600"))
            await asyncio.sleep(turns * 0.0003)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert _with(f"START={tmp_path}") == []


async def test_starts_race_with_delete_and_none_survives(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        for _ in range(5):
            box = await boxes.create(env={"RACE": str(tmp_path)})
            running = [asyncio.create_task(box.exec.command("sleep 600")) for _ in range(10)]
            await asyncio.sleep(0.004)
            await box.delete()
            ended = await asyncio.gather(*running, return_exceptions=True)
            odd = [end for end in ended if not isinstance(end, SandboxError) and getattr(end, "exit_code", 0) != 137]
            assert not odd
            assert _with(f"RACE={tmp_path}") == []
            assert not list(tmp_path.iterdir())


async def test_the_loop_goes_on_while_boxes_work(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes, boxes.create() as box:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.01)
                beats += 1

        heart = asyncio.create_task(beat())
        await box.exec.command("mkdir d; cd d; for i in $(seq 2000); do : > f$i; done; sleep 0.3")
        await box.delete()
        heart.cancel()
        assert beats >= 10


def test_commands_work_on_uvloop(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with Boxes(LocalSandbox(tmp_path)) as boxes, boxes.create() as box:
            results = await asyncio.gather(*(box.exec.command(["cat"], stdin=str(n)) for n in range(20)))
            assert [result.stdout for result in results] == [str(n) for n in range(20)]
            with pytest.raises(CommandTimeoutError):
                await box.exec.command("(setsid sleep 600 &); sleep 600", timeout=0.2)
            assert (await box.exec.command("head -c 3000000 /dev/zero | wc -c")).stdout.strip() == "3000000"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_one_sandbox_serves_several_event_loops(tmp_path: Path) -> None:
    sandbox = LocalSandbox(tmp_path)

    async def main() -> str:
        async with Boxes(sandbox) as boxes, boxes.create() as box:
            return (await box.exec.command("echo x")).stdout

    assert [asyncio.run(main()) for _ in range(3)] == ["x\n"] * 3


@linux
async def test_a_box_within_a_box_is_ended_with_the_outer_one(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path / "outer")) as boxes:
        box = await boxes.create(env={"PYTHONPATH": os.pathsep.join(sys.path)})
        whose = f"nested-{os.getpid()}"
        running = asyncio.create_task(box.exec.command([sys.executable, "-c", _ENGINE, str(tmp_path / "inner"), whose]))
        deadline = time.monotonic() + 30
        while len(_with(f"WHOSE={whose}")) < 3 and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await box.delete()
        await running
        assert _with(f"WHOSE={whose}") == []


async def test_a_command_in_a_deleted_box_says_that_it_is_gone(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        box = await boxes.create()
        await box.delete()
        with pytest.raises(BoxNotFoundError, match=box.id):
            await box.exec.command("true")


async def test_a_command_line_that_no_system_takes_is_told(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes, boxes.create() as box:
        with pytest.raises(SandboxError, match="cannot start 'sh'"):
            await box.exec.command("#" + "x" * 5_000_000)
        with pytest.raises(SandboxError, match="null byte"):
            await box.exec.command(["echo", "a\0b"])
        with pytest.raises(ValueError, match="empty"):
            await box.exec.command([])
