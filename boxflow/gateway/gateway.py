"""How is the gateway opened and closed, and who serves its connections meanwhile?"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import anyio
import anyio.abc
import anyio.to_thread
import attrs
import h11

from boxflow.errors import ConfigurationError
from boxflow.gateway.accounts import Account
from boxflow.gateway.agent_connection import GONE, AgentConnection, AgentGoneError
from boxflow.gateway.bodies import Shelf
from boxflow.gateway.books import Books
from boxflow.gateway.exchange import Exchanges
from boxflow.gateway.ledger import Ledger, MemoryLedger
from boxflow.gateway.limits import Limits
from boxflow.gateway.problems import Problem
from boxflow.gateway.spending import Spent
from boxflow.gateway.upstream import load_trust, upstream_client
from boxflow.harness import ModelApi

logger = logging.getLogger("boxflow.gateway")

_HOST = "127.0.0.1"
_LOCAL_PORT = anyio.abc.SocketAttribute.local_port
# When the process has no descriptor left, trying again at once would only burn time.
_ACCEPT_PAUSE_S = 0.1
# For requests to be cancelled and the ledger to be written.
_CLOSE_S = 10.0


class ModelGateway:
    """An HTTP server on loopback that stands for the hosts of models, and keeps their keys and budgets.

    An asynchronous context manager. It serves from entering it until leaving it, and leaves no task and no socket.
    """

    def __init__(
        self,
        ledger: Ledger | None = None,
        *,
        port: int = 0,
        secrets: Mapping[str, str] | None = None,
        upstream_ca: Path | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Nothing happens yet.

        :param ledger: keeps what was spent; in memory when None
        :param port: to listen on; any free one when 0. Programs that outlive the engine need the same one again
        :param secrets: where the variables of keys are looked up; the engine's environment when None
        :param upstream_ca: certificates (PEM) to trust beside the usual ones
        """
        self._wanted_port = port
        self._secrets = os.environ if secrets is None else secrets
        self._upstream_ca = upstream_ca
        self._limits = limits or Limits()
        self._books = Books(MemoryLedger() if ledger is None else ledger, self._secrets)
        self._listener: anyio.abc.SocketListener | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Listen.

        :raises ConfigurationError: the port is taken, or *upstream_ca* cannot be read
        """
        trust = await anyio.to_thread.run_sync(load_trust, self._upstream_ca)
        self._listener = await _listen(self._wanted_port)
        service = _Service(self._books, self._secrets, self._limits, self._listener)
        # A task of its own, ended by `__aexit__`, which another task may call.
        self._task = asyncio.create_task(service.run(trust), name="model gateway")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End what is being served, write down what was spent, and close."""
        task, self._task = self._task, None
        listener, self._listener = self._listener, None
        if task is None or listener is None:
            return
        task.cancel()
        with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_S):
            await asyncio.wait({task})
            await listener.aclose()  # Again: a task that is cancelled before its first step closes nothing.
        if task.done() and not task.cancelled() and (failure := task.exception()) is not None:
            logger.error("the model gateway failed: %s", type(failure).__name__)

    @property
    def port(self) -> int:
        """Where it listens.

        :raises RuntimeError: it does not
        """
        if self._listener is None:
            raise RuntimeError("the model gateway is not open; use it in `async with`")
        return self._listener.extra(_LOCAL_PORT)  # noqa: S610  # of anyio, not of Django

    def url(self, token: str) -> str:
        """The base URL of the model for the program that has *token*.

        :raises RuntimeError: the gateway is not open
        """
        return f"http://{_HOST}:{self.port}/t/{token}"

    async def open(self, account: Account) -> None:
        """Serve *account* from now on, also after a restart, until `close`.

        Opened again, it gets its new limits, and what it has spent stays.

        :raises ConfigurationError: the account cannot work: no key, no URL, a limit of cost without prices
        """
        await self._books.open(account)

    async def spent(self, token: str) -> Spent:
        """What the account of *token* has spent, answers under way included as far as they have come.

        An agent that has its answer and ends is charged for it already.

        :raises AccountNotFoundError: there is none, or it is closed
        """
        return (await self._books.find(token)).so_far()

    async def close(self, token: str) -> None:
        """Make *token* worth nothing from now on, end its requests, and forget its account. Twice is no error."""
        await self._books.close(token)


async def _listen(port: int) -> anyio.abc.SocketListener:
    try:
        listeners = await anyio.create_tcp_listener(local_host=_HOST, local_port=port)
    except OSError as exc:
        if exc.errno not in {errno.EADDRINUSE, errno.EACCES}:
            raise
        raise ConfigurationError(
            f"the model gateway cannot listen on {_HOST}:{port}: {exc.strerror}; stop what does (another engine?), or "
            "give it another port"
        ) from exc
    # A `MultiListener`, which holds one for each address of the host: here one.
    return cast("anyio.abc.SocketListener", listeners.listeners[0])


@attrs.define(eq=False)
class _Service:
    """An open gateway."""

    books: Books
    secrets: Mapping[str, str]
    limits: Limits
    listener: anyio.abc.SocketListener
    # In the order in which they began to wait for a request.
    _idle: dict[anyio.CancelScope, None] = attrs.field(factory=dict[anyio.CancelScope, None], init=False)

    async def run(self, trust: ssl.SSLContext) -> None:
        """Serve until cancelled; then nothing of it is left."""
        places = anyio.Semaphore(self.limits.connections)
        try:
            async with upstream_client(trust, self.limits) as client:
                exchanges = Exchanges(self.books, client, self.secrets, self.limits, Shelf(self.limits))
                async with anyio.create_task_group() as group:
                    group.start_soon(self.books.keep)
                    while True:
                        # Without a deadline: no agent may ever come, and leaving the gateway cancels this.
                        agent = AgentConnection(await self._accept(), self.limits)
                        await self._take_place(places, agent)
                        group.start_soon(self._attend, exchanges, agent, places)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_S):
                await self.listener.aclose()
            await self.books.flush()

    async def _accept(self) -> anyio.abc.SocketStream:
        while True:
            try:
                return await self.listener.accept()
            except (OSError, anyio.BrokenResourceError) as exc:
                logger.warning("the model gateway cannot accept a connection: %s", exc.__cause__ or exc)
                await anyio.sleep(_ACCEPT_PAUSE_S)

    async def _take_place(self, places: anyio.Semaphore, agent: AgentConnection) -> None:
        """Wait until *agent* may be served. One that says nothing makes room for it."""
        try:
            if places.value == 0 and self._idle:
                next(iter(self._idle)).cancel()
            # Without a deadline: answers end, and each wait in them has one.
            await places.acquire()
        except BaseException:
            await agent.close()
            raise

    async def _attend(self, exchanges: Exchanges, agent: AgentConnection, places: anyio.Semaphore) -> None:
        try:
            await self._serve(exchanges, agent)
        except (*GONE, AgentGoneError, TimeoutError):
            pass  # The agent went away, takes nothing any more, or must see that its answer was cut.
        except Exception as exc:  # noqa: BLE001  # one connection, as odd as an agent can make it, ends no other
            # Its kind only: the text of an error may have a header in it.
            logger.warning("a connection of the model gateway failed: %s", type(exc).__name__)
        finally:
            await agent.close()
            places.release()

    async def _serve(self, exchanges: Exchanges, agent: AgentConnection) -> None:
        wait_s = self.limits.head_s
        more = True
        while more:
            try:
                request = await self._next_request(agent, wait_s)
            except Problem as problem:
                # Who speaks no HTTP has no interface of a model either: one shape is as good as the other.
                await agent.refuse(problem, ModelApi.OPENAI)
                return
            more = request is not None and await exchanges.serve(agent, request)
            wait_s = self.limits.keep_s

    async def _next_request(self, agent: AgentConnection, wait_s: float) -> h11.Request | None:
        with anyio.CancelScope() as idle:
            self._idle[idle] = None
            try:
                return await agent.next_request(wait_s)
            finally:
                del self._idle[idle]
        return None  # Its place was needed.
