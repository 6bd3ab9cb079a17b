"""How much of a stream is kept: its head and its tail, within a bound."""

from __future__ import annotations


class CappedOutput:
    """Collects a stream of bytes, and drops the middle of what is more than *limit_bytes*.

    The beginning says what was started, the end says how it went; the middle is the cheapest to lose.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._head_limit = limit_bytes // 2
        self._tail_limit = limit_bytes - self._head_limit
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    @property
    def truncated(self) -> bool:
        """Whether something was dropped."""
        return self._excess() > 0

    def add(self, data: bytes) -> None:
        """Take in the next bytes of the stream."""
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        # Trimmed only at twice the limit, so that many small chunks cost one move each, not one per chunk.
        if len(self._tail) > 2 * self._tail_limit:
            self._drop()

    def skip(self, size: int) -> None:
        """So many bytes of the middle were dropped before they came here; what is added next is the tail."""
        self._drop()
        self._dropped += size

    def text(self) -> str:
        """What was kept, with a line in place of what was dropped; bytes that are not UTF-8 become U+FFFD."""
        self._drop()
        if not self._dropped:
            return (self._head + self._tail).decode(errors="replace")
        head = _without_cut_end(bytes(self._head)).decode(errors="replace")
        tail = bytes(self._tail).lstrip(_CONTINUATION).decode(errors="replace")
        return f"{head}\n[... {self._dropped} bytes left out ...]\n{tail}"

    def _excess(self) -> int:
        return self._dropped + max(0, len(self._tail) - self._tail_limit)

    def _drop(self) -> None:
        excess = len(self._tail) - self._tail_limit
        if excess > 0:
            self._dropped += excess
            del self._tail[:excess]


_CONTINUATION = bytes(range(0x80, 0xC0))


def _without_cut_end(data: bytes) -> bytes:
    """*data* without a UTF-8 sequence that the cut left incomplete at its end."""
    start = len(data.rstrip(_CONTINUATION)) - 1
    if start < 0 or len(data) - start > 4:
        return data
    lead = data[start]
    needed = 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2 if lead >= 0xC0 else 1
    return data[:start] if len(data) - start < needed else data
