"""What does a sandbox promise about a server in a box: that this machine reaches it?"""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

from boxflow.ports import Process
from boxflow.testing.sandbox_contract.support import HANG_S, Contract, Reader, Subject, made

_SERVER = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (self.path * 1000 if self.path.startswith("/large") else self.path + " of " + sys.argv[2]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        size = int(self.headers["Content-Length"])
        taken = 0
        while taken < size:
            taken += len(self.rfile.read(min(size - taken, 65536)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(taken).encode())

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("up", flush=True)
server.serve_forever()
"""


class ServingPromises(Contract):
    """A server that listens in a box is reached from this machine, box by box."""

    async def test_a_server_in_the_box_is_reached_by_its_url(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            port = _free_port()
            process = await self._serve(subject, port)
            url = await subject.sandbox.url(subject.id, port)
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
            assert await _request(url, "/hello") == b"/hello of " + subject.id.encode()
            answers = await asyncio.gather(*(_request(url, f"/{n}") for n in range(5)))
            assert answers == [f"/{n} of {subject.id}".encode() for n in range(5)]
            assert await _request(url, "/large" + "x" * 1000) == (b"/large" + b"x" * 1000) * 1000
            assert await _request(url, "/", body=bytes(3_000_000)) == b"3000000"
            assert await subject.sandbox.url(subject.id, port) == url
            await process.kill()

    async def test_each_box_has_its_own_url(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox, made(sandbox) as one, made(sandbox) as other:
            for subject in (one, other):
                port = _free_port()
                process = await self._serve(subject, port)
                url = await sandbox.url(subject.id, port)
                assert await _request(url, "/") == f"/ of {subject.id}".encode()
                await process.kill()

    async def test_where_nothing_listens_a_request_fails_and_does_not_hang(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            url = await subject.sandbox.url(subject.id, _free_port())
            try:
                answer = await _exchange(url, b"GET / HTTP/1.0\r\n\r\n")
            except OSError:
                return
            # A bridge may have taken the call before it knew; then it says so, or hangs up.
            assert answer == b"" or answer.split()[1].startswith(b"5")

    async def _serve(self, subject: Subject, port: int) -> Process:
        process = await subject.spawn(["python3", "-c", _SERVER, str(port), subject.id])
        await Reader(process).until("up\n")
        return process


def _free_port() -> int:
    """One that is free on this machine: a box that is not isolated shares its ports."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _request(url: str, path: str, *, body: bytes | None = None) -> bytes:
    """The body of the answer."""
    verb = "GET" if body is None else "POST"
    head = f"{verb} {path} HTTP/1.0\r\nContent-Length: {len(body or b'')}\r\n\r\n"
    answer = await _exchange(url, head.encode() + (body or b""))
    status, _, rest = answer.partition(b"\r\n")
    assert b" 200 " in status, answer[:500]
    return rest.partition(b"\r\n\r\n")[2]


async def _exchange(url: str, request: bytes) -> bytes:
    parts = urlsplit(url)
    async with asyncio.timeout(HANG_S):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(request)
            await writer.drain()
            return await reader.read()
        finally:
            writer.close()
