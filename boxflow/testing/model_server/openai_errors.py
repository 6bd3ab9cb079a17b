"""What does an error of an OpenAI API look like? platform.openai.com/docs/guides/error-codes"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from boxflow.testing.model_server.replies import Fail

_TYPES: Final = {400: "invalid_request_error", 404: "invalid_request_error", 429: "rate_limit_exceeded"}
_CODES: Final = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


def error_body(fail: Fail) -> Mapping[str, Any]:
    """The body of an error."""
    client = 400 <= fail.status < 500
    kind = fail.type or _TYPES.get(fail.status, "invalid_request_error" if client else "server_error")
    error = {"message": fail.message, "type": kind, "param": None, "code": fail.type or _CODES.get(fail.status)}
    return {"error": error}
