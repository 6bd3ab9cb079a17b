"""What does an agent say on one connection, request by request, and how is it answered? HTTP/1.1, by h11."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.abc
import attrs
import h11

from boxflow.gateway.limits import Limits
from boxflow.gateway.problems import Kind, Problem
from boxflow.harness import ModelApi

# What a connection ends with in ordinary life.
GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, ConnectionError)

# Closing a socket in which something has not been read makes the kernel tell the other side so, and it never reads the
# answer. So what still comes is thrown away for a moment.
_LINGER_S = 2.0
_CLOSE_S = 2.0
_CHUNK_BYTES = 65_536


class AgentGoneError(Exception):
    """The agent has ended the connection; nobody reads an answer."""


@attrs.define(eq=False)
class AgentConnection:
    """One connection. `next_request` reads a head; then the body; then one answer, whole or not at all."""

    stream: anyio.abc.SocketStream
    limits: Limits
    _http: h11.Connection = attrs.field(init=False)
    _method: bytes = attrs.field(default=b"", init=False)

    def __attrs_post_init__(self) -> None:
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=self.limits.head_bytes)

    async def next_request(self, wait_s: float) -> h11.Request | None:
        """The head of the next request; None when none comes.

        :param wait_s: for its first byte
        :raises Problem: it is no HTTP, or does not arrive in time
        """
        if not self._http.trailing_data[0]:
            with anyio.move_on_after(wait_s) as waiting:
                await self._receive()
            if waiting.cancelled_caught or not self._http.trailing_data[0]:
                return None
        with anyio.move_on_after(self.limits.head_s):
            event = await self._next_event()
            if not isinstance(event, h11.Request):
                return None
            if event.http_version not in {b"1.1", b"1.0"}:
                raise Problem(Kind.BAD_REQUEST, "the model gateway speaks HTTP/1.1")
            self._method = event.method
            return event
        raise Problem(Kind.TOO_SLOW, f"the head of the request did not arrive within {self.limits.head_s:g} s")

    async def next_piece(self) -> bytes | None:
        """The next bytes of the request's body; None at its end. Callers set the deadline.

        :raises Problem: it is no HTTP
        :raises AgentGoneError: it ends too early
        """
        event = await self._next_event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if isinstance(event, h11.EndOfMessage):
            return None
        raise AgentGoneError

    async def while_there(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do *work* now that the request has been read, and cancel it as soon as the agent ends the connection.

        :raises AgentGoneError: it did
        """
        failure: Exception | None = None
        gone = False

        async def watch() -> None:
            nonlocal gone
            # One look: when the next request is here already, the agent has no reason to leave.
            if not self._http.trailing_data[0] and not await self._receive():
                gone = True
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            try:
                await work()
            except Exception as exc:  # noqa: BLE001  # raised below: the group would wrap it
                failure = exc
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if gone:
            raise AgentGoneError

    async def begin_answer(self, status: int, reason: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send the head of the answer. Without a length, its body is framed as the agent can read it."""
        await self._send(h11.Response(status_code=status, headers=list(headers), reason=reason))

    async def send(self, chunk: bytes) -> None:
        """Send a piece of the answer, now."""
        if chunk:
            await self._send(h11.Data(data=chunk))

    async def end_answer(self) -> bool:
        """End the answer; whether another request may follow."""
        await self._send(h11.EndOfMessage())
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def refuse(self, problem: Problem, api: ModelApi) -> None:
        """Answer with *problem* if it is not too late, in the shape of *api*; this ends the connection."""
        if self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        body = problem.body(api)
        headers = [
            *problem.headers(),
            (b"Content-Type", b"application/json"),
            (b"Content-Length", str(len(body)).encode()),
            (b"Connection", b"close"),
        ]
        await self.begin_answer(problem.status(api), b"", headers)
        if self._method != b"HEAD":
            await self.send(body)
        await self._send(h11.EndOfMessage())
        await self._linger()

    async def close(self) -> None:
        """Close it, whatever happens to the caller. An answer that is not ended is seen to be cut."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_S):
            try:
                await self.stream.aclose()
            except GONE:
                pass  # It is closed, which was wanted.

    async def _linger(self) -> None:
        left = self.limits.body_bytes
        with anyio.move_on_after(_LINGER_S):
            try:
                await self.stream.send_eof()
                while left > 0:
                    left -= len(await self.stream.receive(_CHUNK_BYTES))
            except GONE:
                pass  # It has read the answer and left, which was waited for.

    async def _next_event(self) -> object:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    await self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
                if not await self._receive() and self._http.their_state is h11.SEND_BODY:
                    raise AgentGoneError
        except h11.RemoteProtocolError as exc:
            raise Problem(Kind.BAD_REQUEST, f"the request is not understood: {exc}") from None
        return event

    async def _receive(self) -> bool:
        """Wait for bytes; whether some came. Callers set the deadline."""
        try:
            data = await self.stream.receive(_CHUNK_BYTES)
        except GONE:
            data = b""
        self._http.receive_data(data)
        return bool(data)

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            with anyio.fail_after(self.limits.idle_s):
                await self.stream.send(data)
