"""How is a directory below another one reached, such that no link is followed on the way?"""

# No pathlib: what is open cannot be swapped under us; a path can.

from __future__ import annotations

import os

Parts = tuple[bytes, ...]
"""The names on the way from the top to something below it; none for the top itself."""


def shown(parts: Parts) -> str:
    """A path for people."""
    return b"/".join(parts).decode(errors="backslashreplace")


class Walk:
    """The directories below *top*, one of them open at a time.

    Trees may be deeper than there are descriptors. So only the latest directory is kept: the next one is usually below.

    :param top: an open directory; it may be closed when the walk is made
    :param flags: how directories are opened, beside what keeps links out
    """

    def __init__(self, top: int, flags: int) -> None:
        self._flags = flags | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._top = os.dup(top)
        #: Where the walk is.
        self.at: Parts = ()
        self._directory = os.dup(top)

    def close(self) -> None:
        """Close what is open."""
        os.close(self._directory)
        os.close(self._top)

    def enter(self, parts: Parts, *, make: bool = False) -> int:
        """The directory *parts*, open until the next call; made where it is missing, with *make*.

        :raises OSError: it cannot be entered; `at` says how far the walk came
        """
        if parts[: len(self.at)] != self.at:
            directory = os.dup(self._top)
            os.close(self._directory)
            self.at, self._directory = (), directory
        for name in parts[len(self.at) :]:
            directory = self._step(name, make=make)
            os.close(self._directory)
            self.at, self._directory = (*self.at, name), directory
        return self._directory

    def _step(self, name: bytes, *, make: bool) -> int:
        try:
            return os.open(name, self._flags, dir_fd=self._directory)
        except FileNotFoundError:
            if not make:
                raise
        try:
            os.mkdir(name, dir_fd=self._directory)
        except FileExistsError:
            # Somebody made something of that name just now; opening it shows whether it will do.
            pass
        return os.open(name, self._flags, dir_fd=self._directory)
