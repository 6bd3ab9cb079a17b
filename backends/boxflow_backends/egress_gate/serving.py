"""What happens to each connection of a box, from its first byte to its last?"""

from __future__ import annotations

import logging
import ssl

import anyio
import anyio.abc
import anyio.to_thread
import attrs
import h11
from anyio.streams.tls import TLSStream

from boxflow_backends.egress_gate.authority import Authority
from boxflow_backends.egress_gate.box_connection import BoxConnection, BoxGoneError
from boxflow_backends.egress_gate.directory import Door, close_door
from boxflow_backends.egress_gate.forwarding import Upstream
from boxflow_backends.egress_gate.limits import Limits
from boxflow_backends.egress_gate.names import Destination
from boxflow_backends.egress_gate.policy import Policy
from boxflow_backends.egress_gate.problems import Problem
from boxflow_backends.egress_gate.resolving import Connector
from boxflow_backends.egress_gate.routing import Route, route_absolute, route_inner, route_tunnel
from boxflow_backends.egress_gate.streams import GONE, Rewound, close
from boxflow_backends.egress_gate.tunnel import UNRECOGNISED_NAME, NameMismatchError, check_name, first_bytes, join

logger = logging.getLogger("boxflow.egress")

# When the process has no descriptor left, trying again at once would only burn time.
_ACCEPT_PAUSE_S = 0.1
_TLS_HANDSHAKE = b"\x16"


@attrs.define(eq=False)
class Service:
    """An open gate."""

    policy: Policy
    name: str
    limits: Limits
    connector: Connector
    upstream: Upstream
    authority: Authority | None
    door: Door

    async def run(self) -> None:
        """Serve until cancelled; then nothing of it is left."""
        places = anyio.Semaphore(self.limits.connections)
        try:
            async with self.upstream, anyio.create_task_group() as group:
                while True:
                    # Without a deadline: a box may never connect, and whoever started this cancels it.
                    await places.acquire()
                    group.start_soon(self._attend, await self._accept(), places)
        finally:
            await close_door(self.door)

    async def _accept(self) -> anyio.abc.SocketStream:
        while True:
            try:
                return await self.door.listener.accept()
            except (OSError, anyio.BrokenResourceError) as exc:
                cause = exc.__cause__ or exc
                logger.warning("box %r: its egress gate cannot accept a connection: %s", self.name, cause)
                await anyio.sleep(_ACCEPT_PAUSE_S)

    async def _attend(self, stream: anyio.abc.ByteStream, places: anyio.Semaphore) -> None:
        try:
            await self._serve(BoxConnection(stream, self.limits), None)
        except (*GONE, BoxGoneError, TimeoutError):
            pass  # The box went away, or takes nothing any more.
        except Exception as exc:  # noqa: BLE001  # one connection, which a box can make as odd as it likes, ends no other
            # Its kind only: the text of an error may hold a header.
            logger.warning("box %r: a connection through its egress gate failed: %s", self.name, type(exc).__name__)
        finally:
            await close(stream)
            places.release()

    async def _serve(self, box: BoxConnection, tunnel: Destination | None) -> None:
        """Answer one request after the other.

        :param tunnel: where the tunnel leads in which the box says this; None when it speaks with the proxy
        """
        wait_s = self.limits.head_s
        more = True
        while more:
            try:
                request = await box.next_request(wait_s)
                if request is None:
                    break
                if tunnel is None and request.method == b"CONNECT":
                    await self._connect(box, request)
                    return
                more = await self.upstream.forward(box, request, self._route(request, tunnel))
            except Problem as problem:
                logger.info("box %r: refused with %d: %s", self.name, problem.status, problem.log)
                await box.refuse(problem)
                break
            wait_s = self.limits.keep_s
        await box.linger()

    def _route(self, request: h11.Request, tunnel: Destination | None) -> Route:
        headers = dict(request.headers)
        method, target = request.method.decode(), request.target.decode("latin-1")
        if tunnel is None:
            route = route_absolute(self.policy, method, target)
        else:
            host = headers.get(b"host")
            route = route_inner(self.policy, tunnel, method, target, None if host is None else host.decode("latin-1"))
        if headers.get(b"upgrade", b"").lower() == b"websocket":
            raise Problem(
                501,
                "Not Implemented",
                "the egress gate passes websockets only through a tunnel (CONNECT), and only to a host for which the "
                "Egress of this box sets no `headers`",
            )
        return route

    async def _connect(self, box: BoxConnection, request: h11.Request) -> None:
        destination = route_tunnel(self.policy, request.target.decode("latin-1"))
        try:
            if self.authority is not None and self.policy.headers_for(destination):
                await self._open_up(await box.open_tunnel(), destination, self.authority)
            else:
                await self._join(box, destination)
        except NameMismatchError as exc:
            logger.info("box %r: refused in a tunnel to %s: %s", self.name, destination, exc)
            await box.stream.send(UNRECOGNISED_NAME)

    async def _join(self, box: BoxConnection, destination: Destination) -> None:
        # Connected before the tunnel is granted: now there is still a way to say why not.
        upstream = await self.connector.connect(destination, anyio.connect_tcp)
        try:
            await join(await box.open_tunnel(), upstream, destination.host, self.limits)
        finally:
            await close(upstream)

    async def _open_up(self, tunnel: Rewound, destination: Destination, authority: Authority) -> None:
        """Serve what is said inside a tunnel, so that headers can be set: the box trusts our certificate."""
        inner: anyio.abc.ByteStream = tunnel
        with anyio.fail_after(self.limits.head_s):
            tunnel.first = await first_bytes(tunnel, self.limits)
            check_name(tunnel.first, destination.host)
            # Anything else is HTTP: some clients open tunnels for that as well.
            if tunnel.first.startswith(_TLS_HANDSHAKE):
                context = await anyio.to_thread.run_sync(authority.context_for, destination.host)
                inner = await self._begin_tls(tunnel, context, destination)
        await self._serve(BoxConnection(inner, self.limits), destination)

    async def _begin_tls(
        self, tunnel: Rewound, context: ssl.SSLContext, destination: Destination
    ) -> anyio.abc.ByteStream:
        try:
            return await TLSStream.wrap(tunnel, server_side=True, ssl_context=context, standard_compatible=False)
        except ssl.SSLError as exc:
            logger.info(
                "box %r: TLS with a program in it failed for %s (%s); does it trust the certificates in SSL_CERT_FILE?",
                self.name,
                destination,
                exc.reason,
            )
            raise
