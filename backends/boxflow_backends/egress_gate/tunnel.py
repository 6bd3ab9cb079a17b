"""How do bytes go to a host and back without being looked at, but for the name in the first of them?"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.abc
import attrs

from boxflow_backends.egress_gate.client_hello import ClientHello, Incomplete, Malformed, read_client_hello
from boxflow_backends.egress_gate.limits import Limits
from boxflow_backends.egress_gate.names import normalise_name
from boxflow_backends.egress_gate.streams import GONE, receive_some

# RFC 8446, 6.2: a fatal alert, `unrecognized_name`. Clients put it into their error message.
UNRECOGNISED_NAME = b"\x15\x03\x01\x00\x02\x02\x70"

# How often the deadline of silence is moved on: a timer for each chunk would cost more than the chunk.
_MOVE_S = 1.0


class NameMismatchError(Exception):
    """What a box sent into a tunnel asks for another server than the tunnel leads to."""


@attrs.define(eq=False)
class _Silence:
    """Ends a scope when nothing happens for too long."""

    idle_s: float
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)

    def broken(self) -> None:
        deadline = anyio.current_time() + self.idle_s
        if deadline - self.scope.deadline > min(_MOVE_S, self.idle_s / 10) or self.scope.deadline == float("inf"):
            self.scope.deadline = deadline


async def first_bytes(stream: anyio.abc.ByteStream, limits: Limits) -> bytes:
    """What the box says first: something that is no TLS, a whole hello, or what came of one in time."""
    first = await receive_some(stream)
    with anyio.move_on_after(limits.head_s):
        while isinstance(read_client_hello(first), Incomplete) and (chunk := await receive_some(stream)):
            first += chunk
    return first


def check_name(first: bytes, host: str) -> None:
    """Let pass what may be said first in a tunnel to *host*.

    :raises NameMismatchError: it is TLS with another host, or not to be understood
    """
    match read_client_hello(first):
        case ClientHello(server_name=str(name)) if normalise_name(name) != host:
            raise NameMismatchError(f"the TLS inside asks for {name!r}")
        case Malformed(reason=reason):
            raise NameMismatchError(f"the TLS inside is not understood: {reason}")
        case Incomplete() if first:
            raise NameMismatchError("the TLS inside did not begin in time")
        case _:
            return


async def join(box: anyio.abc.ByteStream, upstream: anyio.abc.ByteStream, host: str, limits: Limits) -> None:
    """Pass bytes both ways until both sides have ended, one is gone, or neither says anything for too long.

    What the box sends first is held back until it is known to be no TLS, or TLS with *host*; what the host sends is
    not, for in some protocols it speaks first.

    :raises NameMismatchError: it is TLS with another host, or not to be understood; nothing of it was passed on
    """
    silence = _Silence(limits.idle_s)
    silence.broken()
    mismatch: NameMismatchError | None = None

    async def outwards() -> None:
        nonlocal mismatch
        first = await first_bytes(box, limits)
        try:
            check_name(first, host)
        except NameMismatchError as exc:
            mismatch = exc
            group.cancel_scope.cancel()
            return
        await _pump(first, box, upstream, silence.broken, group.cancel_scope)

    with silence.scope:
        async with anyio.create_task_group() as group:
            group.start_soon(outwards)
            group.start_soon(_pump, b"", upstream, box, silence.broken, group.cancel_scope)
    if mismatch is not None:
        raise mismatch


async def _pump(
    first: bytes,
    source: anyio.abc.ByteStream,
    target: anyio.abc.ByteStream,
    moved: Callable[[], None],
    both: anyio.CancelScope,
) -> None:
    try:
        while chunk := first or await receive_some(source):
            first = b""
            await target.send(chunk)
            moved()
        await target.send_eof()
    except (*GONE, OSError):
        both.cancel()  # Nobody takes what the other direction brings, or will ever answer.
