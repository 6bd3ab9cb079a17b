"""What does a sandbox promise about bounds: network, memory, processes, disk, and what is beside the box?"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest

from boxflow.errors import BoxNotFoundError, ImageNotFoundError, NotSupportedError
from boxflow.ports import BoxSpec, Capability, Egress
from boxflow.testing.sandbox_contract.support import HANG_S, TREES, Contract, Reader, Subject, made, new_id

# A datagram socket that is "connected" sends nothing: it only asks whether there is a way. 192.0.2.1 belongs to nobody
# (RFC 5737).
_HAS_WAY_OUT = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"
_CONNECTS = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
_ASKS_DNS = "import socket; socket.getaddrinfo('boxflow-contract.example.org', 80)"
_FETCHES = """
import sys, urllib.error, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=20) as answer:
        print(answer.status, answer.read().decode(), end="")
except urllib.error.HTTPError as error:
    print(error.code, end="")
except OSError as error:
    print("failed", error, end="")
"""
_FORKS = """
import os, time
made = 0
try:
    for _ in range(400):
        if os.fork() == 0:
            time.sleep(600)
        made += 1
except OSError:
    print("refused after", made)
"""

_LIMITED: dict[str, BoxSpec] = {
    "cpus": BoxSpec(cpus=1.0),
    "memory": BoxSpec(memory_bytes=64 * 1024**2),
    "disk": BoxSpec(disk_bytes=32 * 1024**2),
    "processes": BoxSpec(max_processes=60),
}


class BoundPromises(Contract):
    """A bound that a sandbox declares holds, and one that it does not have is refused."""

    # --- limits ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("limit", sorted(_LIMITED))
    async def test_a_limit_is_refused_where_it_would_not_hold(self, tmp_path: Path, limit: str) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            if Capability.RESOURCE_LIMITS in sandbox.capabilities:
                async with made(sandbox, _LIMITED[limit]) as subject:
                    assert await subject.out("echo works") == "works\n"
                return
            box_id = new_id()
            with pytest.raises(NotSupportedError):
                await sandbox.create(box_id, _LIMITED[limit], {})
            with pytest.raises(BoxNotFoundError):
                await sandbox.get(box_id)

    @asynccontextmanager
    async def _limited(self, directory: Path, limit: str) -> AsyncGenerator[Subject | None, None]:
        """A box with that limit; None where there are none, which the test above is about."""
        async with self.sandbox(directory) as sandbox:
            if Capability.RESOURCE_LIMITS not in sandbox.capabilities:
                yield None
                return
            async with made(sandbox, _LIMITED[limit]) as subject:
                yield subject

    async def test_memory_is_limited_and_the_box_survives(self, tmp_path: Path) -> None:
        async with self._limited(tmp_path, "memory") as subject:
            if subject is not None:
                bomb = "data = []\nfor _ in range(500): data.append(b'x' * 1_000_000)\nprint('all')"
                done = await subject.run(["python3", "-c", bomb])
                assert done.status != 0 and done.stdout == b""
                assert await subject.out("echo works") == "works\n"

    async def test_disk_is_limited_and_the_box_survives(self, tmp_path: Path) -> None:
        async with self._limited(tmp_path, "disk") as subject:
            if subject is not None:
                for place in (".", "$HOME", "${TMPDIR:-/tmp}", "$BOXFLOW_JOBS"):
                    done = await subject.run(
                        f'head -c 100000000 /dev/zero > "{place}/fill"; s=$?; rm -f "{place}/fill"; exit $s'
                    )
                    assert done.status != 0, place
                assert await subject.out("echo works > f; cat f") == "works\n"

    async def test_processes_are_limited_and_the_box_can_still_be_ended(self, tmp_path: Path) -> None:
        async with self._limited(tmp_path, "processes") as subject:
            if subject is not None:
                process = await subject.spawn(["python3", "-c", _FORKS])
                await Reader(process).until("refused after")
                async with asyncio.timeout(HANG_S):
                    await subject.sandbox.delete(subject.id)
                with pytest.raises(BoxNotFoundError):
                    await subject.sandbox.get(subject.id)

    # --- images ------------------------------------------------------------------------------------------------

    async def test_an_image_that_cannot_be_had_says_so_and_makes_no_box(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            spec = BoxSpec(image="boxflow-contract/no-such-image:none")
            if Capability.IMAGES not in sandbox.capabilities:
                async with made(sandbox, spec) as subject:
                    assert await subject.out("echo ignored") == "ignored\n"
                return
            box_id = new_id()
            with pytest.raises(ImageNotFoundError, match="no-such-image"):
                await sandbox.create(box_id, spec, {})
            with pytest.raises(BoxNotFoundError):
                await sandbox.get(box_id)

    async def test_a_dockerfile_that_cannot_be_built_says_so_and_makes_no_box(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            if Capability.IMAGES not in sandbox.capabilities:
                return
            box_id = new_id()
            with pytest.raises(ImageNotFoundError):
                await sandbox.create(box_id, BoxSpec(dockerfile="FROM scratch\nNONSENSE\n"), {})
            with pytest.raises(BoxNotFoundError):
                await sandbox.get(box_id)

    # --- network -----------------------------------------------------------------------------------------------

    async def test_a_network_policy_is_refused_where_it_would_not_hold(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            if Capability.NETWORK_POLICY in sandbox.capabilities:
                return
            for network in ("none", Egress(allow=["example.org"])):
                box_id = new_id()
                with pytest.raises(NotSupportedError, match="network"):
                    await sandbox.create(box_id, BoxSpec(network=network), {})
                with pytest.raises(BoxNotFoundError):
                    await sandbox.get(box_id)

    async def test_a_box_without_network_reaches_nothing(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox, _answering(b"") as server:
            if Capability.NETWORK_POLICY not in sandbox.capabilities:
                return
            async with made(sandbox, BoxSpec(network="none")) as subject:
                for program, arguments in (
                    (_HAS_WAY_OUT, []),
                    (_ASKS_DNS, []),
                    (_CONNECTS, ["127.0.0.1", str(server.port)]),
                ):
                    assert (await subject.run(["python3", "-c", program, *arguments])).status == 1
            assert server.requests == []

    async def test_a_box_reaches_the_hosts_that_are_allowed_and_no_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CONTRACT_KEY", "hunter2")
        async with self.sandbox(tmp_path) as sandbox, _answering(b"hello") as server:
            if Capability.NETWORK_POLICY not in sandbox.capabilities:
                return
            here = f"127.0.0.1:{server.port}"
            network = Egress(
                allow=["allowed.example.org", "secret.example.org"],
                # Of a host of its own: what carries a secret may be sent encrypted only, which this server cannot.
                headers={"secret.example.org": {"X-Key": "$CONTRACT_KEY"}},
                resolve={"allowed.example.org": here},
            )
            async with made(sandbox, BoxSpec(network=network)) as subject:
                fetched = await subject.run(["python3", "-c", _FETCHES, "http://allowed.example.org/path"])
                assert fetched.stdout == b"200 hello"
                assert [b"GET /path " in one and b"hunter2" not in one for one in server.requests] == [True]
                for url in (
                    "http://other.example.org/",
                    f"http://{here}/",
                    "http://localhost/",
                    "http://169.254.169.254/",
                ):
                    refused = await subject.run(["python3", "-c", _FETCHES, url])
                    assert not refused.stdout.startswith(b"200"), url
                for program in (_HAS_WAY_OUT, _ASKS_DNS):
                    assert (await subject.run(["python3", "-c", program])).status == 1
                assert (await subject.run(["python3", "-c", _CONNECTS, "127.0.0.1", str(server.port)])).status == 1
                assert len(server.requests) == 1
                assert "hunter2" not in await subject.out("env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; true")

    # --- isolation ---------------------------------------------------------------------------------------------

    async def test_an_isolated_box_sees_no_process_of_the_machine_nor_of_another_box(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox, made(sandbox) as one, made(sandbox) as other:
            if Capability.ISOLATION not in sandbox.capabilities:
                return
            process = await other.spawn(TREES["child"], env={"TREE": other.id})
            await Reader(process).until("up\n")
            outside = await asyncio.create_subprocess_exec("sleep", "600", env={**os.environ, "TREE": one.id})
            try:
                assert await one.survivors(f"TREE={other.id}") == ""
                assert await one.survivors(f"TREE={one.id}") == ""
            finally:
                outside.kill()
                await outside.wait()
                await process.kill()

    async def test_an_isolated_box_sees_no_file_of_the_machine_nor_of_another_box(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("hunter2")
        secret.chmod(0o644)
        async with self.sandbox(tmp_path / "boxes") as sandbox, made(sandbox) as one, made(sandbox) as other:
            if Capability.ISOLATION not in sandbox.capabilities:
                return
            await other.out("echo hunter2 > f; chmod 644 f")
            directory = (await other.out("pwd")).strip()
            if directory != (await one.out("pwd")).strip():
                assert (await one.run(["cat", f"{directory}/f"])).status != 0
            for path in (str(secret), "/var/run/docker.sock", "/run/docker.sock", "/root/.ssh"):
                assert (await one.run(["ls", path])).status != 0, path


@attrs.define
class _Answering:
    port: int
    requests: list[bytes]


@asynccontextmanager
async def _answering(body: bytes) -> AsyncGenerator[_Answering, None]:
    """A web server of this machine, and what it was asked."""
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HANG_S):
            try:
                requests.append(await reader.readuntil(b"\r\n\r\n"))
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                # Somebody who only looked whether a server is here.
                requests.append(b"")
            finally:
                writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield _Answering(server.sockets[0].getsockname()[1], requests)
