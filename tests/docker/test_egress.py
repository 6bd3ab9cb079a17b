"""Does a box with an `Egress` reach what it may, through the gate of whoever takes care of it, and nothing else?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import docker
import pytest
from docker_image import busybox_image, tools_image

from boxflow.errors import ConfigurationError, NotSupportedError
from boxflow.ports import BoxSpec, Egress, ProcessSpec
from boxflow_backends.docker_sandbox import DockerSandbox

pytestmark = [pytest.mark.real, pytest.mark.docker]

FETCH = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())
except urllib.error.HTTPError as error:
    print("refused", error.code)
except OSError as error:
    print("failed", error)
"""


class Upstream:
    """A server of this machine that the gate is told to take for a host of the world."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    server = Upstream()
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield server


def spec(port: int, **more: object) -> BoxSpec:
    host = "allowed.example.org"
    # With its port named: else a header that holds a secret goes out over TLS only.
    egress = Egress(allow=[f"{host}:80"], headers={host: {"X-Key": "$KEY"}}, resolve={host: f"127.0.0.1:{port}"})
    return BoxSpec(network=egress, **more)  # type: ignore[arg-type]  # a test names fields that are there


async def fetch(sandbox: DockerSandbox, url: str) -> str:
    process = await sandbox.spawn("b", ProcessSpec(argv=["python3", "-c", FETCH, url]))
    return b"".join([data async for _, data in process.read()]).decode().strip()


async def test_what_is_allowed_is_reached_and_nothing_else(
    sandbox: DockerSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "hunter2")
    async with upstream() as server, sandbox:
        await sandbox.create("b", spec(server.port), {})
        try:
            assert await fetch(sandbox, "http://allowed.example.org/path") == "hello"
            assert "GET /path " in server.requests[0] and "hunter2" in server.requests[0]
            for url in ("http://other.example.org/", f"http://127.0.0.2:{server.port}/", "http://169.254.169.254/"):
                assert (await fetch(sandbox, url)).startswith("refused 4")
            assert len(server.requests) == 1
        finally:
            await sandbox.delete("b")


async def test_another_engine_serves_the_gate_after_this_one_has_gone(
    namespace: str, engine: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "hunter2")
    async with upstream() as server:
        async with DockerSandbox(tools_image(), namespace=namespace) as first:
            await first.create("b", spec(server.port), {})
        async with DockerSandbox(tools_image(), namespace=namespace) as second:
            try:
                assert await fetch(second, "http://allowed.example.org/") == "refused 503"
                await second.attach("b")
                assert await fetch(second, "http://allowed.example.org/") == "hello"
                await second.pause("b")
                await second.resume("b")
                assert await fetch(second, "http://allowed.example.org/") == "hello"
                (found,) = engine.containers(filters={"label": f"boxflow.docker.namespace={namespace}"})
                engine.kill(found["Id"])
                await second.resume("b")
                assert await fetch(second, "http://allowed.example.org/") == "hello"
                place = Path(json.loads(found["Labels"]["boxflow.docker.egress"])["directory"])
                assert (place / "gate.sock").exists()
                assert "hunter2" not in str(engine.inspect_container(found["Id"]))
            finally:
                await second.delete("b")
        assert not place.parent.exists()


async def test_a_policy_that_cannot_work_makes_no_box(sandbox: DockerSandbox) -> None:
    async with sandbox:
        with pytest.raises(ConfigurationError):
            await sandbox.create("b", BoxSpec(network=Egress(allow=["10.0.0.1"])), {})
        assert await sandbox.list({}) == []


async def test_an_image_without_a_forwarder_is_refused_and_leaves_no_box(namespace: str) -> None:
    async with DockerSandbox(busybox_image(), namespace=namespace) as sandbox:
        with pytest.raises(NotSupportedError, match="python3"):
            await sandbox.create("b", spec(1), {})
        assert await sandbox.list({}) == []
