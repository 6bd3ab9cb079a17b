"""A header that the gate sets reaches its host, over TLS, and nothing in the box ever has its value."""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import tempfile
from pathlib import Path

import pytest
from egress.harness import Box, Certificates, box, host

SECRET = "sk-live-0123456789abcdef"
BEARER = {"Authorization": "Bearer $TOKEN"}


def nothing_shows(inside: Box, caplog: pytest.LogCaptureFixture, secret: str = SECRET) -> None:
    for seen in inside.seen:
        assert secret.encode() not in seen
    for path in inside.directory.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes()
    assert secret not in caplog.text
    assert not any(secret in repr(vars(record)) for record in caplog.records)


async def test_the_secret_replaces_what_the_box_sent_and_stays_outside(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with host(certificates.server_context()) as web:
        resolve = {"api.test": f"127.0.0.1:{web.port}"}
        async with box(
            ["api.test"],
            headers={"api.test": BEARER},
            resolve=resolve,
            secrets={"TOKEN": SECRET},
            upstream_ca=certificates.ca,
        ) as inside:
            tunnel = await inside.tunnel("api.test:443")
            for path in ("/", "/redirect", "/204", "/big/100000"):
                await tunnel.ask(f"GET {path} HTTP/1.1\nHost: api.test\nauthorization: mine\nAUTHORIZATION: mine too")
            await tunnel.ask("POST / HTTP/1.1\nHost: api.test\nConnection: authorization\nContent-Length: 2", b"{}")
            for refused in ("TRACE / HTTP/1.1\nHost: api.test", "GET / HTTP/1.1\nHost: api.test\nContent-Length: x"):
                await (await inside.tunnel("api.test:443")).ask(refused)
            assert [one.header("authorization") for one in web.asked] == [[f"Bearer {SECRET}"]] * 5
            nothing_shows(inside, caplog)


async def test_a_request_in_the_clear_is_made_over_tls(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with host(certificates.server_context()) as web:
        resolve = {"api.test:443": f"127.0.0.1:{web.port}"}
        async with box(
            ["api.test"],
            headers={"api.test": BEARER},
            resolve=resolve,
            secrets={"TOKEN": SECRET},
            upstream_ca=certificates.ca,
        ) as inside:
            assert (await inside.ask("GET http://api.test/a HTTP/1.1\nHost: api.test")).status == 200
            in_a_tunnel = await inside.dial()
            assert (await in_a_tunnel.connect("api.test:80")).status == 200
            assert (await in_a_tunnel.ask("GET /b HTTP/1.1\nHost: api.test")).status == 200
            assert [(one.target, one.header("authorization")) for one in web.asked] == [
                ("/a", [f"Bearer {SECRET}"]),
                ("/b", [f"Bearer {SECRET}"]),
            ]
            nothing_shows(inside, caplog)


async def test_only_a_policy_that_says_80_sends_it_in_the_clear() -> None:
    async with host() as web:
        resolve = {"api.test": f"127.0.0.1:{web.port}"}
        async with box(
            ["api.test:80"], headers={"api.test": BEARER}, resolve=resolve, secrets={"TOKEN": SECRET}
        ) as inside:
            assert (await inside.ask("GET http://api.test/a HTTP/1.1\nHost: api.test")).status == 200
            assert web.asked[0].header("authorization") == [f"Bearer {SECRET}"]


async def test_a_redirect_is_not_followed_and_the_next_host_gets_no_header(certificates: Certificates) -> None:
    async with host(certificates.server_context()) as web, host() as other:
        resolve = {"api.test": f"127.0.0.1:{web.port}", "other.test": f"127.0.0.1:{other.port}"}
        async with box(
            ["api.test", "other.test"],
            headers={"api.test": BEARER},
            resolve=resolve,
            secrets={"TOKEN": SECRET},
            upstream_ca=certificates.ca,
        ) as inside:
            answer = await (await inside.tunnel("api.test:443")).ask("GET /redirect HTTP/1.1\nHost: api.test")
            assert (answer.status, dict(answer.headers)["location"]) == (302, "http://other.test/elsewhere")
            assert other.asked == []
            await inside.ask("GET http://other.test/elsewhere HTTP/1.1\nHost: api.test")
            assert other.asked[0].header("authorization") == []


async def test_the_variable_is_read_at_each_request(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("GATE_TEST_TOKEN", raising=False)
    async with host(certificates.server_context()) as web:
        headers = {"api.test": {"X-Key": "${GATE_TEST_TOKEN}-$$"}}
        resolve = {"api.test": f"127.0.0.1:{web.port}"}
        async with box(["api.test"], headers=headers, resolve=resolve, upstream_ca=certificates.ca) as inside:
            assert "need variables that are not set: ['GATE_TEST_TOKEN']" in caplog.text
            missing = await (await inside.tunnel("api.test:443")).ask("GET / HTTP/1.1\nHost: api.test")
            assert missing.status == 502
            assert "variable 'GATE_TEST_TOKEN' is not set" in missing.detail()
            tunnel = await inside.tunnel("api.test:443")
            for value in ("one", "two"):
                monkeypatch.setenv("GATE_TEST_TOKEN", value)
                await tunnel.ask("GET / HTTP/1.1\nHost: api.test")
            assert [one.header("x-key") for one in web.asked] == [["one-$"], ["two-$"]]


@pytest.mark.parametrize("value", [SECRET + "\n", f"{SECRET}\r\nX-Other: 1", f" {SECRET}", SECRET + "é", ""])
async def test_a_value_that_no_header_can_carry_is_refused_and_not_shown(
    certificates: Certificates, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with host(certificates.server_context()) as web:
        resolve = {"api.test": f"127.0.0.1:{web.port}"}
        async with box(
            ["api.test"],
            headers={"api.test": BEARER},
            resolve=resolve,
            secrets={"TOKEN": value},
            upstream_ca=certificates.ca,
        ) as inside:
            refused = await (await inside.tunnel("api.test:443")).ask("GET / HTTP/1.1\nHost: api.test")
            assert refused.status == 502
            assert "'TOKEN'" in refused.detail()
            assert web.asked == []
            nothing_shows(inside, caplog)


async def test_a_pattern_sets_headers_for_its_subdomains_and_a_host_itself_has_the_last_word(
    certificates: Certificates,
) -> None:
    async with host(certificates.server_context()) as web:
        here = f"127.0.0.1:{web.port}"
        async with box(
            ["*.sub.test", "api.test"],
            headers={"a.sub.test": {"X-One": "a"}, "*.sub.test": {"x-one": "pattern", "X-Two": "pattern"}},
            resolve={"a.sub.test": here, "b.sub.test": here, "api.test": here},
            upstream_ca=certificates.ca,
        ) as inside:
            for name in ("a.sub.test", "b.sub.test"):
                await (await inside.tunnel(f"{name}:443")).ask(f"GET / HTTP/1.1\nHost: {name}")
            await (await inside.tunnel("api.test:443")).ask("GET / HTTP/1.1\nHost: api.test")
            assert [one.header("x-one") + one.header("x-two") for one in web.asked] == [
                ["a", "pattern"],
                ["pattern", "pattern"],
                [],
            ]


async def test_the_gate_shows_its_certificate_for_the_tunnels_host_only(certificates: Certificates) -> None:
    async with host(certificates.server_context()) as web:
        resolve = {"api.test": f"127.0.0.1:{web.port}"}
        async with box(
            ["api.test", "other.test"], headers={"api.test": BEARER}, resolve=resolve, secrets={"TOKEN": SECRET}
        ) as inside:
            with pytest.raises(OSError, match=r"(?i)unrecognized.name"):
                await inside.tunnel("api.test:443", name="other.test")


async def test_a_secret_is_not_sent_to_a_host_that_cannot_prove_its_name(certificates: Certificates) -> None:
    async with host(certificates.server_context()) as web:
        resolve = {"wrong.test": f"127.0.0.1:{web.port}"}
        async with box(
            ["wrong.test"],
            headers={"wrong.test": BEARER},
            resolve=resolve,
            secrets={"TOKEN": SECRET},
            upstream_ca=certificates.ca,
        ) as inside:
            answer = await (await inside.tunnel("wrong.test:443")).ask("GET / HTTP/1.1\nHost: wrong.test")
            assert answer.status == 502
            assert web.asked == []


async def test_the_authority_outlives_the_engine_out_of_the_boxs_sight(
    certificates: Certificates, tmp_path: Path
) -> None:
    private = tmp_path / "private"
    async with host(certificates.server_context()) as web:
        options = {
            "headers": {"api.test": BEARER},
            "resolve": {"api.test": f"127.0.0.1:{web.port}"},
            "secrets": {"TOKEN": SECRET},
            "upstream_ca": certificates.ca,
            "private_directory": private,
        }
        async with box(["api.test"], **options) as first:
            trusted = first.trust()
        async with box(["api.test"], **options) as second:
            tunnel = await second.dial()
            assert (await tunnel.connect("api.test:443")).status == 200
            await tunnel.start_tls(trusted, "api.test")  # by a program that is older than the gate
            assert (await tunnel.ask("GET / HTTP/1.1\nHost: api.test")).status == 200
            assert sorted(path.name for path in second.directory.iterdir()) == ["ca-bundle.pem", "gate.sock"]
            assert b"PRIVATE KEY" not in (second.directory / "ca-bundle.pem").read_bytes()
    assert (private / "authority.pem").stat().st_mode & 0o777 == 0o600
    assert private.stat().st_mode & 0o777 == 0o700


async def test_no_key_lies_around_while_certificates_are_made(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A short path: sockets are made below it, and theirs are bounded.
    tmp_path = Path(tempfile.mkdtemp(prefix="bf-", dir="/tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with host(certificates.server_context()) as web:
        resolve = {"api.test": f"127.0.0.1:{web.port}"}
        async with box(
            ["api.test"], headers={"api.test": {"X-A": "b"}}, resolve=resolve, upstream_ca=certificates.ca
        ) as inside:
            await asyncio.gather(*(inside.tunnel("api.test:443") for _ in range(10)))
            gc.collect()
            assert [
                path for path in tmp_path.rglob("*") if path.suffix == ".pem" and path.parent.name.startswith("boxflow")
            ] == []
    shutil.rmtree(tmp_path)
