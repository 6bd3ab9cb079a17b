"""The server's name is read from any TLS that a client can speak, and from no bytes that it cannot."""

from __future__ import annotations

import random
import ssl

import pytest

from boxflow_backends.egress_gate.client_hello import (
    ClientHello,
    Incomplete,
    Malformed,
    NotTls,
    read_client_hello,
)


def hello(name: str | None, *, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def in_records(data: bytes, size: int) -> bytes:
    """The same handshake message, in records of *size* bytes."""
    message = data[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["api.test", None])
def test_the_name_is_found_or_known_to_be_missing(name: str | None, version: ssl.TLSVersion) -> None:
    assert read_client_hello(hello(name, version=version)) == ClientHello(name)
    assert read_client_hello(hello(name, version=version) + b"more") == ClientHello(name)


def test_every_beginning_is_incomplete() -> None:
    whole = hello("api.test")
    assert {type(read_client_hello(whole[:end])) for end in range(len(whole))} == {Incomplete}


def test_a_hello_in_a_few_records_is_whole_and_in_many_is_refused() -> None:
    whole = hello("api.test")
    assert read_client_hello(in_records(whole, 100)) == ClientHello("api.test")
    assert isinstance(read_client_hello(in_records(whole, 1)), Malformed)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"SSH-2.0-x\r\n", b"\x00", b"\x80\x2e\x01\x03\x01", b"\x05\x01\x00"]
)
def test_what_is_no_tls_is_known_by_its_first_byte(data: bytes) -> None:
    assert read_client_hello(data) == NotTls()


def extensions(*bodies: tuple[int, bytes]) -> bytes:
    """A small hello with these extensions."""
    packed = b"".join(kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body for kind, body in bodies)
    body = (
        b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00" + len(packed).to_bytes(2, "big") + packed
    )
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def names(*entries: tuple[int, bytes]) -> bytes:
    packed = b"".join(bytes([kind]) + len(name).to_bytes(2, "big") + name for kind, name in entries)
    return len(packed).to_bytes(2, "big") + packed


def test_a_small_hello_of_our_own_is_understood() -> None:
    assert read_client_hello(extensions((0, names((0, b"a.test"))))) == ClientHello("a.test")
    assert read_client_hello(extensions((5, b"x"))) == ClientHello(None)


MALFORMED = {
    "two names": extensions((0, names((0, b"a.test"), (0, b"b.test")))),
    "two extensions": extensions((0, names((0, b"a.test"))), (0, names((0, b"b.test")))),
    "another kind of name": extensions((0, names((1, b"a.test")))),
    "no name": extensions((0, names())),
    "no ASCII": extensions((0, names((0, b"\xff.test")))),
    "bytes behind the names": extensions((0, names((0, b"a.test")) + b"x")),
    "a length beyond the end": extensions((0, b"\x00\xff\x00\x00\x06a.test")),
    "another handshake message": b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
    "an alert": b"\x15\x03\x01\x00\x02\x01\x00",
    "another record first": b"\x14\x03\x01\x00\x01\x01" + extensions((0, names((0, b"a.test")))),
    "another version": b"\x16\x02\x00\x00\x04\x01\x00\x00\x00",
    "an empty record": b"\x16\x03\x01\x00\x00",
    "a record that is too long": b"\x16\x03\x01\xff\xff\x01",
    "a hello that is too long": b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
    "more than is ever needed": b"\x16\x03\x01\x40\x00\x01\x00\x7f\xff"
    + bytes(16_380)
    + b"\x16\x03\x01\x40\x00"
    + bytes(16_384),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_two_servers_could_read_differently_is_malformed(data: bytes) -> None:
    assert isinstance(read_client_hello(data), Malformed)


def test_no_bytes_make_it_fail() -> None:
    dice = random.Random(3)
    whole = hello("api.test")
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(dice.randrange(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        read_client_hello(bytes(data[: dice.randrange(len(data))]))
        read_client_hello(bytes(data))
