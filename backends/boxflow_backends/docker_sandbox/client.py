"""How is the Docker engine asked to do something, without blocking the loop and without waiting for ever?

Everything that the `docker` package does happens here, in threads that are ours. Its errors end here too: what the
engine refuses is a `RefusedError`, what does not answer a `SandboxUnavailableError`.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final, TypeVar, cast

import anyio
import anyio.to_thread
import attrs
import docker.errors  # type: ignore[import-untyped]  # the package has no types; what it returns is checked where used
import docker.utils  # type: ignore[import-untyped]  # as above
import requests.adapters
import requests.exceptions
from docker.api.client import APIClient  # type: ignore[import-untyped]  # as above

from boxflow.errors import SandboxError, SandboxUnavailableError
from boxflow_backends.docker_sandbox.unix_adapter import UnixAdapter

T = TypeVar("T")

# To ask for the engine's own: any that the docker package knows.
_FIRST_VERSION: Final = "1.41"

# Calls under way at once. The engine answers most within a millisecond; more threads than this only wait for it.
_THREADS: Final = 16

# Pulls and builds take minutes: in threads of their own, so that the others go on.
_SLOW_THREADS: Final = 4

# Starting or removing a container on a machine that has fifty others to start takes some seconds; a minute is a hang.
_QUICK_S: Final = 60
_SLOW_S: Final = 900

# How long a call that may be made twice is made again. A daemon is back some seconds after a restart.
PATIENCE_S: Final = 10.0

# What the engine says, as status 500, when it is going down, or coming up, or has lost its containerd.
_AWAY: Final = (
    "connection error",
    "context canceled",
    "error while dialing",
    "transport is closing",
    "ttrpc: closed",
    "code = unavailable",
    "shutting down",
)


class RefusedError(SandboxError):
    """The engine answered, and the answer was no.

    :ivar status: of HTTP: 404 not there, 409 not in this state, 500 it tried and failed
    :ivar words: its own
    """

    def __init__(self, what: str, status: int, words: str) -> None:
        super().__init__(f"Docker refused to {what}: {words}")
        self.status = status
        self.words = words


@attrs.frozen
class Endpoint:
    """Where the engine listens, for a connection of our own: the path of a unix socket, or a host and a port."""

    path: str | None = None
    host: str = ""
    port: int = 0


class Daemon:
    """The control side of one Docker engine.

    :param host: its URL; `DOCKER_HOST` and its companions decide when None
    """

    def __init__(self, host: str | None) -> None:
        settings: Any = docker.utils.kwargs_from_env()
        self.url: str = host or settings.get("base_url") or "unix:///var/run/docker.sock"
        self._tls: Any = settings.get("tls") if host is None else None
        self._threads = anyio.CapacityLimiter(_THREADS)
        self._slow_threads = anyio.CapacityLimiter(_SLOW_THREADS)
        self._quick: Any = None
        self._slow: Any = None

    async def open(self) -> None:
        """Connect.

        :raises SandboxUnavailableError: nothing answers, or what answers cannot be spoken to
        """
        self.endpoint()
        if self._quick is None:
            self._quick = await self._patiently("connect", self._connect, None)

    async def close(self) -> None:
        """Close every connection. What others are in the middle of fails."""
        clients, self._quick, self._slow = (self._quick, self._slow), None, None
        for client in clients:
            if client is not None:
                await self._in_thread(client.close, self._threads)

    @property
    def api(self) -> str:
        """The version of the API that both sides speak, as in `"1.41"`."""
        return str(self._client().api_version)

    def endpoint(self) -> Endpoint:
        """Where to connect for a stream.

        :raises SandboxUnavailableError: of this kind of URL we cannot stream
        """
        scheme, _, rest = self.url.partition("://")
        if scheme == "unix" or not rest:
            return Endpoint(path="/" + (rest or scheme).lstrip("/"))
        if scheme in ("tcp", "http") and not self._tls:
            host, _, port = rest.rstrip("/").rpartition(":")
            if host and port.isdecimal():
                return Endpoint(host=host.strip("[]"), port=int(port))
        raise SandboxUnavailableError(
            f"the Docker engine at {self.url!r} cannot be used for boxes: commands are streamed over a unix socket or "
            "plain TCP only. Forward its socket instead, as in "
            "`ssh -N -L /tmp/docker.sock:/var/run/docker.sock HOST`, and set DOCKER_HOST=unix:///tmp/docker.sock"
        )

    # --- calls -------------------------------------------------------------------------------------------------

    async def read(self, method: str, *args: object, **named: object) -> Any:
        """Ask a question: made again while the engine is away, and left alone when the caller is cancelled."""
        return await self._patiently(method, self._named(method, args, named), self._client(), leave=True)

    async def repeat(self, method: str, *args: object, **named: object) -> Any:
        """Do something that may be done twice: made again while the engine is away. Cancelling waits for its end."""
        return await self._patiently(method, self._named(method, args, named), self._client())

    async def work(self, what: str, fn: Callable[[Any], T]) -> T:
        """Let *fn* do something of several calls with docker's own client, in one thread. Cancelling waits for its end.

        :param what: it is, as words of an error
        """
        return cast("T", await self._guarded(what, fn, self._client(), self._threads))

    async def slow_work(self, what: str, fn: Callable[[Any], T]) -> T:
        """The same for what takes minutes. Cancelling leaves the engine to it."""
        if self._slow is None:
            self._client()
            connect = functools.partial(self._connect, timeout_s=_SLOW_S)
            self._slow = await self._guarded("connect", connect, None, self._threads)
        return cast("T", await self._guarded(what, fn, self._slow, self._slow_threads, leave=True))

    async def once(self, method: str, *args: object, **named: object) -> Any:
        """Do something once. Cancelling waits for its end."""
        return await self._guarded(method, self._named(method, args, named), self._client(), self._threads)

    # --- in threads --------------------------------------------------------------------------------------------

    def _client(self) -> Any:
        if self._quick is None:
            raise SandboxUnavailableError(
                "the Docker sandbox is not connected; use it in `async with DockerSandbox() as sandbox:`"
            )
        return self._quick

    def _connect(self, _: Any, timeout_s: int = _QUICK_S) -> Any:
        with closing(self._speaking(_FIRST_VERSION, timeout_s)) as asking:
            version = str(asking.version(api_version=False)["ApiVersion"])
        return self._speaking(version, timeout_s)

    def _speaking(self, version: str, timeout_s: int) -> Any:
        """A client that has sent nothing yet. As many connections are kept as there are threads, and some."""
        client: Any = APIClient(base_url=self.url, version=version, timeout=timeout_s)
        path = self.endpoint().path
        if path is None:
            client.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=2 * _THREADS))
        else:
            client.mount("http+docker://", UnixAdapter(path, timeout_s=timeout_s, connections=2 * _THREADS))
        return client

    @staticmethod
    def _named(method: str, args: tuple[object, ...], named: dict[str, object]) -> Callable[[Any], Any]:
        return lambda client: getattr(client, method)(*args, **named)

    async def _patiently(self, what: str, fn: Callable[[Any], Any], client: Any, *, leave: bool = False) -> Any:
        until = time.monotonic() + PATIENCE_S
        pause_s = 0.1
        while True:
            try:
                return await self._guarded(what, fn, client, self._threads, leave=leave)
            except SandboxUnavailableError:
                if time.monotonic() + pause_s > until or not self._may_come_back():
                    raise
            await anyio.sleep(pause_s * random.uniform(0.7, 1.3))  # Jitter: fifty boxes wait for the same daemon.
            pause_s = min(2 * pause_s, 1.0)

    def _may_come_back(self) -> bool:
        """Whether waiting makes sense: a socket that was never there is a mistake, not a restart."""
        return self._quick is not None

    async def _guarded(
        self, what: str, fn: Callable[[Any], Any], client: Any, limiter: anyio.CapacityLimiter, *, leave: bool = False
    ) -> Any:
        words = what.replace("_", " ")
        try:
            return await self._in_thread(functools.partial(fn, client), limiter, leave=leave)
        except docker.errors.APIError as exc:
            status = int(exc.status_code or 500)
            said = str(exc.explanation or exc).strip()
            if status >= 500 and any(sign in said.lower() for sign in _AWAY):
                raise self._unavailable(words, said) from exc
            raise RefusedError(words, status, said) from exc
        except requests.exceptions.Timeout as exc:
            raise self._unavailable(words, "it did not answer in time") from exc
        except (requests.exceptions.RequestException, docker.errors.DockerException, OSError) as exc:
            raise self._unavailable(words, str(exc)) from exc

    def _unavailable(self, words: str, why: str) -> SandboxUnavailableError:
        return SandboxUnavailableError(
            f"cannot {words}: the Docker engine at {self.url!r} does not answer ({why}). Does it run "
            "(`docker version`), is DOCKER_HOST right, and may this user open its socket (group docker)?"
        )

    @staticmethod
    async def _in_thread(fn: Callable[[], Any], limiter: anyio.CapacityLimiter, *, leave: bool = False) -> Any:
        return await anyio.to_thread.run_sync(fn, limiter=limiter, abandon_on_cancel=leave)
