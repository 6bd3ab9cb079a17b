"""What reaches a run from outside: events, webhooks, and the tokens that webhooks carry.

A token is `<body>.<mac>`: the body names run and webhook, the mac is an HMAC-SHA256 over it with the engine's secret.
So a token needs no lookup, and nobody can guess one. `v.<body>.<mac>` also says how calls are verified.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, overload

import attrs
import msgspec

from boxflow.codec import ANY, decode_value
from boxflow.errors import WebhookTokenError

T = TypeVar("T")

MAC_BYTES = 20
"""160 bits of an HMAC-SHA256: beyond guessing, and short in a URL (RFC 2104 §5 allows half the digest or more)."""


@attrs.frozen(kw_only=True)
class Notified:
    """What became of an event.

    :param run_ids: the runs that it woke
    :param kept: nobody waited, it is kept for the next wait
    """

    run_ids: tuple[str, ...] = ()
    kept: bool = False


@attrs.frozen(kw_only=True)
class Webhook:
    """A URL of a run's own. *url* is a path only when the engine has no `base_url`."""

    name: str
    url: str
    token: str


class WebhookCheck(msgspec.Struct, frozen=True, kw_only=True):
    """How the calls of a webhook are verified before they are kept.

    :param verifier: one of the known schemes, or `module:qualname` of a function
    :param secret: the name of the variable that holds the secret; empty when there is none
    """

    verifier: str
    secret: str


class WebhookAddress(msgspec.Struct, frozen=True, kw_only=True):
    """What a token says: whose webhook it is, which one, and how its calls are verified."""

    run_id: str
    name: str
    check: WebhookCheck | None = None


@attrs.frozen(kw_only=True)
class WebhookRequest:
    """One call of a webhook. Header names are lower case; of a repeated query parameter the last one counts.

    The values of a repeated header are joined by commas, as RFC 9110 §5.3 has it; the body is the bytes as they came.
    """

    method: str
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    query: Mapping[str, str] = attrs.field(factory=dict[str, str])
    body: bytes = b""

    @property
    def text(self) -> str:
        """The body as text (UTF-8, what is not is replaced)."""
        return self.body.decode("utf-8", "replace")

    @overload
    def json(self) -> Any: ...

    @overload
    def json(self, type: type[T]) -> T: ...

    @overload
    def json(self, type: object) -> Any: ...

    def json(self, type: object = ANY) -> Any:
        """The body as JSON, decoded to *type*.

        :raises DecodeError: it is not JSON, or does not fit *type*
        """
        return decode_value(self.body, type)


class _TokenBody(msgspec.Struct, array_like=True, frozen=True):
    run_id: str
    name: str


class _VerifiedTokenBody(msgspec.Struct, array_like=True, frozen=True):
    run_id: str
    name: str
    verifier: str
    secret: str


def make_token(secret: bytes, run_id: str, name: str, check: WebhookCheck | None = None) -> str:
    """The token of webhook *name* of run *run_id*."""
    if check is None:
        body = msgspec.json.encode(_TokenBody(run_id, name))
        return f"{_text(body)}.{_text(_mac(secret, _PLAIN, body))}"
    body = msgspec.json.encode(_VerifiedTokenBody(run_id, name, check.verifier, check.secret))
    return f"v.{_text(body)}.{_text(_mac(secret, _VERIFIED, body))}"


def read_token(secret: bytes, token: str) -> WebhookAddress:
    """What *token* says.

    :raises WebhookTokenError: not made with *secret*; the comparison takes the same time wherever it differs
    """
    is_verified = token.startswith("v.")
    purpose = _VERIFIED if is_verified else _PLAIN
    try:
        body_text, mac_text = token.removeprefix("v.").split(".")
        body, mac = _bytes(body_text), _bytes(mac_text)
    except ValueError:
        body, mac = b"", b""
    if not hmac.compare_digest(_mac(secret, purpose, body), mac):
        raise WebhookTokenError
    try:
        if not is_verified:
            plain = msgspec.json.decode(body, type=_TokenBody)
            return WebhookAddress(run_id=plain.run_id, name=plain.name)
        found = msgspec.json.decode(body, type=_VerifiedTokenBody)
    except msgspec.MsgspecError as error:
        raise WebhookTokenError from error
    check = WebhookCheck(verifier=found.verifier, secret=found.secret)
    return WebhookAddress(run_id=found.run_id, name=found.name, check=check)


# Two purposes, and not a longer body: what does not know of verification must not take the one for the other.
_PLAIN = b"boxflow webhook\0"
_VERIFIED = b"boxflow verified webhook\0"


def _mac(secret: bytes, purpose: bytes, body: bytes) -> bytes:
    return hmac.new(secret, purpose + body, hashlib.sha256).digest()[:MAC_BYTES]


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _text(data) != text:
        # One token, one text: the last character's spare bits must not make a second spelling.
        raise ValueError(text)
    return data


def joined_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by their names in lower case, with the values of a repeated one joined as RFC 9110 §5.3 has it."""
    joined: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        # RFC 9113 §8.2.3: HTTP/2 may send one Cookie as several, which belong together with a semicolon.
        joined[key] = value if key not in joined else f"{joined[key]}{'; ' if key == 'cookie' else ', '}{value}"
    return joined


def mailbox_prefix(owner: str, subject: str) -> str:
    """The prefix of the keys under which mail for *subject* is kept; *owner* is a run id, or empty for everybody.

    Lengths come first, so that no id is the beginning of another.
    """
    return f"{len(owner)}:{owner}:{len(subject)}:{subject}:"
