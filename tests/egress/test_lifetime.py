"""A gate bounds what one box can take of it, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import stat
import sys
from pathlib import Path

import pytest
from egress.harness import QUICK, Certificates, box, host

from boxflow.errors import ConfigurationError
from boxflow.ports import Egress
from boxflow_backends.egress_gate import EgressGate, Limits

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc shows what is open")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def settled(count: int) -> None:
    """Wait until no more than *count* descriptors are open, and no task but this one runs."""
    async with asyncio.timeout(5):
        while descriptors() > count or len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.02)


@linux
async def test_a_gate_that_is_closed_in_full_swing_leaves_no_task_no_descriptor_and_no_socket(
    certificates: Certificates,
) -> None:
    async with host(certificates.server_context()) as web:
        resolve = {"api.test": f"127.0.0.1:{web.port}", "other.test": f"127.0.0.1:{web.port}"}
        headers = {"api.test": {"X-A": "b"}}
        await asyncio.sleep(0.05)
        before = descriptors()
        async with box(
            ["api.test", "other.test"], headers=headers, resolve=resolve, upstream_ca=certificates.ca
        ) as inside:
            silent, half_asked, blind = await inside.dial(), await inside.dial(), await inside.tunnel("other.test:443")
            await half_asked.send(b"GET http://api.t")
            opened = await inside.tunnel("api.test:443")
            await opened.send(b"GET /hang HTTP/1.1\r\nHost: api.test\r\n\r\n")
            streaming = await inside.tunnel("api.test:443")
            await streaming.send(b"GET /big/50000000 HTTP/1.1\r\nHost: api.test\r\n\r\n")
            sending = await inside.tunnel("api.test:443")
            await sending.send(b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 900\r\n\r\nx")
            await streaming.until(b"\r\n\r\n")
            shaking = await inside.dial()
            await shaking.connect("api.test:443")
            async with asyncio.timeout(5):
                await inside.gate.close()
            for one in (silent, half_asked, blind):
                assert await one.rest(5) == b""
            assert not inside.socket.exists()
            await inside.gate.close()
        await settled(before)


@linux
async def test_a_gate_that_is_closed_while_it_shakes_hands_with_a_host_hangs_up() -> None:
    connected, gone = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        while await reader.read(65536):  # never a word of TLS in return
            pass
        gone.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    here = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, box(["api.test"], headers={"api.test": {"X-A": "b"}}, resolve={"api.test": here}) as inside:
        tunnel = await inside.tunnel("api.test:443")
        await tunnel.send(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
        await connected.wait()
        gc.disable()  # It must be closed, not collected.
        try:
            await inside.gate.close()
            await asyncio.wait_for(gone.wait(), 5)
        finally:
            gc.enable()


@linux
async def test_a_thousand_connections_leave_nothing_open(certificates: Certificates) -> None:
    async with host() as web, box(["api.test"], resolve={"api.test": f"127.0.0.1:{web.port}"}) as inside:
        await inside.ask("GET http://api.test/ HTTP/1.1\nHost: api.test\nConnection: close")
        await asyncio.sleep(0.1)
        before = descriptors()
        for n in range(1000):
            connection = await inside.dial()
            if n % 4 == 0:
                await connection.connect("api.test:80")
            elif n % 4 == 1:
                await connection.send(b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n")
            elif n % 4 == 2:
                await connection.send(b"GET http://api")
            await connection.close()
        async with asyncio.timeout(10):
            while descriptors() > before + 2:
                await asyncio.sleep(0.05)


async def test_slow_heads_are_cut_off_and_silent_connections_too() -> None:
    async with box(["api.test"], limits=QUICK) as inside:
        assert await (await inside.dial()).rest(3) == b""
        slow = await inside.dial()
        await slow.send(b"GET ")

        async def drip() -> None:
            while True:
                await slow.send(b"x")
                await asyncio.sleep(0.1)

        dripping = asyncio.create_task(drip())
        assert (await slow.rest(3)).startswith(b"HTTP/1.1 408 ")
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)


async def test_a_connection_that_is_kept_and_not_used_is_ended() -> None:
    async with host() as web, box(["api.test"], resolve={"api.test": f"127.0.0.1:{web.port}"}, limits=QUICK) as inside:
        connection = await inside.dial()
        assert (await connection.ask("GET http://api.test/ HTTP/1.1\nHost: x")).status == 200
        assert await connection.rest(3) == b""


async def test_a_head_that_is_too_large_is_refused() -> None:
    async with box(["api.test"]) as inside:
        connection = await inside.dial()
        connection.writer.write(b"GET http://api.test/ HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000)
        assert (await connection.response()).status == 431


async def test_a_tls_handshake_that_stops_is_ended(certificates: Certificates) -> None:
    async with box(["api.test"], headers={"api.test": {"X-A": "b"}}, limits=QUICK) as inside:
        for first in (b"", b"\x16\x03\x01\x02\x00\x01"):
            tunnel = await inside.dial()
            assert (await tunnel.connect("api.test:443")).status == 200
            await tunnel.send(first)
            assert await tunnel.rest(3) == b""


async def test_garbage_is_answered_or_cut_off_and_harms_nobody_else(certificates: Certificates) -> None:
    dice = random.Random(7)
    starts = [
        b"",
        b"GET ",
        b"CONNECT api.test:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT api.test:443 HTTP/1.1\r\nHost: x\r\n\r\n\x16\x03\x01",
    ]
    async with host(certificates.server_context()) as web:
        resolve = {"api.test": f"127.0.0.1:{web.port}"}
        async with box(
            ["api.test"], headers={"api.test": {"X-A": "b"}}, resolve=resolve, limits=QUICK, upstream_ca=certificates.ca
        ) as inside:

            async def throw(n: int) -> None:
                connection = await inside.dial()
                try:
                    await connection.send(starts[n % 4] + dice.randbytes(dice.randrange(1, 3000)))
                except ConnectionError:
                    return
                await connection.rest(5)

            await asyncio.gather(*(throw(n) for n in range(80)))
            assert (await (await inside.tunnel("api.test:443")).ask("GET / HTTP/1.1\nHost: api.test")).status == 200


async def test_more_connections_than_allowed_wait_for_a_place() -> None:
    async with host() as web:
        resolve = {"api.test": f"127.0.0.1:{web.port}"}
        async with box(["api.test"], resolve=resolve, limits=Limits(connections=2)) as inside:
            first, second, third = [await inside.dial() for _ in range(3)]
            request = "GET http://api.test/ HTTP/1.1\nHost: x"
            assert (await first.ask(request)).status == 200
            assert (await second.ask(request)).status == 200
            waiting = asyncio.create_task(third.ask(request))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            await first.close()
            assert (await waiting).status == 200


@linux
async def test_a_reader_that_stops_reading_stops_the_host_not_the_memory() -> None:
    async with host() as web, box(["api.test"], resolve={"api.test": f"127.0.0.1:{web.port}"}) as inside:
        for _ in range(3):
            connection = await inside.dial()
            await connection.send(b"GET http://api.test/big/400000000 HTTP/1.1\r\nHost: api.test\r\n\r\n")
            await connection.until(b"\r\n\r\n")
        before = resident_bytes()
        await asyncio.sleep(0.5)
        assert resident_bytes() - before < 30_000_000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_the_socket_of_a_dead_engine_is_replaced_and_everybody_may_connect(tmp_path: Path) -> None:
    policy = Egress(allow=["api.test"])
    async with box(["api.test"]) as inside:
        later = EgressGate(policy, directory=inside.directory)
        await later.open()  # the first one still lives, as when an engine takes a box over
        assert (await inside.ask("GET http://other.test/ HTTP/1.1\nHost: x")).status == 403
        await inside.gate.close()
        assert stat.S_IMODE(inside.socket.stat().st_mode) == 0o666
        assert stat.S_IMODE((inside.directory / "ca-bundle.pem").stat().st_mode) == 0o644
        assert (await inside.ask("GET http://other.test/ HTTP/1.1\nHost: x")).status == 403
        await later.close()
        assert not inside.socket.exists()


async def test_links_that_lie_in_the_directory_are_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    victim.chmod(0o600)
    async with box(["api.test"]) as inside:
        await inside.gate.close()
        for name in ("gate.sock", "ca-bundle.pem", ".gate.new", ".ca-bundle.pem.new"):
            (inside.directory / name).unlink(missing_ok=True)
            (inside.directory / name).symlink_to(victim)
        await inside.gate.open()
        assert (await inside.ask("GET http://other.test/ HTTP/1.1\nHost: x")).status == 403
        assert victim.read_text() == "untouched"
        assert stat.S_IMODE(victim.stat().st_mode) == 0o600


async def test_a_gate_can_be_opened_again_and_not_twice(tmp_path: Path) -> None:
    async with box(["api.test"]) as inside:
        with pytest.raises(RuntimeError, match="open already"):
            await inside.gate.open()
        await inside.gate.close()
        await inside.gate.open()
        assert (await inside.ask("GET http://other.test/ HTTP/1.1\nHost: x")).status == 403


@linux
async def test_a_gate_that_is_closed_before_it_ran_leaves_nothing() -> None:
    before = descriptors()
    async with box(["api.test"]) as inside:
        await inside.gate.close()
        assert not inside.socket.exists()
    await settled(before)


async def test_a_directory_that_is_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"has a path of .* bytes, and a unix socket can have 107"):
        EgressGate(Egress(allow=["api.test"]), directory=tmp_path / ("x" * 100))


async def test_certificates_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for content in ("no certificate", None):
        path = tmp_path / "ca.pem"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
        with pytest.raises(ConfigurationError, match=r"upstream_ca .* cannot be read"):
            await EgressGate(Egress(allow=["api.test"]), directory=tmp_path, upstream_ca=path).open()
    (tmp_path / "authority.pem").write_text("no authority")
    policy = Egress(allow=["api.test"], headers={"api.test": {"X-A": "b"}})
    with pytest.raises(ConfigurationError, match="is no egress authority"):
        await EgressGate(policy, directory=tmp_path, private_directory=tmp_path).open()
