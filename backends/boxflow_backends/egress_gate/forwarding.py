"""How does a request of the box become one of the gate, with secrets in it, and its answer the box's?

The hosts' side is httpcore's. Bodies stream both ways; nothing is kept longer than one piece of them.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import TracebackType
from typing import Self, cast

import anyio
import attrs
import certifi
import h11
import httpcore

from boxflow_backends.egress_gate.box_connection import BoxConnection
from boxflow_backends.egress_gate.header_values import SecretError
from boxflow_backends.egress_gate.limits import Limits
from boxflow_backends.egress_gate.names import Destination
from boxflow_backends.egress_gate.problems import Problem
from boxflow_backends.egress_gate.resolving import Connector
from boxflow_backends.egress_gate.routing import Route

# RFC 9110, 7.6.1: these concern one connection. `expect` is answered by the gate, `host` is set by it.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NOT_FORWARDED = _HOP_BY_HOP | {b"expect", b"host", b"http2-settings"}

# Servers close idle connections after 5 s and more; one that closes while a request is under way fails that request.
_KEEP_UPSTREAM_S = 4.0
_CLOSE_S = 2.0


@lru_cache(maxsize=8)
def trusting(extra_authorities: str) -> ssl.SSLContext:
    """A client's TLS context that trusts the usual authorities and *extra_authorities* (PEM, may be empty).

    Reading the usual ones takes some 20 ms: call it in a thread.
    """
    context = ssl.create_default_context(cafile=certifi.where())
    if extra_authorities:
        context.load_verify_locations(cadata=extra_authorities)
    return context


@attrs.define(eq=False)
class Upstream:
    """The hosts, as the gate speaks HTTP with them; an asynchronous context manager."""

    connector: Connector
    tls: ssl.SSLContext
    secrets: Mapping[str, str]
    limits: Limits
    _pool: httpcore.AsyncConnectionPool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=self.tls,
            max_connections=self.limits.connections,
            max_keepalive_connections=16,
            keepalive_expiry=_KEEP_UPSTREAM_S,
            network_backend=_Pinned(self.connector),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_S):
            await self._pool.aclose()

    async def forward(self, box: BoxConnection, request: h11.Request, route: Route) -> bool:
        """Do *request* for the box; whether another one may follow on its connection.

        :raises Problem: there is no answer to pass on
        :raises BoxGoneError: the box did not wait for it
        """
        outgoing = self._request(box, request, route)
        more = False

        async def exchange() -> None:
            nonlocal more
            response = await self._pool.handle_async_request(outgoing)
            try:
                more = await _pass_on(box, response, route)
            finally:
                with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_S):
                    await response.aclose()

        try:
            await box.while_there(exchange)
        except httpcore.TimeoutException as exc:
            raise Problem(504, "Gateway Timeout", f"{route.destination} did not answer in time; try again") from exc
        except httpcore.ConnectError as exc:
            raise Problem(
                502, "Bad Gateway", f"TLS with {route.destination} failed; its certificate may not be trusted ({exc})"
            ) from exc
        except (httpcore.NetworkError, httpcore.ProtocolError) as exc:
            raise Problem(502, "Bad Gateway", f"{route.destination} ended the connection or spoke no HTTP/1.1") from exc
        return more

    def _request(self, box: BoxConnection, request: h11.Request, route: Route) -> httpcore.Request:
        kept = _forwarded(request.headers.raw_items(), _NOT_FORWARDED | {name.encode() for name in route.headers})
        chunked = any(name == b"transfer-encoding" for name, _ in request.headers)
        headers = [
            (b"Host", route.host_header().encode()),
            *kept,
            *([(b"Transfer-Encoding", b"chunked")] if chunked else []),
            *_filled(route, self.secrets),
        ]
        head_s, silence_s = self.limits.head_s, self.limits.idle_s
        return httpcore.Request(
            request.method,
            httpcore.URL(
                scheme=route.scheme.encode(),
                host=route.destination.host.encode(),
                port=route.destination.port,
                target=route.target.encode(),
            ),
            headers=headers,
            content=_Body(box),
            # "connect" is for TLS with the host; the connection below has the connector's limits.
            extensions={"timeout": {"connect": head_s, "pool": head_s, "read": silence_s, "write": silence_s}},
        )


async def _pass_on(box: BoxConnection, response: httpcore.Response, route: Route) -> bool:
    if response.status < 200:
        raise Problem(502, "Bad Gateway", f"{route.destination} changed the protocol although it was not asked to")
    await box.begin_response(response.status, _reason(response), _forwarded(response.headers, _HOP_BY_HOP))
    async for chunk in response.aiter_stream():
        await box.send_body(chunk)
    return await box.end_response()


def _reason(response: httpcore.Response) -> bytes:
    known = cast("Mapping[str, object]", response.extensions)  # pyright: ignore[reportUnknownMemberType]  # left open
    reason = known.get("reason_phrase")
    return reason if isinstance(reason, bytes) else b""


def _forwarded(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """*headers* without those in *dropped*, and without those that `Connection` declares to be for one hop."""
    listed = list(headers)
    nominated = {
        token.strip().lower()
        for name, value in listed
        if name.lower() in {b"connection", b"proxy-connection"}
        for token in value.split(b",")
    }
    # A length is no matter of hops, whatever `Connection` says.
    nominated -= {b"content-length"}
    return [(name, value) for name, value in listed if name.lower() not in dropped | nominated]


def _filled(route: Route, secrets: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    try:
        return [(name.encode(), value.fill(secrets).encode()) for name, value in route.headers.items()]
    except SecretError as exc:
        raise Problem(502, "Secret missing", f"a header for {route.destination} cannot be set: {exc}") from exc


@attrs.frozen
class _Body:
    """The body of the box's request, as httpcore wants to read it. No generator: those end when it pleases them."""

    box: BoxConnection

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.box.read_body()
        if chunk is None:
            raise StopAsyncIteration
        return chunk


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects httpcore to the addresses that the connector has checked."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        # Its type is hidden behind a fallback for when anyio is missing.
        self._network = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        async def dial(address: str, at_port: int) -> httpcore.AsyncNetworkStream:
            try:
                return await self._network.connect_tcp(address, at_port)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                raise OSError(str(exc)) from exc

        return _Guarded(await self._connector.connect(Destination(host=host, port=port), dial))

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class _Guarded(httpcore.AsyncNetworkStream):
    """A connection that is closed when it is cancelled on the way to TLS: httpcore 1.0 then leaves it open."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_S):
                await self._stream.aclose()
            raise

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)
