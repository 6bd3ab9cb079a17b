"""What stands outside of the boxes: what an attack wants to reach, and what sees whether it did."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

from boxflow import Box, Boxes, Egress

ALLOWED_HOST = "allowed.boxflow-attack.test"
ENGINE_SECRET, GATE_SECRET = "SECURITY_TEST_ENGINE_SECRET", "SECURITY_TEST_GATE_SECRET"
BANNER = "boxflow-attack: you should not be here"


class Scene:
    """Files, sockets, servers and processes of the engine's user.

    :param directory: empty, and the user's own
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.marker = directory / "outside" / "marker.txt"
        self.writable = directory / "writable"
        self.downloads = directory / "downloads"
        self.exec_secret = secrets.token_hex(12)
        self.daemon_token = f"daemon-{secrets.token_hex(8)}"
        self.received: list[bytes] = []
        self.requests: list[str] = []
        self.looked_up: list[str] = []
        self._marker_text = f"{secrets.token_hex(12)}\n"
        self._victim_token = f"victim-{secrets.token_hex(8)}"
        self._servers: dict[str, Any] = {}
        self._other: dict[str, str] = {}
        self.victim: subprocess.Popen[bytes]

    @asynccontextmanager
    async def set(self) -> AsyncIterator[None]:
        """Put everything up for the time of the block."""
        for directory in (self.marker.parent, self.writable, self.downloads):
            directory.mkdir()
        self._tidy()
        sys.addaudithook(self._audit)
        async with AsyncExitStack() as stack:
            await self._serve(stack)
            self._start_victim()
            try:
                yield
            finally:
                self._end_victim()

    def facts(self) -> dict[str, Any]:
        """What attackers may know: everything but the secrets that they are after, by which they tell success."""
        return {
            "marker": str(self.marker),
            "marker_secret": self._marker_text.strip(),
            "writable": str(self.writable),
            "engine_secret": os.environ[ENGINE_SECRET],
            "gate_secret": os.environ[GATE_SECRET],
            "exec_secret": self.exec_secret,
            "victim_pid": self.victim.pid,
            "victim_token": self._victim_token,
            "daemon_token": self.daemon_token,
            "host_pid_namespace": os.readlink("/proc/self/ns/pid"),
            "docker_sockets": docker_sockets(),
            "banner": BANNER,
            "allowed_host": ALLOWED_HOST,
            "allowed_answer": "the allowed server",
            "forbidden_answer": "the forbidden server",
            "udp_token": "udp-token",
            "dns_token": "dns-token",
            "tunnel_token": "tunnel-token",
            **self._servers,
            **self._other,
        }

    def egress(self) -> Egress:
        """One host, which is a server of ours; with a header that the box must not see."""
        host, port = self._servers["allowed_server"]
        return Egress(
            allow=[f"{ALLOWED_HOST}:80"],
            headers={f"{ALLOWED_HOST}:80": {"Authorization": f"Bearer ${GATE_SECRET}"}},
            resolve={f"{ALLOWED_HOST}:80": f"{host}:{port}"},
        )

    def disturbed(self) -> str | None:
        """What of the files outside is not as it was; then it is again."""
        found = []
        if not self.marker.exists() or self.marker.read_text() != self._marker_text:
            found.append("the marker was written to")
        names = sorted(os.listdir(self.writable))
        if names != ["keep.txt"]:
            found.append(f"the directory now has {names}")
        self._tidy()
        return "; ".join(found) or None

    async def heard(self, token: str) -> bool:
        """Whether a datagram with *token* has arrived, or a name with it was asked for."""
        await asyncio.sleep(0.2)
        return any(token.encode() in data for data in self.received) or any(token in name for name in self.looked_up)

    def victim_ended(self) -> bool:
        """Whether the victim is gone; then there is a new one."""
        try:
            self.victim.wait(0.2)
        except subprocess.TimeoutExpired:
            return False
        self._end_victim()
        self._start_victim()
        return True

    def end_daemon(self) -> bool:
        """Whether the daemon was running, as seen from here."""
        token, found = self.daemon_token.encode(), False
        for name in os.listdir("/proc"):
            try:
                # A whole argument: others have the token among their facts.
                if name.isdecimal() and token in Path("/proc", name, "cmdline").read_bytes().split(b"\0"):
                    os.kill(int(name), signal.SIGKILL)
                    found = True
            except OSError:
                continue
        return found

    @asynccontextmanager
    async def another_box(self, boxes: Boxes) -> AsyncIterator[Box]:
        """A box beside the one that attacks, with a file, a process, and a secret in each."""
        secret, token = secrets.token_hex(12), f"other-{secrets.token_hex(8)}"
        async with boxes.create("other") as other:
            name = f"boxflow-{secrets.token_hex(6)}.txt"
            await other.files.write(name, secret)
            here = (await other.exec.command("pwd", check=True)).stdout.strip()
            argv = ["sh", "-c", "sleep 120; exit 0", token]
            async with other.exec.session(argv, env={"OTHER_SECRET": secret}):
                self._other = {
                    "other_file": f"{here}/{name}",
                    "other_file_inside": f"{here}/{name}",
                    "other_secret": secret,
                    "other_token": token,
                }
                yield other

    def _tidy(self) -> None:
        self.marker.write_text(self._marker_text)
        self.marker.chmod(0o644)
        for path in self.writable.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        (self.writable / "keep.txt").write_text("keep")

    def _start_victim(self) -> None:
        # Without the engine's environment: that is another row's. It waits for input that does not come, and ends when
        # this process does, however that ends.
        argv = ["/bin/sh", "-c", "read line; exit 0", self._victim_token]
        self.victim = subprocess.Popen(
            argv, env={}, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _end_victim(self) -> None:
        self.victim.kill()
        self.victim.communicate()

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.getaddrinfo", "socket.gethostbyname"):
            self.looked_up.append(str(arguments[0]))

    # --- servers ---------------------------------------------------------------------------------------------------

    async def _serve(self, stack: AsyncExitStack) -> None:
        others = other_addresses()
        abstract = f"boxflow-attack-{secrets.token_hex(8)}"
        path = str(self.directory / "open.sock")
        await _serving(stack, asyncio.start_unix_server(_greet, path))
        os.chmod(path, 0o777)
        await _serving(stack, asyncio.start_unix_server(_greet, "\0" + abstract))
        self._servers = {
            "unix_socket": path,
            "abstract_socket": abstract,
            "loopback_server": await _listening(stack, _greet, "127.0.0.1"),
            "other_servers": [await _listening(stack, _greet, host) for host in others],
            "allowed_server": await _listening(stack, self._answer("the allowed server"), "127.0.0.1"),
            "forbidden_server": await _listening(stack, self._answer("the forbidden server"), "127.0.0.1"),
            "udp_servers": [await self._hearing(stack, host) for host in ("127.0.0.1", *others)],
            "name_server": await self._hearing(stack, next((one for one in others if "." in one), "127.0.0.1")),
        }

    def _answer(self, text: str) -> Any:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                async with asyncio.timeout(10):
                    self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode(errors="replace"))
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
                    writer.write((head + text).encode())
                    await writer.drain()
            except (OSError, EOFError, TimeoutError):
                pass
            finally:
                writer.close()

        return answer

    async def _hearing(self, stack: AsyncExitStack, host: str) -> tuple[str, int]:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Ear(self.received), local_addr=(host, 0))
        stack.callback(transport.close)
        return host, int(transport.get_extra_info("sockname")[1])


class _Ear(asyncio.DatagramProtocol):
    """Keeps what arrives, and answers as a name server does that knows no name."""

    def __init__(self, received: list[bytes]) -> None:
        self._received = received
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Python 3.11's own transports are none by their class.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._received.append(data)
        # Bit 15 makes it an answer; code 3 says: no such name (RFC 1035, 4.1.1).
        self._transport.sendto(data[:2] + b"\x81\x83" + data[4:], addr)


async def _greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        writer.write(BANNER.encode())
        async with asyncio.timeout(5):
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def _listening(stack: AsyncExitStack, handler: Any, host: str) -> tuple[str, int]:
    server = await _serving(stack, asyncio.start_server(handler, host, 0))
    return host, int(server.sockets[0].getsockname()[1])


async def _serving(stack: AsyncExitStack, starting: Any) -> asyncio.Server:
    server: asyncio.Server = await starting
    stack.callback(server.close)
    return server


def other_addresses() -> list[str]:
    """The addresses of this machine that are no loopback; IPv6's with a global scope only."""
    found = set()
    lines = Path("/proc/net/fib_trie").read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        if "/32 host LOCAL" in line:
            found.add(above.split()[-1])
    try:
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            digits, _, _, scope, flags, _ = line.split()
            # Scope 0 is global; flag 0x40 is an address that is still being tried out.
            if scope == "00" and not int(flags, 16) & 0x40:
                found.add(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)))
    except FileNotFoundError:
        pass  # A machine without IPv6.
    return sorted(one for one in found if not one.startswith("127."))


def docker_sockets() -> list[str]:
    """Where Docker may listen."""
    host = os.environ.get("DOCKER_HOST", "")
    named = [host.removeprefix("unix://")] if host.startswith("unix://") else []
    return [*named, "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"]
