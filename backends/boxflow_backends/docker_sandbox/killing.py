"""How is a process tree of a box found and ended? The shell program that does it in there, and what its answers mean.

Docker cannot end an exec. In the box a tree is: what carries the exec's mark in its environment, what descends from
that, and what shares a session with any of it. `docker-init -s` keeps orphans below it (see `wrapper`), so this misses
only what has wiped its environment, left its session, *and* outlived the program that it came from.

Everything found is stopped before anything is killed: what is stopped starts nothing new. This goes on until a search
finds nothing. It runs as the same user as the tree: without capabilities root may not signal anybody else.
"""

from __future__ import annotations

from typing import Final

from boxflow.errors import SandboxError
from boxflow_backends.docker_sandbox.record import digest

MARK_VARIABLE: Final = "BOXFLOW_EXEC"

# So many rounds: each kills all that it finds, so that a second one finds nothing unless something is not to be killed.
_ROUNDS: Final = 30

# POSIX sh in dash, bash and busybox, with no other program but grep where it is there. $0 is the nonce of its marks, $1
# the mark to look for, $2 a signal or "end". It announces its start and end as `wrapper` does: while the output of a
# program that was killed is not taken, the engine reports no end of any exec in that box. In /proc/PID/stat the name is
# in brackets and may hold anything, a bracket and a new line too: all behind the last bracket are numbers.
_SCRIPT: Final = r"""
mark=$1 verb=$2
announce() { printf '\000%s%s\000' "$0" "$1"; }
finish() { announce "$1"; announce "$1" >&2; exit "$1"; }
announce start; announce start >&2
if command -v grep >/dev/null 2>&1; then
    marked() { grep -lsF "$mark" /proc/[0-9]*/environ; }
else
    marked() { for e in /proc/[0-9]*/environ; do case $(cat "$e" 2>/dev/null) in *"$mark"*) echo "$e" ;; esac; done; }
fi
search() { # sets tree and lines: "pid:parent:session:name" of every process that is alive and not ours
    tree=' ' lines='' sessions=' '
    for e in $(marked 2>/dev/null); do e=${e#/proc/}; tree="$tree${e%/environ} "; done
    roots=$tree
    for e in /proc/[0-9]*; do
        text=
        while read -r line || [ -n "$line" ]; do text="$text$line "; done 2>/dev/null <"$e/stat" || continue
        [ -n "$text" ] || continue
        pid=${e#/proc/} name=${text#*\(}; name=${name%\)*}
        case $name in *[!a-zA-Z0-9_-]*) name=other ;; esac
        set -- ${text##*\) }
        case $1 in [ZXx]) case $tree in *" $pid "*) tree="${tree%% $pid *} ${tree#* $pid }" ;; esac; continue ;; esac
        [ "$pid" -gt 1 ] && [ "$pid" != $$ ] && [ "$2" != $$ ] && [ "$4" != $$ ] || continue
        lines="$lines$pid:$2:$4:$name "
        case $tree in *" $pid "*) sessions="$sessions$4 " ;; esac
    done
    # What is in the tree and not in a line has gone meanwhile, or is not ours to touch.
    known=' '
    for e in $lines; do
        pid=${e%%:*}
        case $tree in *" $pid "*) known="$known$pid " ;; esac
    done
    tree=$known again=yes
    while [ -n "$again" ]; do
        again=
        for e in $lines; do
            pid=${e%%:*} rest=${e#*:}
            case $tree in *" $pid "*) continue ;; esac
            parent=${rest%%:*} rest=${rest#*:}; session=${rest%%:*}
            case $tree in *" $parent "*) ;; *)
                [ "$session" -gt 1 ] || continue
                case $sessions in *" $session "*) ;; *) continue ;; esac ;;
            esac
            tree="$tree$pid " sessions="$sessions$session " again=yes
        done
    done
}
line_of() { # sets parent and name of a process
    parent= name=
    for e in $lines; do case $e in "$1":*) rest=${e#*:}; parent=${rest%%:*} name=${e##*:} ;; esac; done
}
case $verb in
end)
    round=0 before=
    while [ $round -lt ROUNDS ]; do
        search
        [ "$tree" != ' ' ] || finish 0
        if [ "$tree" = "$before" ]; then
            kill -s KILL $tree
            [ $round -lt 20 ] || sleep 1
        else
            kill -s STOP $tree
        fi 2>/dev/null
        before=$tree round=$((round + 1))
    done
    for pid in $tree; do line_of "$pid"; echo "$pid $name"; done
    finish 1 ;;
*)
    # The program itself: below the reaper that was put in front of it. A job has two: that of who asked for it, whose
    # parent is outside of the tree or our shell, and that of its command, below the job's watcher.
    search
    inner= outer= plain=
    for pid in $tree; do
        line_of "$pid"; above=$parent
        case $tree in *" $above "*) ;; *) plain="$plain $pid"; continue ;; esac
        line_of "$above"
        [ "$name" = docker-init ] || continue
        wrapper=$parent; line_of "$wrapper"
        case $tree in *" $parent "*) inner="$inner $pid" ;; *) outer="$outer $pid" ;; esac
        # A watcher whose starter has ended has come to PID 1, and holds no terminal of ours: its own parent is 1.
        [ "$parent" != 1 ] || { inner="$inner $pid"; }
    done
    targets=${inner:-${outer:-$plain}}
    [ -z "$targets" ] || kill -s "$verb" $targets 2>/dev/null
    finish 0 ;;
esac
""".replace("ROUNDS", str(_ROUNDS))


def mark_of(box_id: str, exec_id: str) -> str:
    """The value of the mark of an exec; other ids, other marks, and none is part of another."""
    return digest("exec", box_id, exec_id)


def ending_argv(mark: str, nonce: str) -> list[str]:
    """What ends the tree of *mark*."""
    return ["/bin/sh", "-c", _SCRIPT, nonce, f"{MARK_VARIABLE}={mark}", "end"]


def signal_argv(mark: str, number: int, nonce: str) -> list[str]:
    """What sends a signal to the program of *mark*."""
    return ["/bin/sh", "-c", _SCRIPT, nonce, f"{MARK_VARIABLE}={mark}", str(number)]


def check_ended(box_id: str, code: int, output: str) -> None:
    """Understand what the ending said.

    :raises SandboxError: something is left
    """
    if code == 0:
        return
    left = ", ".join(line.strip() for line in output.splitlines() if line.strip()) or f"status {code}"
    raise SandboxError(f"processes of box {box_id!r} cannot be ended: {left}; delete the box")
