"""The forwarder pipes any number of connections to the socket, in whatever language the box has."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from egress.harness import free_port, ready

from boxflow_backends.egress_gate import box_environment, forwarder_argv

# What each way needs beside a shell; `sleep` is in every box.
LANGUAGES = {
    "python3": {"python3": os.path.realpath(sys.executable)},
    "perl": {"perl": shutil.which("perl")},
    "node": {"node": shutil.which("node")},
    "socat": {"socat": shutil.which("socat")},
}


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fwd-") as found:
        yield Path(found)


def programs(directory: Path, tools: dict[str, str | None]) -> str:
    """A PATH on which nothing is but these."""
    found = directory / "bin"
    found.mkdir()
    for name in ("sh", "sleep"):
        (found / name).symlink_to(str(shutil.which(name)))
    for name, path in tools.items():
        (found / name).symlink_to(str(path))
    return str(found)


@asynccontextmanager
async def running(directory: Path, path: str, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    argv = forwarder_argv(str(directory / "gate.sock"), port)
    process = await asyncio.create_subprocess_exec(
        *argv,
        env={"PATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        await process.communicate()


async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def exchange(port: int, size: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> str:
        sha, dice = hashlib.sha256(), random.Random(size)
        for _ in range(0, size, 50_000):
            chunk = dice.randbytes(50_000)
            sha.update(chunk)
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
        return sha.hexdigest()

    async def receive() -> str:
        sha = hashlib.sha256()
        while data := await reader.read(65536):
            sha.update(data)
        return sha.hexdigest()

    sent, received = await asyncio.gather(send(), receive())
    assert sent == received
    writer.close()
    await writer.wait_closed()


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest, directory: Path, need: Callable[[str, bool], None]) -> str:
    tools = LANGUAGES[request.param]
    for name, path in tools.items():
        need(name, path is not None)
    return programs(directory, tools)


async def test_fifty_connections_at_once_and_large_bodies_both_ways_arrive_whole(
    directory: Path, language: str
) -> None:
    server = await asyncio.start_unix_server(repeat, str(directory / "gate.sock"), backlog=100)
    async with server, running(directory, language, port := free_port()) as process:
        await ready(process)
        await asyncio.wait_for(asyncio.gather(*(exchange(port, 200_000) for _ in range(50))), 50)
        await asyncio.wait_for(exchange(port, 20_000_000), 30)
        await asyncio.gather(*(exchange(port, 50_000) for _ in range(5)))


async def test_a_side_that_breaks_off_is_passed_on(directory: Path, language: str) -> None:
    gone = asyncio.Event()

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(100)
        if first == b"close me":
            writer.write(b"bye")
            writer.close()
            return
        while await reader.read(100):
            pass
        gone.set()
        writer.close()

    server = await asyncio.start_unix_server(rude, str(directory / "gate.sock"))
    async with server, running(directory, language, port := free_port()) as process:
        await ready(process)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"close me")
        assert await asyncio.wait_for(reader.read(), 5) == b"bye"
        writer.close()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        await writer.drain()
        writer.close()
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_port_that_is_taken_ends_the_forwarder(directory: Path, language: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        async with running(directory, language, other.getsockname()[1]) as process:
            stdout, stderr = await asyncio.wait_for(process.communicate(), 10)
            assert (process.returncode, stdout) == (1, b"")
            assert stderr.startswith(b"boxflow: ")


async def test_a_gate_that_is_not_there_ends_the_connection_and_not_the_forwarder(
    directory: Path, language: str
) -> None:
    async with running(directory, language, port := free_port()) as process:
        await ready(process)
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer = await asyncio.wait_for(reader.read(), 5)
            assert answer in {
                b"",
                b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            }
            writer.close()
        async with await asyncio.start_unix_server(repeat, str(directory / "gate.sock")):
            await exchange(port, 100_000)


async def test_a_box_that_has_none_of_them_is_told_what_it_needs(directory: Path) -> None:
    async with running(directory, programs(directory, {}), free_port()) as process:
        stdout, stderr = await asyncio.wait_for(process.communicate(), 10)
        assert (process.returncode, stdout) == (69, b"")
        assert b"needs one of python3, perl, node or socat" in stderr


async def test_it_listens_on_loopback_only_and_keeps_no_processor_busy(directory: Path, language: str) -> None:
    async with running(directory, language, port := free_port()) as process:
        await ready(process)
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        assert [line[1] for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "0A"] == [
            f"0100007F:{port:04X}"
        ]
        before = Path(f"/proc/{process.pid}/stat").read_text().split()[13:15]
        await asyncio.sleep(0.3)
        after = Path(f"/proc/{process.pid}/stat").read_text().split()[13:15]
        assert sum(map(int, after)) - sum(map(int, before)) <= 2


def test_the_environment_points_to_the_forwarder_and_the_bundle() -> None:
    found = box_environment("/run/boxflow/", 4000)
    assert {found[name] for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")} == {
        "http://127.0.0.1:4000"
    }
    assert "127.0.0.1" in found["NO_PROXY"].split(",")
    bundles = (
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "GIT_SSL_CAINFO",
        "PIP_CERT",
    )
    assert {found[name] for name in bundles} == {"/run/boxflow/ca-bundle.pem"}
