"""Who serves a box's socket, from when, and until when?"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Mapping
from pathlib import Path

import anyio
import anyio.to_thread

from boxflow.errors import ConfigurationError
from boxflow.ports import Egress
from boxflow_backends.egress_gate.authority import Authority, load_authority
from boxflow_backends.egress_gate.directory import Door, check_socket_path, close_door, open_door, write_bundle
from boxflow_backends.egress_gate.forwarding import Upstream, trusting
from boxflow_backends.egress_gate.limits import Limits
from boxflow_backends.egress_gate.policy import read_policy
from boxflow_backends.egress_gate.resolving import Connector, Resolver, system_resolver
from boxflow_backends.egress_gate.serving import Service

logger = logging.getLogger("boxflow.egress")

_CLOSE_S = 10.0


class EgressGate:
    """The way out of one box: an HTTP proxy behind a unix socket, which enforces one `Egress`.

    What it refuses is answered with an `application/problem+json` that says what to change, and logged as
    `boxflow.egress` at INFO, with the box's name. Values of headers are in no answer, log or file of it. An answer of a
    host is passed on as it is: a host that repeats what it was sent shows the box what its headers hold.

    :param policy: what the box may connect to
    :param directory: exists, and is mounted read-only into the box; gets `gate.sock` and `ca-bundle.pem`
    :param name: the box's, for the log
    :param secrets: what `$NAME` in a header stands for, asked at each request; `os.environ` when None
    :param private_directory: where the gate's certificate authority is kept for the next engine, out of the box's
        sight; made when missing. When None, each gate makes one of its own, which running programs do not trust yet
    :param upstream_ca: certificates (PEM) to trust beside the usual ones, for hosts that a company's authority vouches
        for; programs in the box trust them as well
    :raises ConfigurationError: the policy cannot work, or the directory's path is too long for a socket
    """

    def __init__(
        self,
        policy: Egress,
        *,
        directory: Path,
        name: str = "",
        secrets: Mapping[str, str] | None = None,
        private_directory: Path | None = None,
        upstream_ca: Path | None = None,
        limits: Limits = Limits(),
        resolver: Resolver | None = None,
    ) -> None:
        self._policy = read_policy(policy)
        check_socket_path(directory)
        self._directory = directory
        self._name = name
        self._secrets = os.environ if secrets is None else secrets
        self._private_directory = private_directory
        self._upstream_ca = upstream_ca
        self._limits = limits
        self._resolver = resolver
        self._door: Door | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Serve the socket, in place of a gate that did before. Returns when it can be connected to.

        :raises ConfigurationError: the certificates of *upstream_ca*, or the authority that was kept, cannot be read
        :raises RuntimeError: it is open already
        """
        if self._task is not None:
            raise RuntimeError(f"the egress gate of box {self._name!r} is open already")
        if missing := [name for name in self._policy.variables() if not self._secrets.get(name)]:
            logger.warning("box %r: the headers of its Egress need variables that are not set: %s", self._name, missing)
        authority, tls = await anyio.to_thread.run_sync(self._prepare)
        connector = Connector(policy=self._policy, resolver=self._resolver or system_resolver(), limits=self._limits)
        upstream = Upstream(connector=connector, tls=tls, secrets=self._secrets, limits=self._limits)
        self._door = await open_door(self._directory)
        service = Service(self._policy, self._name, self._limits, connector, upstream, authority, self._door)
        # A task of the gate's own, ended by `close`: a box is served across calls of the sandbox.
        self._task = asyncio.create_task(service.run(), name=f"egress gate of {self._name}")

    async def close(self) -> None:
        """End all connections and the socket. Closing twice is no error. Cancelled, it goes on by itself."""
        task, self._task = self._task, None
        door, self._door = self._door, None
        if task is None or door is None:
            return
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task}, timeout=_CLOSE_S)
            await close_door(door)  # Again: a task that is cancelled before its first step cleans nothing up.
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            logger.error("box %r: its egress gate failed: %s", self._name, type(error).__name__)

    def _prepare(self) -> tuple[Authority | None, ssl.SSLContext]:
        authority = load_authority(self._private_directory) if self._policy.headers else None
        try:
            extra = "" if self._upstream_ca is None else self._upstream_ca.read_text("ascii")
            tls = trusting(extra)
        except (OSError, ValueError) as exc:  # `ssl.SSLError` is an OSError, and what is no ASCII a ValueError
            raise ConfigurationError(f"upstream_ca {str(self._upstream_ca)!r} cannot be read as PEM: {exc}") from exc
        write_bundle(self._directory, extra, *([] if authority is None else [authority.pem()]))
        return authority, tls
