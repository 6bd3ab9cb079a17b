"""How is Docker's engine asked over HTTP? Without its SDK, which the core does not import."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from boxflow.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx


def engine_address(environment: Mapping[str, str] = os.environ) -> str:
    """Where Docker's engine is, as its own programs find it."""
    return environment.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def connect(address: str, *, timeout_s: float) -> httpx.AsyncClient:
    """A client for the engine at *address*: an async context manager.

    :param timeout_s: for each read and write
    :raises ConfigurationError: an address that is neither a Unix socket nor plain TCP
    """
    import httpx

    kind, _, place = address.partition("://")
    if kind == "unix":
        transport = httpx.AsyncHTTPTransport(uds=place)
        return httpx.AsyncClient(transport=transport, base_url="http://docker", timeout=timeout_s)
    if kind in ("tcp", "http") and not os.environ.get("DOCKER_TLS_VERIFY"):
        return httpx.AsyncClient(base_url=f"http://{place}", timeout=timeout_s, trust_env=False)
    raise ConfigurationError(f"Docker's engine at {address!r} is not asked from here; use the program `docker`")
