"""Requests are forwarded whole, chunk by chunk, and framed anew; what is ambiguous is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from egress.harness import QUICK, Box, Certificates, Connection, Host, box, host


@asynccontextmanager
async def opened(
    certificates: Certificates, way: str, **options: object
) -> AsyncIterator[tuple[Host, Box, Connection, str]]:
    """A host, a box, a connection to ask on, and what stands before a path: plain, or through an opened tunnel."""
    tls = certificates.server_context() if way == "tunnel" else None
    headers = {"api.test": {"X-Set": "by the gate"}} if way == "tunnel" else {}
    async with host(tls) as web:
        resolve = {"api.test": f"127.0.0.1:{web.port}"}
        async with box(
            ["api.test"], headers=headers, resolve=resolve, upstream_ca=certificates.ca, **options
        ) as inside:
            if way == "tunnel":
                yield web, inside, await inside.tunnel("api.test:443"), ""
            else:
                yield web, inside, await inside.dial(), "http://api.test"


both = pytest.mark.parametrize("way", ["plain", "tunnel"])


@both
async def test_a_request_is_forwarded_and_the_connection_kept(certificates: Certificates, way: str) -> None:
    async with opened(certificates, way) as (web, _, connection, base):
        for n in range(3):
            answer = await connection.ask(f"GET {base}/a?b={n} HTTP/1.1\nHost: api.test\nX-Mine: 1\nX-Mine: 2")
            assert answer.json()["target"] == f"/a?b={n}"
            assert [value for name, value in answer.headers if name == "x-two"] == ["a", "b"]
        assert web.asked[0].header("host") == ["api.test"]
        assert web.asked[0].header("x-mine") == ["1", "2"]
        assert web.asked[0].header("x-set") == (["by the gate"] if way == "tunnel" else [])
        assert web.connections == 1


@both
async def test_what_concerns_one_hop_is_not_forwarded(certificates: Certificates, way: str) -> None:
    async with opened(certificates, way) as (web, _, connection, base):
        await connection.ask(
            f"GET {base}/ HTTP/1.1\nHost: api.test\nConnection: keep-alive, X-Hop\nX-Hop: 1\nTE: trailers\n"
            "Proxy-Authorization: Basic eA==\nProxy-Connection: keep-alive\nKeep-Alive: 5\n"
            "Upgrade: h2c\nHTTP2-Settings: x"
        )
        assert {name.lower() for name, _ in web.asked[0].headers} <= {"host", "x-set"}


async def test_the_host_is_what_the_request_line_says() -> None:
    async with host() as web, box(["api.test"], resolve={"api.test": f"127.0.0.1:{web.port}"}) as inside:
        await inside.ask("GET http://API.test HTTP/1.1\nHost: evil.test")
        assert web.asked[0].header("host") == ["api.test"]
        assert web.asked[0].target == "/"


@both
async def test_bodies_of_both_framings_arrive_whole(certificates: Certificates, way: str) -> None:
    size = 3_000_000
    async with opened(certificates, way) as (web, _, connection, base):
        fixed = await connection.ask(f"POST {base}/ HTTP/1.1\nHost: api.test\nContent-Length: {size}", b"z" * size)
        pieces = b"".join(b"%x\r\n%b\r\n" % (1000, b"z" * 1000) for _ in range(size // 1000)) + b"0\r\n\r\n"
        chunked = await connection.ask(f"PUT {base}/ HTTP/1.1\nHost: api.test\nTransfer-Encoding: chunked", pieces)
        assert fixed.json()["body_sha"] == chunked.json()["body_sha"]
        assert web.asked[0].header("content-length") == [str(size)]
        assert web.asked[1].header("transfer-encoding") == ["chunked"]
        assert len((await connection.ask(f"GET {base}/big/{size} HTTP/1.1\nHost: api.test")).body) == size


@both
async def test_events_arrive_one_by_one(certificates: Certificates, way: str) -> None:
    async with opened(certificates, way) as (web, _, connection, base):
        await connection.send(f"GET {base}/events HTTP/1.1\r\nHost: api.test\r\n\r\n".encode())
        web.events.put_nowait("first")
        head = await connection.until(b"\r\n\r\n")
        assert b"text/event-stream" in head
        assert b"x-hop" not in head.lower()
        assert b"data: first" in await connection.until(b"\n\n\r\n")
        web.events.put_nowait("second")  # only after the first was seen
        assert b"data: second" in await connection.until(b"\n\n\r\n")
        web.events.put_nowait(None)
        assert await connection.until(b"0\r\n\r\n") == b"0\r\n\r\n"
        assert (await connection.ask(f"GET {base}/ HTTP/1.1\nHost: api.test")).status == 200


@both
async def test_answers_without_a_body_end_at_once(certificates: Certificates, way: str) -> None:
    async with opened(certificates, way) as (_, _, connection, base):
        assert (await connection.ask(f"HEAD {base}/ HTTP/1.1\nHost: api.test")).status == 200
        assert (await connection.ask(f"GET {base}/204 HTTP/1.1\nHost: api.test")).status == 204
        await connection.send(f"GET {base}/304 HTTP/1.1\r\nHost: api.test\r\n\r\n".encode())
        assert (await connection.response(body=False)).status == 304
        assert (await connection.ask(f"GET {base}/ HTTP/1.1\nHost: api.test")).status == 200


@both
async def test_a_client_that_waits_for_100_continue_gets_it_once_the_host_is_there(
    certificates: Certificates, way: str
) -> None:
    async with opened(certificates, way) as (web, _, connection, base):
        head = f"POST {base}/ HTTP/1.1\r\nHost: api.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        await connection.send(head.encode())
        assert (await connection.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await connection.send(b"body")
        assert (await connection.response()).json()["body_bytes"] == 4
        assert web.asked[0].header("expect") == []


async def test_a_refused_client_that_waits_for_100_continue_never_gets_it() -> None:
    async with box(["api.test"]) as inside:
        answer = await inside.ask("POST http://other.test/ HTTP/1.1\nHost: x\nContent-Length: 4\nExpect: 100-continue")
        assert answer.status == 403
        assert dict(answer.headers)["content-type"] == "application/problem+json"


async def test_a_refusal_is_read_by_a_client_that_is_still_sending() -> None:
    async with box(["api.test"]) as inside:
        connection = await inside.dial()
        sending = asyncio.create_task(
            connection.send(
                b"POST http://other.test/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000
            )
        )
        assert (await connection.response()).status == 403
        await sending


@both
async def test_connection_close_is_heeded(certificates: Certificates, way: str) -> None:
    async with opened(certificates, way) as (_, _, connection, base):
        assert (await connection.ask(f"GET {base}/ HTTP/1.1\nHost: api.test\nConnection: close")).status == 200
        assert await connection.rest(5) == b""


async def test_an_answer_that_ends_with_its_connection_is_chunked_for_a_client_of_http_1_1_and_closed_for_1_0(
    certificates: Certificates,
) -> None:
    async with opened(certificates, "plain") as (_, inside, connection, base):
        assert (await connection.ask(f"GET {base}/until-close HTTP/1.1\nHost: api.test")).body == b"until close"
        old = await inside.dial()
        await old.send(f"GET {base}/until-close HTTP/1.0\r\n\r\n".encode())
        assert (await old.rest()).endswith(b"\r\n\r\nuntil close")


@both
async def test_pipelined_requests_are_answered_in_order(certificates: Certificates, way: str) -> None:
    async with opened(certificates, way) as (_, _, connection, base):
        await connection.send(b"".join(f"GET {base}/{n} HTTP/1.1\r\nHost: api.test\r\n\r\n".encode() for n in range(5)))
        assert [(await connection.response()).json()["target"] for _ in range(5)] == [f"/{n}" for n in range(5)]


@both
async def test_a_host_that_answers_before_it_has_read_everything_is_heard(certificates: Certificates, way: str) -> None:
    async with opened(certificates, way) as (_, _, connection, base):
        head = f"POST {base}/early HTTP/1.1\nHost: api.test\nContent-Length: 2000000"
        assert (await connection.ask(head, b"x" * 2_000_000)).status == 413


@both
async def test_a_client_that_goes_away_ends_the_request_at_the_host(certificates: Certificates, way: str) -> None:
    async with opened(certificates, way) as (web, _, connection, base):
        await connection.send(f"GET {base}/hang HTTP/1.1\r\nHost: api.test\r\n\r\n".encode())
        while not web.asked:
            await asyncio.sleep(0.01)
        await connection.close()
        await asyncio.wait_for(web.gone.wait(), 5)


@both
async def test_a_host_that_breaks_off_is_a_bad_gateway_or_a_broken_answer_never_a_whole_one(
    certificates: Certificates, way: str
) -> None:
    async with opened(certificates, way) as (_, _, connection, base):
        await connection.send(f"GET {base}/cut HTTP/1.1\r\nHost: api.test\r\n\r\n".encode())
        assert b"content-length: 100" in (await connection.until(b"\r\n\r\n")).lower()
        assert await connection.rest() == b"half"


async def test_a_host_that_speaks_no_http_is_a_bad_gateway(certificates: Certificates) -> None:
    async with opened(certificates, "plain") as (_, _, connection, base):
        assert (await connection.ask(f"GET {base}/no-http HTTP/1.1\nHost: api.test")).status == 502


async def test_a_host_that_does_not_answer_in_time_is_a_gateway_timeout(certificates: Certificates) -> None:
    async with opened(certificates, "plain", limits=QUICK) as (_, _, connection, base):
        assert (await connection.ask(f"GET {base}/hang HTTP/1.1\nHost: api.test")).status == 504


SMUGGLED = [
    "POST {base}/ HTTP/1.1\nHost: api.test\nContent-Length: 4\nTransfer-Encoding: chunked",
    "POST {base}/ HTTP/1.1\nHost: api.test\nContent-Length: 4\nContent-Length: 5",
    "POST {base}/ HTTP/1.1\nHost: api.test\nContent-Length: +4",
    "POST {base}/ HTTP/1.1\nHost: api.test\nTransfer-Encoding: gzip, chunked",
    "POST {base}/ HTTP/1.1\nHost: api.test\nTransfer-Encoding: xchunked",
    "GET {base}/ HTTP/1.1\nHost: api.test\nHost: other.test",
    "GET {base}/ HTTP/1.1\nHost: api.test\nX-A : 1",
    "GET {base}/ HTTP/1.1\nHost: api.test\nX-A: 1\x00",
    "GET {base}/ HTTP/1.1\n Host: api.test",
    "GET {base}/ HTTP/1.1",
    "GET {base}/ HTTP/9.1\nHost: api.test",
    "GET {base}/ x HTTP/1.1\nHost: api.test",
    "GET",
    "\x16\x03\x01\x02\x00\x01",
]


@both
@pytest.mark.parametrize("text", SMUGGLED)
async def test_a_request_that_two_servers_could_read_differently_is_refused(
    certificates: Certificates, way: str, text: str
) -> None:
    async with opened(certificates, way) as (web, _, connection, base):
        answer = await connection.ask(
            text.format(base=base), b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n"
        )
        assert answer.status in {400, 501, 505}
        assert await connection.rest(5) == b""
        assert web.asked == []


@both
async def test_a_folded_header_is_one_header_for_the_host(certificates: Certificates, way: str) -> None:
    async with opened(certificates, way) as (web, _, connection, base):
        await connection.ask(f"GET {base}/ HTTP/1.1\nHost: api.test\nX-A: 1\n Content-Length: 50")
        assert web.asked[0].header("x-a") == ["1 Content-Length: 50"]
        assert web.asked[0].header("content-length") == []


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/path", 400),
        ("*", 400),
        ("ftp://api.test/", 400),
        ("http://user@api.test/", 400),
        ("http://api.test:443@other.test/", 400),
        ("http://other.test/", 403),
        ("http://api.test:8080/", 403),
        ("http://127.0.0.1/", 403),
        ("http://[::1]/", 403),
        ("http://api.test\\@other.test/", 400),
        ("http://api.test#@other.test/", 400),
        ("http:///x", 400),
    ],
)
async def test_only_a_whole_url_of_an_allowed_host_is_forwarded(target: str, status: int) -> None:
    async with box(["api.test"], resolve={"api.test": "127.0.0.1:1"}) as inside:
        assert (await inside.ask(f"GET {target} HTTP/1.1\nHost: api.test")).status == status


async def test_a_tunnel_that_is_opened_up_serves_its_own_host_only(certificates: Certificates) -> None:
    async with opened(certificates, "tunnel") as (web, inside, _, _base):
        for text in (
            "GET / HTTP/1.1\nHost: other.test",
            "GET http://other.test/ HTTP/1.1\nHost: other.test",
            "GET http://other.test/ HTTP/1.1\nHost: api.test",
            "GET / HTTP/1.1\nHost: api.test:8443",
            "GET / HTTP/1.1\nHost: api.test, other.test",
        ):
            assert (await (await inside.tunnel("api.test:443")).ask(text)).status == 421
        assert (
            await (await inside.tunnel("api.test:443")).ask("CONNECT other.test:443 HTTP/1.1\nHost: x")
        ).status == 400
        assert web.asked == []
        assert (await (await inside.tunnel("api.test:443")).ask("GET / HTTP/1.1\nHost: API.test:443")).status == 200
        whole = await (await inside.tunnel("api.test:443")).ask("GET https://api.test/y HTTP/1.1\nHost: api.test")
        assert whole.json()["target"] == "/y"
        old = await inside.tunnel("api.test:443")
        await old.send(b"GET /old HTTP/1.0\r\n\r\n")
        assert b'"/old"' in await old.rest()


@both
async def test_websockets_and_other_protocols_are_refused_or_passed_over(certificates: Certificates, way: str) -> None:
    async with opened(certificates, way) as (_, _, connection, base):
        answer = await connection.ask(f"GET {base}/ HTTP/1.1\nHost: api.test\nConnection: Upgrade\nUpgrade: websocket")
        assert answer.status == 501
        assert "websocket" in answer.detail()


async def test_http_over_tls_may_be_asked_for_without_a_tunnel(certificates: Certificates) -> None:
    async with (
        host(certificates.server_context()) as web,
        box(["api.test"], resolve={"api.test": f"127.0.0.1:{web.port}"}, upstream_ca=certificates.ca) as inside,
    ):
        assert (await inside.ask("GET https://api.test/z HTTP/1.1\nHost: api.test")).json()["target"] == "/z"


async def test_a_host_whose_certificate_is_not_trusted_is_a_bad_gateway(certificates: Certificates) -> None:
    async with (
        host(certificates.server_context()) as web,
        box(
            ["api.test", "wrong.test"], resolve=dict.fromkeys(("api.test", "wrong.test"), f"127.0.0.1:{web.port}")
        ) as inside,
        box(["wrong.test"], resolve={"wrong.test": f"127.0.0.1:{web.port}"}, upstream_ca=certificates.ca) as trusting,
    ):
        unknown = await inside.ask("GET https://api.test/ HTTP/1.1\nHost: x")
        misnamed = await trusting.ask("GET https://wrong.test/ HTTP/1.1\nHost: x")
        assert (unknown.status, misnamed.status) == (502, 502)
        assert "TLS with wrong.test:443 failed" in misnamed.detail()
        assert web.asked == []
