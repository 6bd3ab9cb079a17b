"""Programs that know nothing of the gate find their way through it by the environment alone."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from egress.harness import Certificates, Host, box, free_port, host, ready

from boxflow_backends.egress_gate import box_environment, forwarder_argv

PYTHON = os.path.realpath(sys.executable)
SECRET = "sk-live-0123456789abcdef"

pytestmark = pytest.mark.real


class Inside:
    """Runs programs as a box would: with the forwarder, and an environment of the gate's only."""

    def __init__(self, environment: dict[str, str], directory: Path) -> None:
        self.environment = environment
        self.directory = directory

    async def run(self, *argv: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=self.environment,
            cwd=self.directory,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), 30)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        assert SECRET not in output.decode(errors="replace")
        return process.returncode, output.decode(errors="replace")


@asynccontextmanager
async def inside(
    certificates: Certificates, tmp_path: Path, tls: ssl.SSLContext | None = None, serve: int | None = None
) -> AsyncIterator[tuple[Inside, Host]]:
    """A box that may reach api.test (with a secret) and other.test (without)."""
    async with host(tls or certificates.server_context()) as web:
        here = f"127.0.0.1:{serve or web.port}"
        async with box(
            ["api.test", "other.test"],
            headers={"api.test": {"Authorization": "Bearer $TOKEN"}},
            resolve={"api.test:443": here, "other.test": here},
            secrets={"TOKEN": SECRET},
            upstream_ca=certificates.ca,
        ) as found:
            port = free_port()
            environment = {
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                **box_environment(str(found.directory), port),
            }
            forwarder = await asyncio.create_subprocess_exec(
                *forwarder_argv(str(found.socket), port),
                env={"PATH": f"{Path(PYTHON).parent}:{environment['PATH']}"},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                await ready(forwarder)
                yield Inside(environment, tmp_path), web
            finally:
                forwarder.kill()
                await forwarder.communicate()


def found(name: str, need: Callable[[str, bool], None]) -> str:
    path = shutil.which(name)
    need(name, path is not None)
    return str(path)


async def test_curl(certificates: Certificates, tmp_path: Path, need: Callable[[str, bool], None]) -> None:
    curl = found("curl", need)
    (tmp_path / "big").write_bytes(b"b" * 20_000_000)
    async with inside(certificates, tmp_path) as (program, web):
        for url in ("https://api.test/a", "https://other.test/a", "http://api.test/a"):
            assert '"target": "/a"' in (await program.run(curl, "-sS", url))[1]
        assert [one.header("authorization") for one in web.asked] == [[f"Bearer {SECRET}"], [], [f"Bearer {SECRET}"]]
        code, text = await program.run(curl, "-sS", "-T", "big", "https://api.test/up")
        assert (code, '"body_bytes": 20000000' in text) == (0, True)
        assert (await program.run(curl, "-sS", "-o", "got", "https://api.test/big/20000000"))[0] == 0
        assert (tmp_path / "got").stat().st_size == 20_000_000
        assert "response 403" in (await program.run(curl, "-sS", "https://example.org/"))[1]
        assert "add 'example.org' to the `allow`" in (await program.run(curl, "-sS", "http://example.org/"))[1]
        # What the allow-list is about: a name in the URL, and another one inside.
        fronted = await program.run(
            curl, "-sS", "--connect-to", "example.org:443:other.test:443", "https://example.org/"
        )
        assert fronted[0] != 0 and "unrecognized name" in fronted[1]
        # Nor by another way than the proxy's port.
        assert (
            await program.run(
                curl,
                "-sS",
                "--socks5-hostname",
                "127.0.0.1:" + program.environment["HTTP_PROXY"].rpartition(":")[2],
                "https://api.test/",
            )
        )[0] != 0


PYTHON_PROGRAM = """
import json, urllib.request
print(json.load(urllib.request.urlopen("https://api.test/py"))["target"])
print(len(urllib.request.urlopen(urllib.request.Request("https://other.test/big/3000000")).read()))
try:
    urllib.request.urlopen("https://example.org/")
except OSError as error:
    print(error)
"""


async def test_python(certificates: Certificates, tmp_path: Path) -> None:
    async with inside(certificates, tmp_path) as (program, web):
        code, text = await program.run(PYTHON, "-I", "-c", PYTHON_PROGRAM)
        assert (code, text.splitlines()) == (
            0,
            ["/py", "3000000", "<urlopen error Tunnel connection failed: 403 Not in the allow-list>"],
        )
        assert web.asked[0].header("authorization") == [f"Bearer {SECRET}"]


HTTPX_PROGRAM = """
import httpx
with httpx.Client() as client:
    print(client.get("https://api.test/one").json()["target"])
    print(client.get("http://other.test/two", follow_redirects=False).status_code)
    with client.stream("GET", "https://api.test/events") as events:
        for line in events.iter_lines():
            if line:
                print(line)
                break
"""


async def test_httpx(certificates: Certificates, tmp_path: Path) -> None:
    async with inside(certificates, tmp_path) as (program, web):
        web.events.put_nowait("hello")
        code, text = await program.run(sys.executable, "-c", HTTPX_PROGRAM)
        # The second is plain HTTP to a port that speaks TLS: what comes back says so, from wherever.
        assert (code, text.splitlines()[0], text.splitlines()[2]) == (0, "/one", "data: hello")


NODE_PROGRAM = """
const https = require("https"), tls = require("tls"), http = require("http");
const proxy = new URL(process.env.HTTPS_PROXY);
function get(host, path) {
    return new Promise((resolve, reject) => {
        const { hostname, port } = proxy;
        const request = http.request({ hostname, port, method: "CONNECT", path: host + ":443" });
        request.on("connect", (answer, socket) => {
            if (answer.statusCode !== 200) return resolve(answer.statusCode);
            const secure = tls.connect({ socket, servername: host });
            https.get({ host, defaultPort: 443, path, createConnection: () => secure }, (got) => {
                let text = "";
                got.on("data", (chunk) => (text += chunk));
                got.on("end", () => resolve(JSON.parse(text).target));
            }).on("error", reject);
        }).on("error", reject).end();
    });
}
(async () => {
    console.log(await get("api.test", "/node"), await get("other.test", "/too"), await get("example.org", "/"));
})();
"""


async def test_node(certificates: Certificates, tmp_path: Path, need: Callable[[str, bool], None]) -> None:
    node = found("node", need)
    async with inside(certificates, tmp_path) as (program, web):
        assert (await program.run(node, "-e", NODE_PROGRAM)) == (0, "/node /too 403\n")
        assert web.asked[0].header("authorization") == [f"Bearer {SECRET}"]


async def test_fetch_of_node(certificates: Certificates, tmp_path: Path, need: Callable[[str, bool], None]) -> None:
    node = found("node", need)
    version = await Inside(dict(os.environ), tmp_path).run(node, "-p", "process.versions.node.split('.')[0]")
    need("node 24, whose fetch() heeds NODE_USE_ENV_PROXY", int(version[1]) >= 24)
    async with inside(certificates, tmp_path) as (program, _):
        text = "fetch('https://api.test/fetch').then((a) => a.json()).then((a) => console.log(a.target))"
        assert (await program.run(node, "-e", text)) == (0, "/fetch\n")


async def test_git_clones_from_a_host_that_wants_a_secret(
    certificates: Certificates, tmp_path: Path, need: Callable[[str, bool], None]
) -> None:
    git = found("git", need)
    origin, work = tmp_path / "repo.git", tmp_path / "work"
    outside = Inside({"PATH": os.environ["PATH"], "HOME": str(tmp_path)}, tmp_path)

    async def call(*argv: str) -> str:
        code, text = await outside.run(git, "-c", "user.name=a", "-c", "user.email=a@b", *argv)
        assert code == 0, text
        return text

    await call("init", "-q", str(work))
    (work / "file").write_bytes(os.urandom(3_000_000))
    await call("-C", str(work), "add", ".")
    await call("-C", str(work), "commit", "-qm", "first")
    await call("clone", "-q", "--bare", str(work), str(origin))
    await call("-C", str(origin), "update-server-info")
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A file server for git's dumb protocol, with a door that wants the secret."""
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                path = head.split(" ")[1].partition("?")[0]
                asked.append(path)
                file = tmp_path / path.lstrip("/")
                body = file.read_bytes() if file.is_file() else b""
                status = "200 OK" if file.is_file() else "404 Not Found"
                if f"uthorization: Bearer {SECRET}" not in head:
                    status, body = "401 Unauthorized", b""
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certificates.server_context())
    async with server, inside(certificates, tmp_path, serve=server.sockets[0].getsockname()[1]) as (program, _):
        refused = await program.run(git, "clone", "-q", "https://other.test/repo.git", "no")
        assert refused[0] != 0
        code, text = await program.run(git, "clone", "-q", "https://api.test/repo.git", "copy")
        assert (code, text) == (0, "")
        assert (tmp_path / "copy/file").read_bytes() == (work / "file").read_bytes()
        # All that git has written down, the packed and the encoded included.
        kept = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
        spellings: Sequence[bytes] = [SECRET.encode(), base64.b64encode(SECRET.encode())]
        assert not any(spelling in path.read_bytes() for path in kept for spelling in spellings)
