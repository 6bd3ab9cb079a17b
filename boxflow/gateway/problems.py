"""What does an agent read when the gateway itself has to answer, so that its program does the right thing?

Measured with the programs themselves (claude 2.1.330, codex 0.169.0, opencode 1.18.33), against each status:

- No credit: claude tries 429 ten times and 400 six times, but stops at 402. Codex tries 402 and 403 six times, but
  stops at 400. Opencode stops at all of these.
- `x-should-retry: false` is read by the SDKs of both makers: with it claude stops also at 401, which it tries ten times
  otherwise.
"""

from __future__ import annotations

import enum

import msgspec

from boxflow.harness import ModelApi

Headers = list[tuple[bytes, bytes]]


class Kind(enum.Enum):
    """What is wrong."""

    UNAUTHORIZED = enum.auto()
    NO_CREDIT = enum.auto()
    BAD_REQUEST = enum.auto()
    NOT_FOUND = enum.auto()
    TOO_SLOW = enum.auto()
    TOO_LARGE = enum.auto()
    UNSUPPORTED_BODY = enum.auto()
    BUSY = enum.auto()
    NO_ANSWER = enum.auto()
    NO_ANSWER_IN_TIME = enum.auto()


# docs.anthropic.com/en/api/errors
_ANTHROPIC: dict[Kind, tuple[int, str]] = {
    Kind.UNAUTHORIZED: (401, "authentication_error"),
    Kind.NO_CREDIT: (402, "billing_error"),
    Kind.BAD_REQUEST: (400, "invalid_request_error"),
    Kind.NOT_FOUND: (404, "not_found_error"),
    Kind.TOO_SLOW: (408, "invalid_request_error"),
    Kind.TOO_LARGE: (413, "request_too_large"),
    Kind.UNSUPPORTED_BODY: (415, "invalid_request_error"),
    Kind.BUSY: (429, "rate_limit_error"),
    Kind.NO_ANSWER: (502, "api_error"),
    Kind.NO_ANSWER_IN_TIME: (504, "timeout_error"),
}
# platform.openai.com/docs/guides/error-codes: status, type, code
_OPENAI: dict[Kind, tuple[int, str, str | None]] = {
    Kind.UNAUTHORIZED: (401, "invalid_request_error", "invalid_api_key"),
    Kind.NO_CREDIT: (400, "insufficient_quota", "insufficient_quota"),
    Kind.BAD_REQUEST: (400, "invalid_request_error", None),
    Kind.NOT_FOUND: (404, "invalid_request_error", "unknown_url"),
    Kind.TOO_SLOW: (408, "invalid_request_error", None),
    Kind.TOO_LARGE: (413, "invalid_request_error", None),
    Kind.UNSUPPORTED_BODY: (415, "invalid_request_error", None),
    Kind.BUSY: (429, "requests", "rate_limit_exceeded"),
    Kind.NO_ANSWER: (502, "server_error", None),
    Kind.NO_ANSWER_IN_TIME: (504, "server_error", None),
}
_WORTH_ANOTHER_TRY = frozenset({Kind.TOO_SLOW, Kind.BUSY, Kind.NO_ANSWER, Kind.NO_ANSWER_IN_TIME})
_BUSY_S = b"1"


class Problem(Exception):  # noqa: N818  # it becomes an answer
    """The gateway answers itself, with this. The message is for the agent: it holds neither key nor token."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = f"boxflow: {message}"

    def status(self, api: ModelApi) -> int:
        """The status by which programs that speak *api* understand it."""
        return _ANTHROPIC[self.kind][0] if api is ModelApi.ANTHROPIC else _OPENAI[self.kind][0]

    def body(self, api: ModelApi) -> bytes:
        """The JSON by which programs that speak *api* understand it."""
        if api is ModelApi.ANTHROPIC:
            error = {"type": _ANTHROPIC[self.kind][1], "message": self.message}
            return msgspec.json.encode({"type": "error", "error": error})
        _, kind, code = _OPENAI[self.kind]
        return msgspec.json.encode({"error": {"message": self.message, "type": kind, "param": None, "code": code}})

    def headers(self) -> Headers:
        """What to send beside it."""
        if self.kind is Kind.BUSY:
            return [(b"Retry-After", _BUSY_S)]
        return [] if self.kind in _WORTH_ANOTHER_TRY else [(b"x-should-retry", b"false")]
