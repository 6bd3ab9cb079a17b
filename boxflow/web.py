"""Outgoing HTTP: what `ctx.call` sends and keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, overload

import attrs

from boxflow.codec import ANY, decode_value
from boxflow.errors import BoxflowError, RetryAfterError

T = TypeVar("T")

RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that ask for another try (RFC 9110 §15, RFC 6585 §4, RFC 8470 §5.2)."""

MAX_RETRY_AFTER_S = 3600.0
"""A server may ask for an hour of patience; more would hold the run on a stranger's word."""


class HttpStatusError(BoxflowError):
    """A response whose status asks for another try."""


@attrs.frozen(kw_only=True)
class Response:
    """The answer to `ctx.call`. Header names are lower case."""

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
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

    def raise_for_retry(self) -> None:
        """Raise when the status asks for another try, after the time that `Retry-After` names in seconds."""
        if self.status not in RETRYABLE:
            return
        message = f"the server answered {self.status}: {self.text[:200]}"
        delay = self.headers.get("retry-after", "")
        if delay.isdecimal():
            raise RetryAfterError(message, min(float(delay), MAX_RETRY_AFTER_S))
        raise HttpStatusError(message)


async def request(
    url: str,
    method: str,
    headers: Mapping[str, str],
    json: bytes | None,
    content: bytes | None,
    timeout_s: float,
    max_bytes: int,
) -> Response:
    """Make one request. Redirects are not followed; a body over *max_bytes* is an error, not a part of it."""
    import httpx  # Imported where it is used: it takes a third of `import boxflow`'s time.

    sent = dict(headers)
    if json is not None and not any(name.lower() == "content-type" for name in sent):
        sent["Content-Type"] = "application/json"
    async with (
        httpx.AsyncClient(timeout=timeout_s) as client,
        client.stream(method, url, headers=sent, content=content if json is None else json) as response,
    ):
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > max_bytes:
                raise BoxflowError(f"{method} {url!r} answered with more than {max_bytes} bytes")
        return Response(
            status=response.status_code,
            headers={name.lower(): value for name, value in response.headers.items()},
            body=bytes(body),
        )
