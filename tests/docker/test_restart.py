"""What happens to boxes, and to those who use them, when the Docker engine dies and comes back?"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker_image import busybox_image

from boxflow.errors import SandboxUnavailableError
from boxflow.ports import BoxSpec, BoxStatus, ProcessSpec
from boxflow_backends.docker_sandbox import DockerSandbox

pytestmark = [pytest.mark.real, pytest.mark.docker]

SCRIPT = Path(__file__).parents[2] / ".ci" / "dockerd"


class Engine:
    """A Docker engine of a test's own, which it may kill."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/docker.sock"

    def start(self) -> None:
        subprocess.run([SCRIPT, "start", self.directory], check=True, timeout=60)

    def stop(self) -> None:
        subprocess.run([SCRIPT, "stop", self.directory], check=True, timeout=60)

    def kill(self) -> None:
        """As an out-of-memory killer would: the daemon is gone, and its containers with it."""
        keeper = int((self.directory / "keeper.pid").read_text())
        children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        for _ in range(100):
            if not Path(f"/proc/{keeper}").exists():
                return
            subprocess.run(["sleep", "0.1"], check=True)


@pytest.fixture
def own(need: Callable[[str, bool], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    # Short: a unix socket's path has 107 bytes at most.
    directory = Path(tempfile.mkdtemp(prefix="bf-", dir="/tmp"))
    engine = Engine(directory)
    need("docker", os.geteuid() == 0 and shutil.which("dockerd") is not None)
    try:
        engine.start()
        monkeypatch.setenv("DOCKER_HOST", engine.url)
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(directory)


async def test_a_killed_engine_is_an_error_and_its_boxes_come_back_with_their_files(own: Engine) -> None:
    async with DockerSandbox(busybox_image(), host=own.url) as sandbox:
        await sandbox.create("b", BoxSpec(), {"l": "1"})
        await sandbox.write_file("b", "kept", b"work")
        running = await sandbox.spawn("b", ProcessSpec(argv=["sleep", "600"]))
        reading = asyncio.create_task(collect(running))
        own.kill()
        # Each asks for ten seconds whether the engine comes back.
        async with asyncio.timeout(40):
            read, ended, got = await asyncio.gather(reading, running.wait(), sandbox.get("b"), return_exceptions=True)
        assert read == b""
        assert isinstance(ended, SandboxUnavailableError)
        assert isinstance(got, SandboxUnavailableError) and "docker.sock" in str(got)
        own.start()
        (listed,) = await sandbox.list({"l": "1"})
        assert listed.status is BoxStatus.STOPPED
        await sandbox.resume("b")
        assert (await sandbox.get("b")).status is BoxStatus.RUNNING
        assert await sandbox.read_file("b", "kept") == b"work"
        await sandbox.delete("b")


async def test_a_command_that_was_cut_off_is_never_said_to_have_ended(own: Engine) -> None:
    async with DockerSandbox(busybox_image(), host=own.url) as sandbox:
        await sandbox.create("b", BoxSpec(), {})
        running = await sandbox.spawn("b", ProcessSpec(argv=["sleep", "600"]))
        own.kill()
        own.start()
        # The engine is back, and knows nothing of that command.
        async with asyncio.timeout(30):
            with pytest.raises(SandboxUnavailableError, match="not known"):
                await running.wait()
        await sandbox.delete("b")


async def test_making_a_box_waits_for_an_engine_that_restarts(own: Engine) -> None:
    async with DockerSandbox(busybox_image(), host=own.url) as sandbox:
        await sandbox.create("first", BoxSpec(), {})
        own.kill()
        making = asyncio.create_task(sandbox.create("second", BoxSpec(), {}))
        await asyncio.sleep(1)
        await asyncio.to_thread(own.start)
        assert (await making).status is BoxStatus.RUNNING
        assert {info.box_id for info in await sandbox.list({})} == {"first", "second"}


async def collect(process: object) -> bytes:
    return b"".join([data async for _, data in process.read()])  # type: ignore[attr-defined]  # a process of the sandbox
