"""Where does one server-sent event end and the next begin, in bytes that come in pieces?

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import re

import attrs

_END = re.compile(rb"\r\n\r\n|\n\r\n|\n\n|\r\r")
_LINE = re.compile(rb"\r\n|\n|\r")
# An end has at most four bytes: so many before the new ones may belong to one.
_OVERLAP = 3


@attrs.frozen
class Piece:
    """Bytes of a stream: a whole event with its end, or a part of one that is too large to be kept."""

    data: bytes
    whole: bool

    def text(self) -> bytes:
        """What the event carries; empty when it carries nothing, or is not whole."""
        if not self.whole:
            return b""
        lines = [line[5:].removeprefix(b" ") for line in _LINE.split(self.data) if line.startswith(b"data:")]
        return b"\n".join(lines)


@attrs.define(eq=False)
class EventSplitter:
    """Cuts a stream into events. All bytes that go in come out again, in order."""

    limit_bytes: int
    _kept: bytearray = attrs.field(factory=bytearray, init=False)
    _too_large: bool = attrs.field(default=False, init=False)

    def feed(self, chunk: bytes) -> list[Piece]:
        """The events that *chunk* has completed."""
        pieces: list[Piece] = []
        look_from = max(0, len(self._kept) - _OVERLAP)
        self._kept += chunk
        begin = 0
        while match := _END.search(self._kept, max(begin, look_from)):
            pieces.append(Piece(bytes(self._kept[begin : match.end()]), not self._too_large))
            self._too_large = False
            begin = match.end()
        del self._kept[:begin]
        if len(self._kept) > self.limit_bytes:
            # Its last bytes stay: they may begin the end.
            pieces.append(Piece(bytes(self._kept[:-_OVERLAP]), whole=False))
            del self._kept[:-_OVERLAP]
            self._too_large = True
        return pieces

    def end(self) -> bytes:
        """What is left of an event that was not completed."""
        left = bytes(self._kept)
        self._kept.clear()
        return left
