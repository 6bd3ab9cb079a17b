"""How are the marks that our shell puts around a program's output taken out of it again?

What we start in a box announces in each stream when it is about to start the program, and when the program has ended
(see `wrapper`). So its end and exit status are known at once and in order, even when something that it left behind
holds the streams open.
"""

from __future__ import annotations


class Marks:
    """The marks of one exec in one stream: takes them out, and tells what they said."""

    def __init__(self, nonce: str) -> None:
        self._opening = b"\0" + nonce.encode()
        self._held = b""
        #: What was announced before the program was started; None until it was.
        self.start: str | None = None
        #: What was announced after it ended; None until it was.
        self.end: str | None = None

    def feed(self, data: bytes) -> bytes:
        """What of *data* is the program's own. What comes after the end belongs to nobody, and is dropped."""
        data, self._held = self._held + data, b""
        own = b""
        while self.end is None and data:
            at = data.find(self._opening)
            if at < 0:
                kept = _overlap(data, self._opening)
                own += data[: len(data) - kept]
                self._held = data[len(data) - kept :]
                break
            closing = data.find(b"\0", at + len(self._opening))
            if closing < 0:
                own += data[:at]
                self._held = data[at:]
                break
            self._take(data[at + len(self._opening) : closing].decode(errors="replace"))
            own += data[:at]
            data = data[closing + 1 :]
        return own

    def rest(self) -> bytes:
        """What was held back as the possible beginning of a mark, once nothing more comes."""
        held, self._held = self._held, b""
        return held

    def _take(self, said: str) -> None:
        if self.start is None:
            self.start = said
        else:
            self.end = said


def _overlap(data: bytes, opening: bytes) -> int:
    """How many of the last bytes of *data* may be the first of *opening*."""
    for size in range(min(len(opening) - 1, len(data)), 0, -1):
        if data.endswith(opening[:size]):
            return size
    return 0
