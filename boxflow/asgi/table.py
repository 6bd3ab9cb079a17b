"""Which endpoints are there? All of them, in the order in which their paths are looked at."""

from __future__ import annotations

from typing import Any

from boxflow.asgi import box_endpoints, job_endpoints, journal_endpoints, mail_endpoints, run_endpoints
from boxflow.asgi.endpoint import Endpoint
from boxflow.asgi.state_endpoints import HEALTH, ready_endpoint
from boxflow.engine import Engine


def endpoints_of(engine: Engine) -> list[Endpoint[Any, Any]]:
    """The endpoints of *engine*; webhooks first, which come most often."""
    return [
        *mail_endpoints.ENDPOINTS,
        *run_endpoints.ENDPOINTS,
        *journal_endpoints.ENDPOINTS,
        *box_endpoints.ENDPOINTS,
        *job_endpoints.ENDPOINTS,
        HEALTH,
        ready_endpoint(engine),
    ]
