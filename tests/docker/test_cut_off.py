"""What becomes of a file that was on its way into a box when whoever sent it was cancelled? It is not there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from docker_image import busybox_image, tools_image

from boxflow.ports import BoxSpec, ProcessSpec
from boxflow_backends.docker_sandbox import DockerSandbox

pytestmark = [pytest.mark.real, pytest.mark.docker]

# Reading it costs nothing, and it takes long enough to be cancelled on its way.
SIZE = 1_000_000_000

# Ends as soon as part of the file has arrived: under its name, or under the one that it has meanwhile.
WATCH = 'while :; do for f in d/f* d/.b*; do [ -s "$f" ] && echo "$f" && exit; done; done'


@pytest.mark.parametrize("userland", ["debian", "busybox"])
@pytest.mark.parametrize("what", ["file", "folder"])
async def test_no_part_of_a_file_stays(namespace: str, tmp_path: Path, what: str, userland: str) -> None:
    sent = tmp_path / "sent"
    sent.mkdir()
    # Only the second is cut off: what arrived before it, whole, may stay.
    (sent / "a").write_bytes(b"whole")
    with (sent / "f\n").open("wb") as file:
        file.truncate(SIZE)
    image = tools_image() if userland == "debian" else busybox_image()
    async with DockerSandbox(image, namespace=namespace) as sandbox:
        await sandbox.create("box", BoxSpec(), {})
        source, path = (sent, "d") if what == "folder" else (sent / "f\n", "d/f\n")
        watching = await sandbox.spawn("box", ProcessSpec(argv=["sh", "-c", WATCH]))
        uploading = asyncio.create_task(sandbox.upload("box", source, path))
        async with asyncio.timeout(60):
            seen = b"".join([data async for _, data in watching.read()])
        uploading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await uploading
        assert seen

        left = await sandbox.spawn("box", ProcessSpec(argv=["find", "d", "-type", "f"]))
        found = b"".join([data async for _, data in left.read()])
        assert found in (b"", b"d/a\n")
        await sandbox.delete("box")
