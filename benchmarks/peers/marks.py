"""What do the bodies and steps of every driver do? Next to nothing, and leave marks of it in this process."""

from __future__ import annotations

import base64
import random
import time

from benchmarks.peers.protocol import BLOB_BYTES

_BLOB = base64.b64encode(random.Random(1).randbytes(BLOB_BYTES))[:BLOB_BYTES].decode()


class Marks:
    """What happened in this process so far.

    :ivar steps: how many steps ran
    :ivar waiting: when each run was first about to wait, by its name
    :ivar resumed: when each run first went on after its wait
    :ivar finished: when each run first reached its last line
    """

    def __init__(self) -> None:
        self.steps = 0
        self.waiting: dict[str, float] = {}
        self.resumed: dict[str, float] = {}
        self.finished: dict[str, float] = {}


marks = Marks()


async def work(number: int) -> int:
    """A step that does nothing."""
    marks.steps += 1
    return number


async def blob(number: int) -> str:
    """A step with a large value: each another, and none that could be compressed away."""
    marks.steps += 1
    return f"{number:08d}{_BLOB[8:]}"


# A body may run again from its beginning, so that only the first time counts.


def waiting(name: str, since: float | None = None) -> None:
    """A run waits, from now on or *since* a moment from which its engine counts."""
    marks.waiting.setdefault(name, time.time() if since is None else since)


def resumed(name: str) -> None:
    marks.resumed.setdefault(name, time.time())


def finished(name: str) -> None:
    marks.finished.setdefault(name, time.time())
