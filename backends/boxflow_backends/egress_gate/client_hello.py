"""Which server does the beginning of a TLS connection ask for? Pure: it parses bytes, within bounds.

Structures and numbers as in RFC 8446, chapters 4 and 5, and for the server's name RFC 6066, chapter 3.
"""

from __future__ import annotations

import attrs

# A hello with post-quantum key shares has under 2 KiB; RFC 8446 has no bound but 2**24.
MOST_BYTES = 32_768
# Clients use one, or two to trip up middleboxes; each costs whoever sent it little and us a turn.
_MOST_RECORDS = 16

_HANDSHAKE = 22
_RECORD_TYPES = range(20, 25)
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_HOST_NAME = 0


@attrs.frozen
class NotTls:
    """The bytes begin something else than TLS."""


@attrs.frozen
class Incomplete:
    """More bytes are needed to tell."""


@attrs.frozen
class Malformed:
    """It begins like TLS, but no server should understand it; whoever does, understands something that we do not."""

    reason: str


@attrs.frozen
class ClientHello:
    """A whole hello; *server_name* as it is written there, None when it names none."""

    server_name: str | None


Reading = NotTls | Incomplete | Malformed | ClientHello


def read_client_hello(data: bytes) -> Reading:
    """What *data*, the first bytes that a client sent, begins."""
    if not data:
        return Incomplete()
    if data[0] not in _RECORD_TYPES:
        return NotTls()
    try:
        message = _first_message(data)
        if message is None:
            return Malformed("it is too long") if len(data) >= MOST_BYTES else Incomplete()
        return ClientHello(_server_name(message))
    except _MalformedError as exc:
        return Malformed(str(exc))


class _MalformedError(Exception):
    pass


def _first_message(data: bytes) -> bytes | None:
    """The body of the hello, put together from one or more records; None while it is not all there."""
    message = bytearray()
    rest = _Reader(data)
    for _ in range(_MOST_RECORDS):
        if len(message) >= 4:
            if message[0] != _CLIENT_HELLO:
                raise _MalformedError("it begins with no ClientHello")
            length = int.from_bytes(message[1:4], "big")
            if length > MOST_BYTES:
                raise _MalformedError("it is too long")
            if len(message) >= 4 + length:
                return bytes(message[4 : 4 + length])
        if rest.left() < 5:
            return None
        kind, major = rest.number(1), rest.number(1)
        rest.number(1)
        length = rest.number(2)
        if kind != _HANDSHAKE or major != 3 or not 0 < length <= 16_384:
            raise _MalformedError("it begins with no handshake record")
        message += rest.take(min(length, rest.left()))
    raise _MalformedError("it is in too many pieces")


def _server_name(message: bytes) -> str | None:
    hello = _Reader(message)
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # legacy_session_id
    hello.vector(2)  # cipher_suites
    hello.vector(1)  # legacy_compression_methods
    if not hello.left():
        return None
    extensions = _Reader(hello.vector(2))
    found: str | None = None
    while extensions.left():
        kind, body = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            if found is not None:
                raise _MalformedError("it names two servers")
            found = _only_host_name(body)
    return found


def _only_host_name(body: bytes) -> str:
    extension = _Reader(body)
    names = _Reader(extension.vector(2))
    kind, name = names.number(1), names.vector(2)
    if kind != _HOST_NAME or names.left() or extension.left() or not name.isascii():
        raise _MalformedError("its server name is no single host name")
    return name.decode("ascii")


class _Reader:
    """Takes numbers and vectors off the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left():
            raise _MalformedError("it ends too early")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> bytes:
        return self.take(self.number(length_size))
