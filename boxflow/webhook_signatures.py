"""Is a call from the sender that shares a secret with us, and when was it made? The signatures of three known schemes.

    scheme              the sender signs           id by which a repeated call is known
    github              the body                   X-GitHub-Delivery
    slack               time, body                 the event's `event_id`, else the signature itself
    standard-webhooks   id, time, body             webhook-id

Sources: docs.github.com "Validating webhook deliveries", api.slack.com "Verifying requests from Slack",
standardwebhooks.com specification 1.0.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from boxflow.errors import ConfigurationError, WebhookRefusedError

Scheme: TypeAlias = Literal["github", "slack", "standard-webhooks"]

TOLERANCE_S: Final = 300
"""How far a call's time may be from ours, in both directions: five minutes, as Slack and Standard Webhooks say."""

_TIME_DIGITS = 12  # Seconds until the year 33658; longer is no time, and `int` refuses thousands of digits.


def verify_webhook(
    scheme: Scheme, secret: str, *, headers: Mapping[str, str], body: bytes, now: float | None = None
) -> str:
    """The id of a call that *secret* has signed, by which the same call is known when it comes again.

    For routes of an app's own; `ctx.create_webhook(verify=...)` does it for the webhooks of runs.

    :param headers: as they came, with names in any case
    :param body: the very bytes that came, before anything has decoded them
    :param now: seconds since the epoch; the machine's clock by default
    :raises WebhookRefusedError: the signature is missing or another one, the call is older than five minutes or from
        the future (GitHub signs no time), or it has no id
    :raises ConfigurationError: no such scheme, or *secret* cannot be one of it
    """
    check = _CHECKS.get(scheme)
    if check is None:
        raise ConfigurationError(f"webhooks are verified as one of {', '.join(map(repr, SCHEMES))}, not {scheme!r}")
    if not secret:
        raise ConfigurationError(f"the secret of {scheme!r} webhooks is empty, and everybody could sign with it")
    return check(_Call(headers, body), secret, time.time() if now is None else now)


class _Call:
    """Headers and body, and what is told when one of them is not as it should be."""

    def __init__(self, headers: Mapping[str, str], body: bytes) -> None:
        self._headers = headers
        self.body = body

    def header(self, name: str) -> str:
        # `items`, because the mappings of web frameworks hold repeated headers and give the first of them to `get`.
        values = [value for key, value in self._headers.items() if key.lower() == name.lower()]
        if len(values) != 1 or not values[0].strip():
            raise WebhookRefusedError(f"its header {name} is {'there more than once' if values[1:] else 'missing'}")
        return values[0].strip()


def _github(call: _Call, secret: str, now: float) -> str:
    expected = "sha256=" + hmac.new(secret.encode(), call.body, hashlib.sha256).hexdigest()
    _compare([call.header("X-Hub-Signature-256")], expected)
    return call.header("X-GitHub-Delivery")


def _slack(call: _Call, secret: str, now: float) -> str:
    sent_at, signature = call.header("X-Slack-Request-Timestamp"), call.header("X-Slack-Signature")
    signed = b"v0:" + _bytes(sent_at) + b":" + call.body
    _compare([signature], "v0=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest())
    _check_time(sent_at, now)
    return _slack_event(call.body) or signature


def _standard(call: _Call, secret: str, now: float) -> str:
    key = _standard_key(secret)
    identity, sent_at = call.header("webhook-id"), call.header("webhook-timestamp")
    signed = _bytes(identity) + b"." + _bytes(sent_at) + b"." + call.body
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    # Several while the sender changes its secret. A proxy may have made one header of two, with a comma between them.
    _compare([one.rstrip(",") for one in call.header("webhook-signature").split()], expected)
    _check_time(sent_at, now)
    return identity


def _standard_key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        # `from None`: what was refused is a secret, and stands in the causes.
        raise ConfigurationError(
            "the secret of 'standard-webhooks' webhooks must be in base64, with or without 'whsec_' before it"
        ) from None
    return key


def _compare(given: Iterable[str], expected: str) -> None:
    wanted = expected.encode("ascii")
    # All of them, each in constant time: how long it took says nothing.
    matches = [hmac.compare_digest(_bytes(one), wanted) for one in given]
    if not any(matches):
        raise WebhookRefusedError("its signature does not match; do the sender and this engine have the same secret?")


def _check_time(sent_at: str, now: float) -> None:
    if not (sent_at.isascii() and sent_at.isdigit() and len(sent_at) <= _TIME_DIGITS):
        raise WebhookRefusedError("its timestamp is not a number of seconds")
    age_s = now - int(sent_at)
    if age_s > TOLERANCE_S:
        raise WebhookRefusedError(f"it was signed more than {TOLERANCE_S} s ago; sign it anew when you send it again")
    if age_s < -TOLERANCE_S:
        raise WebhookRefusedError(f"it was signed more than {TOLERANCE_S} s in the future; the sender's clock is ahead")


class _SlackEvent(msgspec.Struct):
    event_id: str = ""


def _slack_event(body: bytes) -> str:
    """The id that Slack's Events API gives an event, the same on each retry; interactions have none."""
    try:
        return msgspec.json.decode(body, type=_SlackEvent).event_id
    except (msgspec.MsgspecError, RecursionError):
        return ""


def _bytes(text: str) -> bytes:
    # As a server reads header bytes (WSGI and ASGI), and therefore the same bytes again; other text matches nothing.
    return text.encode("latin-1", "replace")


_CHECKS: Final[Mapping[str, Callable[[_Call, str, float], str]]] = {
    "github": _github,
    "slack": _slack,
    "standard-webhooks": _standard,
}

SCHEMES: Final = tuple(_CHECKS)
