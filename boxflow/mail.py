"""What reaches a run from outside: events, webhooks, and the tokens that webhooks carry.

A token is `<body>.<mac>`: the body names run and webhook, the mac is an HMAC-SHA256 over it with the engine's secret.
So a token needs no lookup, and nobody can guess one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
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


@attrs.frozen(kw_only=True)
class WebhookRequest:
    """One call of a webhook. Header names are lower case; of a repeated query parameter the last one counts."""

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


def make_token(secret: bytes, run_id: str, name: str) -> str:
    """The token of webhook *name* of run *run_id*."""
    body = msgspec.json.encode(_TokenBody(run_id, name))
    return f"{_text(body)}.{_text(_mac(secret, body))}"


def read_token(secret: bytes, token: str) -> tuple[str, str]:
    """The run id and the webhook's name in *token*.

    :raises WebhookTokenError: not made with *secret*; the comparison takes the same time wherever it differs
    """
    try:
        body_text, mac_text = token.split(".")
        body, mac = _bytes(body_text), _bytes(mac_text)
    except ValueError:
        body, mac = b"", b""
    if not hmac.compare_digest(_mac(secret, body), mac):
        raise WebhookTokenError
    try:
        found = msgspec.json.decode(body, type=_TokenBody)
    except msgspec.MsgspecError as error:
        raise WebhookTokenError from error
    return found.run_id, found.name


def _mac(secret: bytes, body: bytes) -> bytes:
    return hmac.new(secret, b"boxflow webhook\0" + body, hashlib.sha256).digest()[:MAC_BYTES]


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _text(data) != text:
        # One token, one text: the last character's spare bits must not make a second spelling.
        raise ValueError(text)
    return data


def mailbox_prefix(owner: str, subject: str) -> str:
    """The prefix of the keys under which mail for *subject* is kept; *owner* is a run id, or empty for everybody.

    Lengths come first, so that no id is the beginning of another.
    """
    return f"{len(owner)}:{owner}:{len(subject)}:{subject}:"
