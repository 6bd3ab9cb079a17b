"""Which requests does the gateway forward? Those that it can meter, and a few that cost nothing.

Everything else an agent could do with the key is refused: batches and background work spend later and elsewhere, files
and stored answers belong to others as well.
"""

from __future__ import annotations

import enum
import re

import attrs

from boxflow.gateway.problems import Kind, Problem
from boxflow.harness import ModelApi


class Metering(enum.Enum):
    """What has to be done about a request."""

    FREE = enum.auto()
    """Nothing: it costs nothing."""

    MESSAGES = enum.auto()
    CHAT = enum.auto()
    RESPONSES = enum.auto()
    USAGE_ONLY = enum.auto()
    """Its answer has a usage; it has no length to limit."""


# Programs put the version into the base URL, or leave it there: both are right.
_ENDPOINTS: dict[ModelApi, tuple[tuple[str, re.Pattern[str], Metering], ...]] = {
    ModelApi.ANTHROPIC: (
        ("POST", re.compile(r"(?:v1/)?messages"), Metering.MESSAGES),
        ("POST", re.compile(r"(?:v1/)?messages/count_tokens"), Metering.FREE),
        ("GET", re.compile(r"(?:v1/)?models(?:/\w[\w.:@-]*)*"), Metering.FREE),
    ),
    ModelApi.OPENAI: (
        ("POST", re.compile(r"(?:v1/)?chat/completions"), Metering.CHAT),
        ("POST", re.compile(r"(?:v1/)?responses"), Metering.RESPONSES),
        ("POST", re.compile(r"(?:v1/)?responses/compact"), Metering.USAGE_ONLY),
        ("POST", re.compile(r"(?:v1/)?responses/input_tokens"), Metering.FREE),
        ("POST", re.compile(r"(?:v1/)?embeddings"), Metering.USAGE_ONLY),
        ("GET", re.compile(r"(?:v1/)?models(?:/\w[\w.:@-]*)*"), Metering.FREE),
    ),
}
_TARGET = re.compile(rb"/t/([A-Za-z0-9_-]+)/([!-~]*)")
_PROBED_BY_SOME = re.compile(rb"/t/([A-Za-z0-9_-]+)")


@attrs.frozen(kw_only=True)
class Target:
    """What a request asks for.

    :param path: behind the token, without a slash before it
    :param query: with its question mark, or empty
    """

    token: str = attrs.field(repr=False)
    path: str
    query: str


def read_target(target: bytes) -> Target:
    """What the target of a request line means.

    :raises Problem: it has no token
    """
    match = _TARGET.fullmatch(target) or _PROBED_BY_SOME.fullmatch(target)
    if match is None or b"#" in target:
        raise Problem(
            Kind.UNAUTHORIZED, "no token in the URL of the model; give programs `gateway.url(token)` as it is"
        )
    rest = match[2] if match.re is _TARGET else b""
    path, mark, query = rest.decode("ascii").partition("?")
    return Target(token=match[1].decode("ascii"), path=path, query=mark + query)


def metering_of(api: ModelApi, method: str, path: str) -> Metering:
    """What has to be done about a request for *path*.

    :raises Problem: it is not forwarded
    """
    for known_method, pattern, metering in _ENDPOINTS.get(api, ()):
        if method == known_method and pattern.fullmatch(path):
            return metering
    # Not the path itself: it could be anything.
    raise Problem(Kind.NOT_FOUND, "the model gateway does not forward this request: it forwards what it can meter")


def guessed_api(target: bytes, headers: dict[bytes, bytes]) -> ModelApi:
    """Which interface a request without an account seems to speak, so that it can read its refusal."""
    anthropic = b"anthropic-version" in headers or b"/messages" in target
    return ModelApi.ANTHROPIC if anthropic else ModelApi.OPENAI
