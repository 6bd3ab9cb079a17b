"""Who owns the directory: one living process, by `flock` on its `LOCK` file.

The kernel releases the lock when the process ends, however it ends. What is written inside is only for people.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

from boxflow.errors import StoreLockedError

_held: set[int] = set()


def _leave_to_parent() -> None:
    # A forked child shares the lock and would keep it after its parent died. Closing, unlike unlocking, ends its share.
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_leave_to_parent)


class Ownership:
    """The lock, while it is held."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        _held.add(descriptor)

    @classmethod
    def take(cls, root: Path) -> Ownership:
        """Become the owner of the store in *root*.

        :raises StoreLockedError: a living process owns it
        """
        path = root / "LOCK"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            about = json.dumps({"pid": os.getpid(), "started": time.strftime("%H:%M"), "at": int(time.time())})
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, about.encode() + b"\n", 0)
        except BlockingIOError:
            owner = _owner(os.pread(descriptor, 1000, 0))
            os.close(descriptor)
            raise StoreLockedError(
                f"store {str(root)!r} is owned by {owner}; stop it, or read with `boxflow runs --store file:{root}`"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        """Give up ownership."""
        if self._descriptor in _held:
            _held.discard(self._descriptor)
            # Said, not left to closing: a child that was forked a moment ago may not have closed its copy yet.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)


def _owner(about: bytes) -> str:
    try:
        known = json.loads(about)
        return f"process {known['pid']} (started {known['started']})"
    except (ValueError, KeyError, TypeError):
        # It holds the lock and has not written yet, or was stopped while it wrote.
        return "another process"
