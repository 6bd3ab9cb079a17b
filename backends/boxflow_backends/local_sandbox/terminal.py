"""How does a process of a local box get a terminal?"""

# No pathlib: a terminal's name is only a name.

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios

from boxflow.ports import TerminalSize

# A session leader that opens a terminal, without O_NOCTTY, makes it its controlling terminal (credentials(7)); nothing
# has to run between fork and exec in our own process. $0 is the terminal.
CONTROLLED = 'exec "$@" <"$0" >"$0" 2>&1'


def open_terminal(size: TerminalSize) -> tuple[int, int]:
    """The two ends of a new terminal of that size: ours, and the process's, both not inherited."""
    ours, theirs = pty.openpty()
    try:
        set_size(ours, size)
    except BaseException:
        os.close(ours)
        os.close(theirs)
        raise
    return ours, theirs


def set_size(terminal: int, size: TerminalSize) -> None:
    """Give it another size. The kernel tells its foreground processes by SIGWINCH."""
    # struct winsize of ioctl_tty(2): rows, columns, and two fields that nobody uses.
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))


def end_of_input(terminal: int) -> bytes:
    """What is written to it for its reader to see the end of its input: Ctrl-D, unless the process chose another."""
    special: list[bytes | int] = termios.tcgetattr(terminal)[6]
    character = special[termios.VEOF]
    return character if isinstance(character, bytes) else bytes([character])
