"""SIGKILL of an engine that has boxes: a command that was under way has run once, and no box and no process is left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from boxflow import Boxes
from tests.crash.box_killing import BoxLife, kill_at_work, until_written

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for left processes in /proc"),
]


def processes_of(directory: Path) -> list[str]:
    """The command lines of processes that work in *directory*."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "cwd").resolve()).startswith(str(directory)):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


async def killed_in_a_command(directory: Path, sandbox: str) -> dict[str, str]:
    """Kill the engine while its command runs, let the command go on, and start the engine again."""
    life = BoxLife(directory, sandbox, "patient", runs=1)
    await life.begin()
    async with Boxes(sandbox) as boxes:
        box = await boxes.get(await until_written(boxes, "patient", "ran"))
        await life.kill()
        await box.files.write("go", "")
    life = BoxLife(directory, sandbox, "patient", runs=1)
    await life.begin()
    return await life.end()


async def test_a_command_under_way_when_the_engine_is_killed_runs_once_and_its_result_arrives(tmp_path: Path) -> None:
    sandbox = f"local:{tmp_path / 'boxes'}"
    assert await killed_in_a_command(tmp_path, sandbox) == {"patient-0": "'ran\\nresult\\n'"}
    assert not list((tmp_path / "boxes").glob("[!.]*"))
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=[pytest.mark.slow, pytest.mark.thorough]) for seed in (2, 3))]
)
async def test_an_engine_killed_at_any_moment_leaves_no_box_and_no_process(tmp_path: Path, seed: int) -> None:
    sandbox = f"local:{tmp_path / 'boxes'}"
    results = await kill_at_work(tmp_path, sandbox, times=12, span_s=0.35, seed=seed)
    assert results == {f"busy-{n}": repr(f"made\n{n} kept\n") for n in range(3)}
    assert not list((tmp_path / "boxes").glob("[!.]*"))
    assert processes_of(tmp_path) == []


def docker_sandbox(need: Callable[[str, bool], None]) -> str:
    """The URL of a sandbox whose image has what the boxes of these tests use."""
    docker_image = pytest.importorskip("tests.docker_image")
    need("docker", docker_image.engine_answers())
    return f"docker:{docker_image.tools_image()}"


@pytest.mark.docker
async def test_a_command_in_a_container_runs_once_too(tmp_path: Path, need: Callable[[str, bool], None]) -> None:
    sandbox = docker_sandbox(need)
    assert await killed_in_a_command(tmp_path, sandbox) == {"patient-0": "'ran\\nresult\\n'"}
    async with Boxes(sandbox) as boxes:
        assert [box.name for box in await boxes.list() if box.name == "patient"] == []


@pytest.mark.docker
@pytest.mark.slow
async def test_an_engine_killed_at_any_moment_leaves_no_container(
    tmp_path: Path, need: Callable[[str, bool], None]
) -> None:
    sandbox = docker_sandbox(need)
    results = await kill_at_work(tmp_path, sandbox, times=6, span_s=2.5, seed=1)
    assert results == {f"busy-{n}": repr(f"made\n{n} kept\n") for n in range(3)}
    async with Boxes(sandbox) as boxes:
        left = [box.name for box in await boxes.list() if box.name in ("kept", "block", "by-hand")]
    assert left == []
