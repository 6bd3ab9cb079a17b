"""Where is the body of a request kept until all of it is there, without filling the engine's memory?

It has to be whole before it goes on: its limits are written into it, and no model begins before it has read everything.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import anyio
import attrs
import h11

from boxflow.gateway.agent_connection import AgentConnection
from boxflow.gateway.limits import Limits
from boxflow.gateway.problems import Kind, Problem


@attrs.define(eq=False)
class Shelf:
    """The room that is left for large bodies."""

    limits: Limits
    _taken: dict[object, int] = attrs.field(factory=dict[object, int], init=False)

    @contextmanager
    def place(self, owner: object) -> Generator[Place]:
        """A place for one body, of one of the requests of *owner*."""
        place = Place(self, owner)
        try:
            yield place
        finally:
            self._give(owner, -place.size)

    def take(self, owner: object, size: int) -> None:
        """Take room for *owner*.

        :raises Problem: there is none; it does not wait, lest those who send slowly hold up the others
        """
        all_of_it = self.limits.large_bodies_bytes
        if sum(self._taken.values()) + size > all_of_it or self._taken.get(owner, 0) + size > all_of_it // 2:
            raise Problem(Kind.BUSY, "too many large requests at once; wait for some of them")
        self._give(owner, size)

    def _give(self, owner: object, size: int) -> None:
        left = self._taken.get(owner, 0) + size
        if left:
            self._taken[owner] = left
        else:
            self._taken.pop(owner, None)


@attrs.define(eq=False)
class Place:
    """Room for one body."""

    shelf: Shelf
    owner: object
    size: int = 0

    def fit(self, size: int) -> None:
        """Make room for *size* bytes in all.

        :raises Problem: there is none, or no request may have so many
        """
        limits = self.shelf.limits
        if size > limits.body_bytes:
            raise Problem(Kind.TOO_LARGE, f"the body of a request has more than {limits.body_bytes} bytes")
        # In steps, so that a body whose length is not known does not ask for each piece.
        step = limits.small_body_bytes
        needed = 0 if size <= step else -(-size // step) * step
        if needed > self.size:
            self.shelf.take(self.owner, needed - self.size)
            self.size = needed


async def read_body(agent: AgentConnection, request: h11.Request, place: Place) -> bytes:
    """The whole body of *request*.

    :raises Problem: it is too large, too slow, or encoded
    :raises AgentGoneError: it ends too early
    """
    headers = dict(request.headers)
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Problem(Kind.UNSUPPORTED_BODY, "the model gateway cannot read a compressed request; send it as it is")
    place.fit(int(headers.get(b"content-length", b"0")))
    body = bytearray()
    limit_s = place.shelf.limits.body_s
    with anyio.move_on_after(limit_s):
        while (piece := await agent.next_piece()) is not None:
            place.fit(len(body) + len(piece))
            body += piece
        return bytes(body)
    raise Problem(Kind.TOO_SLOW, f"the body of the request did not arrive within {limit_s:g} s")
