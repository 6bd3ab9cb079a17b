"""The limits of a local sandbox bind each process, and nobody is told that they bind a box."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from boxflow.errors import NotSupportedError, SandboxError
from boxflow.ports import BoxSpec, ProcessSpec
from boxflow_backends.local_sandbox import LocalSandbox, ProcessLimits

from .support import local_box


async def test_a_process_gets_no_more_memory_than_its_limit(tmp_path: Path) -> None:
    async with local_box(tmp_path, limits=ProcessLimits(memory_bytes=512 * 1024**2)) as box:
        assert (await box.run("python3 -c 'bytes(100_000_000)'"))[0] == 0
        status, _, said = await box.run("python3 -c 'bytes(800_000_000)'")
        assert status != 0 and "MemoryError" in said


async def test_a_file_grows_no_further_than_its_limit(tmp_path: Path) -> None:
    async with local_box(tmp_path, limits=ProcessLimits(file_bytes=1_000_448)) as box:
        assert (await box.run("head -c 1000448 /dev/zero > f"))[0] == 0
        assert (await box.run("head -c 1000449 /dev/zero > f"))[0] != 0
        assert (await box.run("wc -c < f"))[1].strip() == "1000448"


async def test_files_and_processor_time_are_limited_and_no_core_is_dumped(tmp_path: Path) -> None:
    async with local_box(tmp_path, limits=ProcessLimits(open_files=40, cpu_s=1)) as box:
        assert (await box.run("ulimit -n; ulimit -t; ulimit -c"))[1].split() == ["40", "1", "0"]
        status, _, said = await box.run("python3 -c '[open(\"/dev/null\") for _ in range(99)]'")
        assert status == 1 and "Too many open files" in said
        assert (await box.run("exec sh -c 'while :; do :; done'"))[0] in (128 + 24, 128 + 9)


async def test_the_number_of_processes_is_limited_for_everybody_but_root(tmp_path: Path) -> None:
    async with local_box(tmp_path, limits=ProcessLimits(processes=4321)) as box:
        assert (await box.run("bash -c 'ulimit -u'"))[1].strip() == "4321"


async def test_limits_change_nothing_else_about_a_process(tmp_path: Path) -> None:
    async with local_box(tmp_path, limits=ProcessLimits(open_files=100)) as box:
        process = await box.sandbox.spawn(box.id, ProcessSpec(argv=("printf", "%s|", "a b", "$HOME", "", "-n")))
        assert b"".join([data async for _, data in process.read()]) == b"a b|$HOME||-n|"
        with pytest.raises(SandboxError, match="no-such-program"):
            await box.sandbox.spawn(box.id, ProcessSpec(argv=("no-such-program",)))
        await box.sandbox.write_file(box.id, "bin/here", b"#!/bin/sh\necho here\n", mode=0o755)
        assert await box.run("here", env={"PATH": f"bin:{os.environ['PATH']}"}) == (0, "here\n", "")
        process = await box.sandbox.spawn(box.id, ProcessSpec(argv=("./here",), cwd="bin"))
        assert await process.wait() == 0


async def test_without_limits_a_process_has_those_of_its_engine(tmp_path: Path) -> None:
    async with local_box(tmp_path) as box:
        assert (await box.run("ulimit -n"))[1].strip() == str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


@pytest.mark.parametrize("limit", ["cpus", "memory_bytes", "disk_bytes", "max_processes"])
async def test_a_limit_of_a_whole_box_is_refused_by_its_name(tmp_path: Path, limit: str) -> None:
    async with LocalSandbox(tmp_path) as sandbox:
        with pytest.raises(NotSupportedError, match=f"cannot bound {limit}.*ProcessLimits"):
            await sandbox.create("box", BoxSpec(**{limit: 1}), {})


def test_a_limit_that_lets_nothing_live_is_refused() -> None:
    with pytest.raises(ValueError, match="memory_bytes=0"):
        ProcessLimits(memory_bytes=0)
