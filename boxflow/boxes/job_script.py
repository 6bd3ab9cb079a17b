"""How does a process of a box outlive the engine that started it? The shell program that starts and watches it there.

A job is a directory `$BOXFLOW_JOBS/<job>` in the box, and a *watcher*, which is a shell that waits for the command:

    about                    what was asked, as JSON
    in                       the command's whole input
    pid                      the watcher: process id, start time; then when it began (uptime and epoch)
    command                  the command: process id, start time
    out, err                 pipes from the command to two pumps; out.reader, err.reader: who reads there
    out.<offset>, err....    what it wrote, in segments named by where they begin
    exit                     exit status, when it ended (uptime), why; there once everything else is

`mkdir` of the directory decides who starts the job, so it is started once, whoever tries how often. Everything that
asks about it, waits for it or reads it is one run of this same program, from any engine, at any time.

Each stream keeps its first segment and the newest ones, up to `KEPT_BYTES`: an endless output fills no disk, and what
was written first and last can be read. It is POSIX sh with `dd`, `head`, `tail`, `wc`, `mkfifo` and `sleep`: dash, bash
and busybox run it alike.
"""

from __future__ import annotations

from typing import Final

KEPT_BYTES: Final = 64 * 1024 * 1024
"""How much of each stream is kept in the box."""

SEGMENT_READS: Final = 1024
"""A segment ends after so many reads of 16 KiB, so that it is 16 MiB at most."""

EXIT_NO_PROGRAM: Final = 121
EXIT_NO_INPUT: Final = 122
EXIT_NO_PLACE: Final = 123

# Words of the program's answers: `s STATE CODE STARTED ELAPSED REASON SINCE`, `o|e OFFSET SIZE` and so many bytes,
# `t o|e TOTAL`, `j NAME SIZE` and so many bytes, `r NAME`. Times are in hundredths of a second (STARTED in seconds
# since the epoch), `-` is nothing.
SCRIPT: Final = (
    r"""
verb=$1 root=$BOXFLOW_JOBS name=$2 d=$BOXFLOW_JOBS/$2; shift 2

# Hundredths of a second, from a clock that nobody sets; whole seconds where there is no /proc.
now() {
    if read -r up _ 2>/dev/null </proc/uptime; then up=${up%.*}${up#*.}; else up=$(date +%s)00; fi
    unpadded "$up"
}
# A number without its leading zeros, which would make it octal.
unpadded() { number=${1#"${1%%[!0]*}"}; number=${number:-0}; }
# The start time of a process, of the line in proc_pid_stat(5): with the process id it is unique while the machine runs.
start_time() { set -- ${1##*) }; began=${20}; state=$1; }
myself() { # sets pid, began: of this very shell, which may be a fork of the one that $$ names
    line=; read -r line 2>/dev/null </proc/self/stat
    if [ -n "$line" ]; then pid=${line%% *}; start_time "$line"; else pid=$(exec sh -c 'echo $PPID'); began=-; fi
}
alive() {
    if [ -e /proc/self/stat ]; then
        read -r line 2>/dev/null <"/proc/$1/stat" || return 1
        start_time "$line"; [ "$began" = "$2" ] && [ "$state" != Z ]
    else kill -0 "$1" 2>/dev/null; fi
}
nap() { # milliseconds
    if [ "$1" -ge 1000 ]; then sleep $(($1 / 1000)); else
        thousandths=00$1; sleep "0.${thousandths#"${thousandths%???}"}" 2>/dev/null || sleep 1
    fi
}
size_of() { size=$(wc -c <"$1") || return 1; size=$((size)); } 2>/dev/null

# --- the watcher

pump() { # one stream: from its pipe into segments
    # In the directory itself, not under its name: a job that is given up is renamed, and its name goes to another one.
    cd "$d" && exec 3<"$1" || return
    at=0
    while :; do
        padded=000000000000000$at; segment=$1.${padded#"${padded%????????????????}"}
        dd bs=16384 count=READS of="$segment" 2>/dev/null <&3 &
        echo $! >"$1.reader"
        if ! wait $!; then
            cat <&3 >/dev/null # The disk is full. The command must not be held up, nor be killed by a broken pipe.
            break
        fi
        size_of "$segment" || break
        if [ "$size" = 0 ]; then rm -f "$segment"; break; fi
        at=$((at + size)); trim "$1"
    done
    : >"$1.end"
}
trim() { # the oldest segments but the first go, until little enough is kept
    stream=$1; set -- "$stream".0*; shift; kept=0
    for segment; do size_of "$segment" && kept=$((kept + size)); done
    while [ "$kept" -gt KEPT ] && [ $# -gt 1 ]; do
        size_of "$1" && kept=$((kept - size)); rm -f "$1"; shift
    done
}
drained() { # nothing is on its way: each stream has ended, or its reader sleeps, and so has read all of it
    [ -e /proc/self/stat ] || return 0
    for stream in out err; do
        [ -e "$d/$stream.end" ] && continue
        read -r reader 2>/dev/null <"$d/$stream.reader" && read -r line 2>/dev/null <"/proc/$reader/stat" || return 1
        start_time "$line"; [ "$state" = S ] || return 1
    done
}
watch() { # the command, in the directory and with the environment that this shell has
    myself; now; started=$number
    echo "$pid $began $started $(date +%s)" >"$d/pid.new" && mv "$d/pid.new" "$d/pid"
    mkfifo "$d/out" "$d/err"
    pump out & pump err &
    from=/dev/null; [ ! -e "$d/in" ] || from=$d/in
    # In a shell of its own, which `exec` replaces: a command is never one of the shell's own words.
    (myself; echo "$pid $began" >"$d/command"; exec $BOXFLOW_REAPER "$@") <"$from" >"$d/out" 2>"$d/err"
    code=$? n=0
    # What is left running may hold the streams for ever; what the command itself wrote is in the pipes by now. On a
    # busy machine it takes a while until it has been read from there.
    while [ $n -lt 500 ] && ! { [ -e "$d/out.end" ] && [ -e "$d/err.end" ]; } && { [ $n -lt 30 ] || ! drained; }; do
        if [ $n -lt 10 ]; then nap 2; else nap 20; fi
        n=$((n + 1))
    done
    note_end "$code" ended
    rm -f "$d/in" "$d/out" "$d/err" "$d/out.reader" "$d/err.reader"
}
note_end() { # status, why; the first to note it is right
    now; echo "$1 $number $2" >"$d/exit.$$.new" && ln "$d/exit.$$.new" "$d/exit" 2>/dev/null
    rm -f "$d/exit.$$.new"
}

# --- whoever asks

look() { # sets state, code, started (epoch), elapsed, reason
    state=starting code=- started=- elapsed=- reason=- since=0
    if ! read -r pid began since started 2>/dev/null <"$d/pid"; then
        [ -d "$d" ] || state=missing
        return
    fi
    if read -r code ended reason 2>/dev/null <"$d/exit"; then
        state=exited elapsed=$((ended - since))
    elif alive "$pid" "$began"; then
        now; state=running elapsed=$((number - since)) code=-
    elif read -r code ended reason 2>/dev/null <"$d/exit"; then # between the two looks
        state=exited elapsed=$((ended - since))
    else state=lost code=-; fi
}
tell() { echo "s $state $code $started $elapsed $reason $since"; }
await() { # until it is over, TIMEOUT or ROUND hundredths have passed, or it has not begun for ten seconds
    pause=5 waited=0
    while :; do
        look
        case $state in
        exited | lost | missing) return ;;
        starting) [ $waited -lt 10000 ] || { state=lost; return; } ;;
        running) [ "$elapsed" -lt "$1" ] || { reason=late; return; } ;;
        esac
        [ $((waited / 10)) -lt "$2" ] || return
        nap $pause; waited=$((waited + pause)); pause=$((pause * 5 / 4 + 1)); [ $pause -le 1000 ] || pause=1000
    done
}
emit() { # letter, stream, from, to: what is kept of these bytes; sets next
    next=$3
    for segment in "$d/$2".0*; do
        size_of "$segment" || continue
        unpadded "${segment##*.}"; a=$number b=$((number + size))
        [ "$a" -ge "$3" ] || a=$3
        [ "$b" -le "$4" ] || b=$4
        [ "$a" -lt "$b" ] || continue
        # Opened first: a segment that is dropped meanwhile is not announced, or read to its end.
        { echo "$1 $a $((b - a))"; tail -c +$((a - number + 1)) | head -c $((b - a)); } 2>/dev/null <"$segment" &&
            next=$b
    done
}
total() { # letter, stream; sets sum
    sum=0
    for segment in "$d/$2".0*; do size_of "$segment" && { unpadded "${segment##*.}"; sum=$((number + size)); }; done
    echo "t $1 $sum"
}
ends() { # letter, stream, limit: the first half and the last half of so many bytes
    total "$1" "$2"
    if [ "$sum" -le "$3" ]; then emit "$1" "$2" 0 "$sum"; else
        emit "$1" "$2" 0 $(($3 / 2)); emit "$1" "$2" $((sum - $3 + $3 / 2)) "$sum"
    fi
}
start() { # about, size of the input or -, command...
    about=$1 input=$2; shift 2
    command -v -- "$1" >/dev/null 2>&1 || exit NO_PROGRAM
    mkdir -p "$root" 2>/dev/null
    if mkdir "$d" 2>/dev/null; then
        printf %s "$about" >"$d/about"
        if [ "$input" != - ]; then
            cat >"$d/in"; size_of "$d/in"
            # Whoever sent it has died in the middle: as if it had never begun.
            [ "$size" = "$input" ] || { rm -rf "$d"; exit NO_INPUT; }
        fi
        # What a shell starts in the background has SIGINT ignored, for good (POSIX, 2.11), and a command must not. So
        # it is the answer that is given in the background; then this shell goes, and leaves the watcher behind.
        (until_begun; answer; kill -TERM $$ 2>/dev/null) &
        (watch "$@") </dev/null >/dev/null 2>&1
        wait
    elif [ -d "$d" ]; then answer; else exit NO_PLACE; fi
}
until_begun() { # the watcher, or at least for five seconds
    n=0; while [ ! -e "$d/pid" ] && [ $n -lt 1000 ]; do nap 5; n=$((n + 1)); done
}
answer() {
    if [ $verb = run ]; then await "$timeout" "$round"; else look; fi
    tell
    case $verb$state$reason in runexited* | runlost* | runrunninglate) ends o out "$limit"; ends e err "$limit" ;; esac
}
BOXFLOW_REAPER=${BOXFLOW_REAPER:-}
case $verb in
start) start "$@" ;;
run) # timeout, round, limit, then as for start
    timeout=$1 round=$2 limit=$3; shift 3
    start "$@" ;;
wait) # timeout, round, limit
    await "$1" "$2"; tell
    case $state in exited | lost) ends o out "$3"; ends e err "$3" ;; esac ;;
look) look; tell ;;
list)
    for d in "$root"/j*; do
        [ -d "$d" ] || continue
        look; tell; size=0; size_of "$d/about"; echo "j ${d##*/} $size"; head -c "$size" "$d/about" 2>/dev/null
    done ;;
follow) # from, from, round, whether to wait for more
    o=$1 e=$2 round=$3 follow=$4 pause=5 waited=0
    look
    [ "$state" = missing ] && { tell; exit; }
    while :; do
        look
        before=$o.$e
        emit o out "$o" 9223372036854775807; o=$next
        emit e err "$e" 9223372036854775807; e=$next
        case $state in exited | lost) break ;; esac
        [ "$follow" = yes ] && [ $((waited / 10)) -lt "$round" ] || break
        [ "$before" = "$o.$e" ] || pause=5
        nap $pause; waited=$((waited + pause)); pause=$((pause * 5 / 4 + 1)); [ $pause -le 500 ] || pause=500
    done
    tell ;;
signal) # number
    look; tell
    if [ "$state" = running ] && read -r pid began 2>/dev/null <"$d/command" && alive "$pid" "$began"; then
        kill -"$1" "$pid" 2>/dev/null
    fi
    : ;;
ended) # status, why: for a job whose watcher was killed with it
    [ ! -d "$d" ] || { [ -e "$d/pid" ] || echo "0 - 0 0" >"$d/pid"; note_end "$1" "$2"; } ;;
retire) # its name is free again, and it is found under another
    n=1; while [ -e "$d%7Elost$n" ]; do n=$((n + 1)); done
    mv "$d" "$d%7Elost$n" 2>/dev/null && echo "r ${d##*/}%7Elost$n" ;;
esac
""".replace("READS", str(SEGMENT_READS))
    .replace("KEPT", str(KEPT_BYTES))
    .replace("NO_PROGRAM", str(EXIT_NO_PROGRAM))
    .replace("NO_INPUT", str(EXIT_NO_INPUT))
    .replace("NO_PLACE", str(EXIT_NO_PLACE))
)


def script_argv(verb: str, name: str, *arguments: str) -> tuple[str, ...]:
    """The process that does *verb* for the job *name*."""
    return ("sh", "-c", SCRIPT, "boxflow-job", verb, name, *arguments)
