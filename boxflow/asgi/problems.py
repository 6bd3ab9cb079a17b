"""What is each error over HTTP? One table from errors to answers, and the problem details of RFC 9457 that tell them.

    {"title": "Unknown run", "status": 404, "detail": "no run 'a' in this store; check the id, ..."}

Where data was refused, `errors` says what is wrong with which part of it, as in RFC 9457 §3:

    {..., "errors": [{"detail": "Expected `int`, got `str`", "pointer": "#/payload/age"}]}
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from starlette.responses import Response

from boxflow.errors import (
    BoxflowError,
    BoxNotFoundError,
    BoxStateError,
    ConfigurationError,
    DecodeError,
    EncodeError,
    EventsFullError,
    JobLostError,
    JobNotFoundError,
    PayloadTooLargeError,
    RunDivergedError,
    RunEndedError,
    RunNotFoundError,
    RunStateError,
    SandboxError,
    SandboxUnavailableError,
    StoreError,
    WebhookRefusedError,
    WebhookTokenError,
    WebhookUnverifiableError,
    WorkflowNotFoundError,
)

PROBLEM_TYPE = "application/problem+json"

STATUS_OF: dict[type[BoxflowError], tuple[int, str]] = {
    WebhookRefusedError: (401, "Webhook call refused"),
    WebhookTokenError: (404, "Unknown webhook"),
    RunNotFoundError: (404, "Unknown run"),
    WorkflowNotFoundError: (404, "Unknown workflow"),
    BoxNotFoundError: (404, "Unknown box"),
    JobNotFoundError: (404, "Unknown job"),
    RunEndedError: (410, "Run is over"),
    RunStateError: (409, "Run is not in a state for that"),
    RunDivergedError: (409, "Run has diverged"),
    BoxStateError: (409, "Box is not in a state for that"),
    JobLostError: (409, "Job was lost"),
    PayloadTooLargeError: (413, "Body too large"),
    ConfigurationError: (422, "Bad request"),
    EncodeError: (422, "Data cannot be kept"),
    DecodeError: (422, "Data does not fit"),
    EventsFullError: (429, "Too many kept events"),
    StoreError: (503, "Store is not available"),
    WebhookUnverifiableError: (503, "Webhook cannot be verified"),
    SandboxUnavailableError: (503, "Boxes are not available"),
    SandboxError: (422, "The box could not do that"),
}
"""Which answer each error gets: the first line that fits. What is not here is a defect of ours, and a 500."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is wrong with one part of a request: of its body (*pointer*, RFC 6901), or with one of its parameters."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error body as RFC 9457 has it."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    errors: tuple[Fault, ...] = ()


class RefusedError(Exception):
    """A request that is answered with a problem; never leaves this package."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        errors: tuple[Fault, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.errors = errors
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The answer that says so."""
        return problem(self.status, self.title, str(self), errors=self.errors, headers=self.headers)


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    errors: tuple[Fault, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An answer with problem details."""
    content = msgspec.json.encode(Problem(title=title, status=status, detail=detail, errors=errors))
    return Response(content, status_code=status, media_type=PROBLEM_TYPE, headers=dict(headers or {}))


def problem_parts(error: BoxflowError) -> tuple[int, str]:
    """The status and the title that stand for *error*; 500 where it is a defect of ours."""
    return next((found for kind, found in STATUS_OF.items() if isinstance(error, kind)), (500, "Defect"))


def problem_of_status(status: int, detail: str = "", headers: Mapping[str, str] | None = None) -> Response:
    """The answer where only a status is known, as for a path that leads nowhere."""
    phrase = HTTPStatus(status).phrase
    return problem(status, phrase, detail or HTTPStatus(status).description or phrase, headers=headers)
