"""Does a box work whose image has busybox and nothing else?"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from docker_image import busybox_image

from boxflow.boxes import Boxes
from boxflow.errors import BoxFileNotFoundError, CommandTimeoutError, SandboxError
from boxflow.ports import BoxSpec, ProcessSpec, TerminalSize
from boxflow_backends.docker_sandbox import DockerSandbox

pytestmark = [pytest.mark.real, pytest.mark.docker]

FOREVER = "600"


@pytest.fixture
def busybox(namespace: str) -> DockerSandbox:
    return DockerSandbox(busybox_image(), namespace=namespace)


async def test_commands_run_with_their_directory_input_and_status(busybox: DockerSandbox) -> None:
    async with Boxes(busybox) as boxes, boxes.create() as box:
        result = await box.exec.command("mkdir -p d; cd d; cat; echo err >&2; exit 3", stdin="in\n")
        assert (result.exit_code, result.stdout, result.stderr) == (3, "in\n", "err\n")
        assert (await box.exec.command("id -un; pwd", cwd="d")).stdout == "agent\n/workspace/d\n"
        with pytest.raises(SandboxError, match="no-such-program"):
            await box.exec.command(["no-such-program"])
        with pytest.raises(SandboxError, match="missing"):
            await box.exec.command("true", cwd="missing")


@pytest.mark.parametrize(
    "tree",
    [
        f"sleep {FOREVER} & echo up; wait",
        f"(setsid sh -c 'echo up; sleep {FOREVER}' &) ; sleep {FOREVER}",
        f"trap '' TERM INT HUP; echo up; sleep {FOREVER}",
        f"(env -i setsid sh -c 'echo up; sleep {FOREVER}' &) ; sleep {FOREVER}",
    ],
)
async def test_a_timeout_ends_the_whole_tree(busybox: DockerSandbox, tree: str) -> None:
    async with Boxes(busybox) as boxes, boxes.create() as box:
        with pytest.raises(CommandTimeoutError) as caught:
            await box.exec.command(tree, timeout=2)
        assert caught.value.stdout == "up\n"
        assert FOREVER not in (await box.exec.command("ps -o args | grep sleep | grep -v -e grep -e 2147483647")).stdout


async def test_files_are_written_read_listed_moved_and_removed(busybox: DockerSandbox) -> None:
    async with Boxes(busybox) as boxes, boxes.create() as box:
        for name in ("plain", "-rf", "new\nline", "ü ä", "a/b/c"):
            await box.files.write(name, bytes(range(256)))
            assert await box.files.read_bytes(name) == bytes(range(256))
        assert await box.files.read_bytes("plain", offset=3, limit=4) == b"\3\4\5\6"
        names = [info.path for info in await box.files.list(recursive=True)]
        assert names == sorted(["plain", "-rf", "new\nline", "ü ä", "a", "a/b", "a/b/c"])
        await box.files.write("plain", "x", mode=0o700)
        await box.files.write("plain", "y")
        assert (await box.files.stat("plain")).mode == 0o700
        await box.files.rename("plain", "moved/there")
        await box.files.remove("moved")
        with pytest.raises(BoxFileNotFoundError):
            await box.files.read("moved/there")


async def test_folders_go_in_and_come_out(busybox: DockerSandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "run").write_text("#!/bin/sh\necho ran\n")
    (source / "sub" / "run").chmod(0o755)
    (source / "link").symlink_to("sub/run")
    async with busybox:
        await busybox.create("b", BoxSpec(), {})
        try:
            await busybox.upload("b", source, "there")
            process = await busybox.spawn("b", ProcessSpec(argv=["there/link"]))
            assert [data async for _, data in process.read()] == [b"ran\n"]
            await busybox.download("b", "there", tmp_path / "back")
        finally:
            await busybox.delete("b")
    assert (tmp_path / "back" / "sub" / "run").read_text() == (source / "sub" / "run").read_text()
    assert (tmp_path / "back" / "link").readlink() == Path("sub/run")


async def test_a_terminal_has_its_size(busybox: DockerSandbox) -> None:
    async with busybox:
        await busybox.create("b", BoxSpec(), {})
        try:
            size = TerminalSize(columns=91, rows=33)
            process = await busybox.spawn("b", ProcessSpec(argv=["sh", "-c", "stty size"], tty=size))
            out = b"".join([data async for _, data in process.read()])
            assert b"33 91" in out
            assert await process.wait() == 0
        finally:
            await busybox.delete("b")


async def test_jobs_run_and_are_killed(busybox: DockerSandbox) -> None:
    async with Boxes(busybox) as boxes, boxes.create() as box:
        job = await box.jobs.start("echo out; echo err >&2; exit 3", job_id="one")
        result = await job.wait(timeout=30)
        assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")
        deaf = await box.jobs.start(f"trap '' TERM; sleep {FOREVER}", job_id="two")
        await asyncio.sleep(0.2)
        await deaf.kill()
        assert (await deaf.info()).exit_code == 137


async def test_a_signal_reaches_the_command_of_a_job_and_not_its_watcher(busybox: DockerSandbox) -> None:
    async with Boxes(busybox) as boxes, boxes.create() as box:
        script = "trap 'echo got it; exit 7' USR1; echo up; while :; do sleep 0.1; done"
        job = await box.jobs.start(script, job_id="one")
        async for piece in job.logs(follow=True):
            if b"up" in piece.data:
                break
        await job.signal("USR1")
        result = await job.wait(timeout=30)
        assert (result.exit_code, result.stdout) == (7, "up\ngot it\n")


async def test_a_port_is_reached_with_netcat(busybox: DockerSandbox) -> None:
    async with busybox:
        await busybox.create("b", BoxSpec(), {})
        try:
            await busybox.write_file("b", "www/hello", b"hello from the box")
            await busybox.spawn("b", ProcessSpec(argv=["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "www"]))
            url = await busybox.url("b", 8080)
            host, _, port = url.removeprefix("http://").partition(":")
            answer = b""
            for _ in range(50):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(b"GET /hello HTTP/1.0\r\n\r\n")
                answer = await reader.read()
                writer.close()
                await writer.wait_closed()
                if b"200 OK" in answer:
                    break
                await asyncio.sleep(0.1)
            assert answer.endswith(b"hello from the box")
        finally:
            await busybox.delete("b")
