"""What does the gate tell a box when a request does not go through?"""

from __future__ import annotations

import json

from boxflow_backends.egress_gate.names import Destination


class Problem(Exception):  # noqa: N818  # the word of RFC 9457 for it; it is an answer, not a fault of the gate
    """The answer to a request that is not forwarded. It is read by the box: nothing in it may be secret.

    :param detail: what happened to which host, and what to do
    :param log: what the engine's log says instead, where that may be more
    """

    def __init__(self, status: int, title: str, detail: str, *, log: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.log = log or detail

    def body(self) -> bytes:
        """As `application/problem+json`, RFC 9457."""
        return json.dumps({"title": self.title, "status": self.status, "detail": self.detail}).encode() + b"\n"


def not_allowed(destination: Destination) -> Problem:
    """The box asked for what its `Egress` does not have."""
    entry = destination.host if destination.port in {80, 443} else str(destination)
    return Problem(
        403,
        "Not in the allow-list",
        f"this box may not connect to {destination}; to let it, add {entry!r} to the `allow` of its Egress",
    )


def unreadable(detail: str) -> Problem:
    """The box sent what the gate does not understand, or does not want to."""
    return Problem(400, "Bad Request", detail)
