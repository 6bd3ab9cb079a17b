"""What does a box say on one connection, request by request, and how is it answered? HTTP/1.1, by h11."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.abc
import attrs
import h11
from anyio.streams.tls import TLSStream

from boxflow_backends.egress_gate.limits import Limits
from boxflow_backends.egress_gate.problems import Problem, unreadable
from boxflow_backends.egress_gate.streams import GONE, Rewound, receive_some

Headers = Sequence[tuple[bytes, bytes]]

# After the last answer the box may still be sending. Closing now would make the kernel tell it so, and it would never
# read the answer; so what comes is thrown away, up to here.
_LINGER_S = 2.0
_LINGER_BYTES = 4_194_304


class BoxGoneError(Exception):
    """The box has ended the connection; nobody reads an answer."""


@attrs.define(eq=False)
class BoxConnection:
    """One connection, on which nobody else reads."""

    stream: anyio.abc.ByteStream
    limits: Limits
    _http: h11.Connection = attrs.field(init=False)
    _method: bytes = attrs.field(default=b"", init=False)
    _ended: bool = attrs.field(default=False, init=False)
    _body_was_read: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=self.limits.head_bytes)

    async def next_request(self, wait_s: float) -> h11.Request | None:
        """The next request, without its body; None when none comes.

        :param wait_s: for its first byte
        :raises Problem: it cannot be understood, or does not arrive in time
        """
        with anyio.move_on_after(wait_s):
            if not self._http.trailing_data[0]:
                await self._fill()
        if not self._http.trailing_data[0]:
            return None
        try:
            with anyio.fail_after(self.limits.head_s):
                event = await self._next_event()
        except TimeoutError:
            raise Problem(408, "Request Timeout", "the request did not arrive in time") from None
        except h11.RemoteProtocolError as exc:
            raise _not_http(exc) from exc
        if not isinstance(event, h11.Request):
            return None
        if event.http_version not in {b"1.1", b"1.0"}:
            raise Problem(505, "HTTP Version Not Supported", "this proxy speaks HTTP/1.1; ask it in that version")
        self._method = event.method
        self._begin_body(event)
        return event

    def _begin_body(self, request: h11.Request) -> None:
        # h11 gives all names in lower case, and refuses two lengths and unknown encodings.
        headers = dict(request.headers)
        if b"content-length" in headers and b"transfer-encoding" in headers:
            # RFC 9112, 6.1: an attempt to have two servers see two requests where one was sent.
            raise unreadable("the request has both Content-Length and Transfer-Encoding")
        if b"transfer-encoding" not in headers and int(headers.get(b"content-length", b"0")) == 0:
            self._http.next_event()  # The end of a body that has no bytes.
            self._body_was_read.set()

    async def read_body(self) -> bytes | None:
        """The next bytes of the request's body; None at its end.

        :raises Problem: it cannot be understood, or nothing comes for too long
        :raises BoxGoneError: the box went away in the middle of it
        """
        if self._body_was_read.is_set():
            return None
        try:
            with anyio.fail_after(self.limits.idle_s):
                event = await self._next_event()
        except TimeoutError:
            raise Problem(408, "Request Timeout", "the body of the request stopped coming") from None
        except h11.RemoteProtocolError as exc:
            if self._ended:
                raise BoxGoneError from exc
            raise _not_http(exc) from exc
        if isinstance(event, h11.Data):
            return bytes(event.data)
        self._body_was_read.set()
        return None

    async def while_there(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do *work*, but cancel it when the box ends the connection after it has sent its request.

        :raises BoxGoneError: it did
        """
        failure: Exception | None = None
        gone = False

        async def watch() -> None:
            nonlocal gone
            await self._body_was_read.wait()
            # One look: if the next request is here already, nobody watches while this one is answered.
            if not self._http.trailing_data[0]:
                await self._fill()
            if self._ended:
                gone = True
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            try:
                await work()
            except Exception as exc:  # noqa: BLE001  # raised below: the group would put it into another one
                failure = exc
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if gone:
            raise BoxGoneError

    async def begin_response(self, status: int, reason: bytes, headers: Headers) -> None:
        """Send the head of the answer; without a length in *headers*, the body is framed as the box can read it."""
        await self._send(h11.Response(status_code=status, headers=list(headers), reason=reason))

    async def send_body(self, chunk: bytes) -> None:
        """Send a piece of the answer's body, now."""
        await self._send(h11.Data(data=chunk))

    async def end_response(self) -> bool:
        """End the answer; whether another request may follow."""
        await self._send(h11.EndOfMessage())
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        self._body_was_read = anyio.Event()
        return True

    async def refuse(self, problem: Problem) -> None:
        """Answer with *problem*, if it is not too late for an answer. No other request is read afterwards."""
        if self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        body = problem.body()
        headers = [
            (b"Content-Type", b"application/problem+json"),
            (b"Content-Length", str(len(body)).encode()),
            (b"Connection", b"close"),
        ]
        await self.begin_response(problem.status, problem.title.encode(), headers)
        if self._method != b"HEAD":
            await self.send_body(body)
        await self._send(h11.EndOfMessage())

    async def open_tunnel(self) -> Rewound:
        """Grant a CONNECT; what comes from now on is not this protocol's any more."""
        await self.begin_response(200, b"Connection established", [])
        return Rewound(self.stream, self._http.trailing_data[0])

    async def linger(self) -> None:
        """Say that nothing more comes, and wait a moment for the box to read the last answer and end its side too."""
        below = self.stream.transport_stream if isinstance(self.stream, TLSStream) else self.stream
        with anyio.move_on_after(_LINGER_S):
            try:
                if isinstance(self.stream, TLSStream):
                    await self.stream.unwrap()  # An end without TLS saying so looks like an attack to many clients.
                else:
                    await self.stream.send_eof()
            except GONE:
                pass  # In TLS: the box is in the middle of sending.
            left = _LINGER_BYTES
            while left > 0 and not self._ended and (chunk := await receive_some(below)):
                left -= len(chunk)

    async def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
            await self._fill()
        return event

    async def _fill(self) -> None:
        data = await receive_some(self.stream)
        self._ended = not data
        self._http.receive_data(data)

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            with anyio.fail_after(self.limits.idle_s):
                await self.stream.send(data)


def _not_http(error: h11.RemoteProtocolError) -> Problem:
    return Problem(
        error.error_status_hint,
        "Bad Request",
        f"the request is not understood: {error}",
        # The rest is what the box wrote; it has no place in a log.
        log="a request that is no HTTP/1.1",
    )
