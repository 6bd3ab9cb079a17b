"""A tunnel leads to the host that the policy allows, and to no other."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence

import pytest
from egress.harness import QUICK, Certificates, box, host

from boxflow.ports import Egress
from boxflow_backends.egress_gate import Limits
from boxflow_backends.egress_gate.names import Destination
from boxflow_backends.egress_gate.policy import read_policy
from boxflow_backends.egress_gate.problems import Problem
from boxflow_backends.egress_gate.resolving import Connector


async def test_a_tunnel_to_an_allowed_host_is_end_to_end(certificates: Certificates) -> None:
    async with (
        host(certificates.server_context()) as web,
        box(["api.test"], resolve={"api.test": f"127.0.0.1:{web.port}"}, upstream_ca=certificates.ca) as inside,
    ):
        tunnel = await inside.tunnel("api.test:443")
        tls = tunnel.writer.get_extra_info("ssl_object")
        assert ("commonName", "server of the tests") in [
            pair for group in tls.getpeercert()["subject"] for pair in group
        ]
        answer = await tunnel.ask("GET /x HTTP/1.1\nHost: api.test")
        assert answer.json()["target"] == "/x"
        assert [one.target for one in web.asked] == ["/x"]


DENIED = [
    ("other.test:443", "add 'other.test' to the `allow`"),
    ("api.test:22", "add 'api.test:22' to the `allow`"),
    ("sub.test:443", "add 'sub.test' to the `allow`"),
    ("evil-api.test:443", "add 'evil-api.test' to the `allow`"),
    ("api.test.evil.org:443", "add 'api.test.evil.org' to the `allow`"),
    ("x.sub.test.evil.org:443", "'x.sub.test.evil.org'"),
    ("port.test:443", "add 'port.test' to the `allow`"),
    ("localhost:443", "'localhost'"),
    ("127.0.0.1:443", "is an address"),
    ("127.1:443", "is an address"),
    ("2130706433:443", "is an address"),
    ("0x7f.1:443", "is an address"),
    ("0177.0.0.1:443", "is an address"),
    ("169.254.169.254:80", "is an address"),
    ("[::1]:443", "is an address"),
    ("[::ffff:127.0.0.1]:443", "is an address"),
]


@pytest.mark.parametrize(("destination", "detail"), DENIED)
async def test_what_is_not_allowed_is_refused_with_what_to_change_and_not_even_looked_up(
    destination: str, detail: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "boxflow.egress")
    looked_up: list[str] = []

    async def resolver(name: str, port: int) -> Sequence[str]:
        looked_up.append(name)
        return ["8.8.8.8"]

    async with box(["api.test", "*.sub.test", "port.test:8443"], resolver=resolver) as inside:
        refused = await (await inside.dial()).connect(destination)
        assert refused.status == 403
        assert detail in refused.detail()
        assert looked_up == []
        assert "box 'box-1': refused with 403" in caplog.text


@pytest.mark.parametrize(
    "destination", ["api.test", "api.test:0", "api.test:99999", "api.test:x", "a b:443", "%31:443", "/x", ":443"]
)
async def test_what_names_no_host_and_port_is_refused(destination: str) -> None:
    async with box(["api.test"]) as inside:
        assert (await (await inside.dial()).connect(destination)).status == 400


@pytest.mark.parametrize(
    "destination", ["API.Test:443", "api.test.:443", "deep.x.sub.test:443", "api.test:80", "port.test:8443"]
)
async def test_names_are_compared_in_one_spelling_and_a_pattern_means_all_subdomains(destination: str) -> None:
    async with host() as web:
        here = f"127.0.0.1:{web.port}"
        names = {"api.test": here, "deep.x.sub.test": here, "port.test:8443": here}
        async with box(["api.test", "*.sub.test", "port.test:8443"], resolve=names) as inside:
            tunnel = await inside.dial()
            assert (await tunnel.connect(destination)).status == 200
            assert (await tunnel.ask("GET /plain HTTP/1.1\nHost: x")).json()["target"] == "/plain"


PRIVATE = [
    ["127.0.0.1"],
    ["10.0.0.1"],
    ["169.254.169.254"],
    ["100.64.0.1"],
    ["0.0.0.0"],
    ["224.0.0.1"],
    ["168.63.129.16"],
    ["::1"],
    ["::ffff:10.0.0.1"],
    ["64:ff9b::a00:1"],
    ["2002:a00:1::1"],
    ["2001:0:a00:1::"],
    ["fe80::1%lo"],
    ["fd00::1"],
    ["::7f00:1"],
    ["8.8.8.8", "127.0.0.1"],
    ["not an address"],
]


@pytest.mark.parametrize("addresses", PRIVATE, ids=str)
async def test_a_name_that_leads_to_an_address_that_is_not_public_is_refused(addresses: list[str]) -> None:
    async def resolver(_name: str, _port: int) -> Sequence[str]:
        return addresses

    async with box(["api.test"], resolver=resolver) as inside:
        refused = await (await inside.dial()).connect("api.test:443")
        assert refused.status == 403
        assert "not public" in refused.detail()
        # Where it leads is nothing that the box shall learn.
        assert not any(address in refused.detail() for address in addresses)


async def test_what_was_checked_is_what_is_connected_to() -> None:
    """A name that is public when it is checked and private a moment later gains nothing."""
    answers = [["8.8.8.8", "8.8.4.4"], ["127.0.0.1"]]
    dialled: list[tuple[str, int]] = []

    async def resolver(_name: str, _port: int) -> Sequence[str]:
        return answers.pop(0)

    async def dial(address: str, port: int) -> str:
        dialled.append((address, port))
        if address == "8.8.8.8":
            raise ConnectionRefusedError
        return address

    connector = Connector(policy=read_policy(Egress(allow=["api.test"])), resolver=resolver, limits=Limits())
    api = Destination(host="api.test", port=443)
    assert await connector.connect(api, dial) == "8.8.4.4"
    with pytest.raises(Problem, match="not public"):
        await connector.connect(api, dial)
    assert dialled == [("8.8.8.8", 443), ("8.8.4.4", 443)]


async def test_a_name_without_an_address_and_a_slow_one_are_told_apart() -> None:
    async def resolver(name: str, _port: int) -> Sequence[str]:
        if name == "slow.test":
            await asyncio.sleep(30)
        raise OSError

    async with box(["gone.test", "slow.test"], resolver=resolver, limits=QUICK) as inside:
        gone = await (await inside.dial()).connect("gone.test:443")
        slow = await (await inside.dial()).connect("slow.test:443")
        assert (gone.status, slow.status) == (502, 504)
        assert "has no address" in gone.detail()


async def test_the_real_resolver_is_asked_off_the_loop_and_localhost_is_refused() -> None:
    async with box(["localhost"]) as inside:
        assert "not public" in (await (await inside.dial()).connect("localhost:443")).detail()


async def test_a_host_that_does_not_accept_is_a_bad_gateway() -> None:
    async with box(["api.test"], resolve={"api.test": "127.0.0.1:1"}) as inside:
        refused = await (await inside.dial()).connect("api.test:443")
        assert refused.status == 502
        assert "127.0.0.1" not in refused.detail()


async def test_tls_that_asks_for_another_host_gets_nothing_through(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "boxflow.egress")
    async with (
        host(certificates.server_context()) as web,
        box(["api.test"], resolve={"api.test": f"127.0.0.1:{web.port}"}, upstream_ca=certificates.ca) as inside,
    ):
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            await inside.tunnel("api.test:443", name="other.test")
        assert "the TLS inside asks for 'other.test'" in caplog.text
        assert web.asked == []


async def test_tls_without_a_name_and_what_is_no_tls_goes_through(certificates: Certificates) -> None:
    async with (
        host(certificates.server_context()) as web,
        box(["api.test"], resolve={"api.test": f"127.0.0.1:{web.port}"}) as inside,
    ):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        tunnel = await inside.dial()
        assert (await tunnel.connect("api.test:443")).status == 200
        await tunnel.start_tls(context, None)
        assert (await tunnel.ask("GET / HTTP/1.1\nHost: api.test")).status == 200


async def test_a_host_that_speaks_first_is_heard() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        writer.write(b"you said " + await reader.read())
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with (
        server,
        box(["api.test"], resolve={"api.test": f"127.0.0.1:{server.sockets[0].getsockname()[1]}"}) as inside,
    ):
        tunnel = await inside.dial()
        assert (await tunnel.connect("api.test:443")).status == 200
        assert await tunnel.until(b"\n") == b"SSH-2.0-x\r\n"
        await tunnel.send(b"hello")
        tunnel.writer.write_eof()  # the other direction goes on
        assert await tunnel.rest() == b"you said hello"


async def test_bytes_sent_with_the_connect_are_not_lost() -> None:
    async with host() as web, box(["api.test"], resolve={"api.test": f"127.0.0.1:{web.port}"}) as inside:
        tunnel = await inside.dial()
        await tunnel.send(b"CONNECT api.test:80 HTTP/1.1\r\nHost: x\r\n\r\nGET /early-bird HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await tunnel.until(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert (await tunnel.response()).json()["target"] == "/early-bird"


async def test_twenty_megabytes_go_both_ways(certificates: Certificates) -> None:
    size = 20_000_000
    async with (
        host(certificates.server_context()) as web,
        box(["api.test"], resolve={"api.test": f"127.0.0.1:{web.port}"}, upstream_ca=certificates.ca) as inside,
    ):
        tunnel = await inside.tunnel("api.test:443")
        sent = await tunnel.ask(f"POST / HTTP/1.1\nHost: api.test\nContent-Length: {size}", b"y" * size)
        assert sent.json()["body_bytes"] == size
        assert len((await tunnel.ask(f"GET /big/{size} HTTP/1.1\nHost: api.test")).body) == size


@pytest.mark.parametrize("first", [b"\x16\x03\x01", b"\x16\x03\x01\x40\x00\x01\x00\x10\x00" + b"z" * 50])
async def test_tls_that_never_gets_to_its_name_is_cut_off(first: bytes) -> None:
    limits = Limits(head_s=0.3)
    async with host() as web, box(["api.test"], resolve={"api.test": f"127.0.0.1:{web.port}"}, limits=limits) as inside:
        tunnel = await inside.dial()
        assert (await tunnel.connect("api.test:443")).status == 200
        await tunnel.send(first)
        assert await tunnel.rest(5) == b"\x15\x03\x01\x00\x02\x02\x70"


async def test_a_silent_tunnel_is_ended_and_a_busy_one_is_not() -> None:
    limits = Limits(idle_s=0.6)
    async with host() as web, box(["api.test"], resolve={"api.test": f"127.0.0.1:{web.port}"}, limits=limits) as inside:
        tunnel = await inside.dial()
        assert (await tunnel.connect("api.test:80")).status == 200
        for _ in range(4):
            await asyncio.sleep(0.3)
            assert (await tunnel.ask("GET / HTTP/1.1\nHost: x")).status == 200
        assert await tunnel.rest(5) == b""


async def test_a_host_that_goes_away_ends_the_tunnel() -> None:
    async with host() as web, box(["api.test"], resolve={"api.test": f"127.0.0.1:{web.port}"}) as inside:
        tunnel = await inside.dial()
        assert (await tunnel.connect("api.test:80")).status == 200
        await tunnel.send(b"GET /until-close HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await tunnel.rest()).endswith(b"until close")
