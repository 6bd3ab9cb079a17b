"""What runs in front of every program in a box, to tell apart what Docker does not?

Docker answers a missing program, directory or user with status 126 and a text among the program's output, and says that
a program has ended only when nobody holds its streams any more, or two seconds later. So a small shell is started
instead: it looks first, and announces the start and the end, both in both streams. Its announcements are the *marks*
that `marks` takes out again.

Between it and the program stands `docker-init -s` where Docker has put it: a subreaper, below which orphans stay, so
that even those which wiped their environment are found (see `killing`). It passes signals on.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from boxflow.ports import TerminalSize

START: Final = "start"
NO_DIRECTORY: Final = "directory"
NO_PROGRAM: Final = "program"

# `$0` is the nonce, `$1` the directory, `$2` the size of the terminal. The caller's variables must arrive unchanged:
# the only one here has a name that nobody uses, and goes before the program comes. POSIX; no process is started but
# those that are needed.
_SCRIPT: Final = r"""
set -f
announce() { printf '\000%s%s\000' "$0" "$1"; }
[ -d "$BOXFLOW_JOBS" ] || mkdir -m 1777 "$BOXFLOW_JOBS" 2>/dev/null
CDPATH= cd "$1" 2>/dev/null || { announce directory >&2; exit 125; }
# Here, where it is sure to come before the program; Docker sets it some time after the start.
[ "$2" = - ] || stty rows "${2%x*}" cols "${2#*x}" 2>/dev/null
shift 2
export PWD
unset OLDPWD
case $1 in
*/*) [ -f "$1" ] && [ -x "$1" ] || { announce program >&2; exit 125; } ;;
*)
    IFS=:
    for boxflow__in in $PATH ''; do
        [ -n "$boxflow__in" ] || break
        [ -f "$boxflow__in/$1" ] && [ -x "$boxflow__in/$1" ] && break
    done
    unset IFS
    [ -n "$boxflow__in" ] || { announce program >&2; exit 125; }
    unset boxflow__in ;;
esac
announce start
[ -t 2 ] || announce start >&2
trap : HUP INT QUIT TERM
[ ! -x /sbin/docker-init ] || set -- /sbin/docker-init -s -- "$@"
"$@"
set -- $?
trap '' PIPE
announce "$1"
[ -t 2 ] || announce "$1" >&2
exit "$1"
"""


def new_nonce() -> str:
    """What the marks of one exec begin with. Nobody guesses it, so no output is taken for a mark by accident."""
    return f"boxflow:{secrets.token_hex(12)}:"


def wrapped(argv: Sequence[str], directory: str, nonce: str, tty: TerminalSize | None) -> list[str]:
    """What to start for the program *argv* in *directory*, which is absolute."""
    size = "-" if tty is None else f"{tty.rows}x{tty.columns}"
    return ["/bin/sh", "-c", _SCRIPT, nonce, directory, size, *argv]
