"""How is the model's host asked, and what becomes of it when it does not answer?"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import attrs
import certifi
import httpx

from boxflow.errors import ConfigurationError
from boxflow.gateway.limits import Limits
from boxflow.gateway.problems import Kind, Problem

# Servers close connections that were idle for 5 s and more, and a request that meets that fails.
_KEEP_S = 4.0
_KEEP_CONNECTIONS = 32
_CLOSE_S = 2.0


def load_trust(extra: Path | None) -> ssl.SSLContext:
    """A context that trusts the usual authorities and those in *extra* (PEM). It takes some 20 ms: use a thread.

    :raises ConfigurationError: *extra* cannot be read
    """
    context = ssl.create_default_context(cafile=certifi.where())
    if extra is not None:
        try:
            context.load_verify_locations(extra)
        except OSError as exc:  # `ssl.SSLError` is one
            raise ConfigurationError(f"upstream_ca {str(extra)!r} cannot be read as PEM: {exc}") from exc
    return context


@asynccontextmanager
async def upstream_client(trust: ssl.SSLContext, limits: Limits) -> AsyncGenerator[httpx.AsyncClient]:
    """What asks the hosts. It takes the proxies of the engine's own environment, where there are some.

    Its own log (httpcore, at DEBUG) has the headers of answers as they come; so it is no place for a host that repeats
    the key in them. None has been seen to.
    """
    client = httpx.AsyncClient(
        verify=trust,
        follow_redirects=False,
        # No proxy leads back to this machine.
        mounts={"all://127.0.0.1": None, "all://localhost": None, "all://[::1]": None},
        limits=httpx.Limits(
            max_connections=None,  # The agents' connections are limited.
            max_keepalive_connections=_KEEP_CONNECTIONS,
            keepalive_expiry=_KEEP_S,
        ),
    )
    try:
        yield client
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_S):
            await client.aclose()


@attrs.frozen(kw_only=True)
class Question:
    """A request as the model's host gets it.

    :param headers: the key is among them
    """

    method: str
    url: httpx.URL
    headers: list[tuple[bytes, bytes]] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)


@asynccontextmanager
async def asked(client: httpx.AsyncClient, question: Question, limits: Limits) -> AsyncGenerator[httpx.Response]:
    """The answer to *question*, of which the head has arrived. Leaving the block ends the request.

    :raises Problem: there is none
    """
    connecting = anyio.CancelScope()

    async def trace(event: str, info: Mapping[str, object]) -> None:
        # httpcore 1.0 loses a connection that is cancelled in the middle of its TLS handshake; so that is waited for,
        # which it limits to `connect_s`.
        if event.endswith("start_tls.started"):
            connecting.shield = True
        elif event.endswith(("start_tls.complete", "start_tls.failed")):
            connecting.shield = False

    timeout = httpx.Timeout(connect=limits.connect_s, read=limits.idle_s, write=limits.idle_s, pool=limits.connect_s)
    # Not `build_request`, which would add headers of the client's and cookies.
    request = httpx.Request(
        question.method,
        question.url,
        headers=question.headers,
        content=question.body,
        extensions={"timeout": timeout.as_dict(), "trace": trace},
    )
    response = await _send(client, request, connecting)
    try:
        yield response
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_S):
            await response.aclose()


async def _send(client: httpx.AsyncClient, request: httpx.Request, connecting: anyio.CancelScope) -> httpx.Response:
    try:
        # Nobody cancels this scope itself: it only shields, and so always ends by the return.
        with connecting:
            return await client.send(request, stream=True)
        raise AssertionError("a scope that nobody cancels was cancelled")
    except httpx.TimeoutException as exc:
        raise Problem(Kind.NO_ANSWER_IN_TIME, _unanswered(request, exc)) from None
    except (httpx.TransportError, httpx.InvalidURL) as exc:
        raise Problem(Kind.NO_ANSWER, _unanswered(request, exc)) from None


def _unanswered(request: httpx.Request, exc: Exception) -> str:
    # Its kind only: the text of a protocol error can have a header in it.
    return f"the model's host {request.url.host!r} does not answer ({type(exc).__name__}); try again"
