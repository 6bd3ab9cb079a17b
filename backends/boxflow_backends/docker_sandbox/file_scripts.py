"""What do the small shell programs do that look at, read and write files in a box?

Each gets absolute paths as arguments (so none begins with a dash) and tells what is wrong by its exit status. POSIX sh;
`find`, `stat -c`, `mv -T`, `readlink -f` and `tar` as GNU and busybox have them.
"""

from __future__ import annotations

from typing import Final

from boxflow.errors import BoxFileNotFoundError, BoxPathError, SandboxError

_NOT_FOUND: Final = 81
_IS_DIRECTORY: Final = 82
_NO_DIRECTORY: Final = 83
_IS_SPECIAL: Final = 84
_NO_RIGHT: Final = 85
_OWN_PLACE: Final = 86
_DANGLING: Final = 87

# Of one path: is it there, and what? A link is followed by all tests but -L.
_COMMON: Final = rf"""
umask 022
missing() {{ [ ! -e "$1" ] && [ ! -L "$1" ]; }}
is_there() {{
    if missing "$1"; then
        # Below what is no directory, or behind a door that is closed, nothing can be found either.
        above=${{1%/*}}
        while [ -n "$above" ] && missing "$above"; do above=${{above%/*}}; done
        [ -e "$above" ] || exit {_NOT_FOUND}
        [ -d "$above" ] || exit {_NO_DIRECTORY}
        [ -x "$above" ] || exit {_NO_RIGHT}
        exit {_NOT_FOUND}
    fi
}}
resolves() {{ [ -e "$1" ] || exit {_NOT_FOUND}; }}
is_plain() {{
    [ ! -d "$1" ] || exit {_IS_DIRECTORY}
    [ -f "$1" ] || exit {_IS_SPECIAL}
    [ -r "$1" ] || exit {_NO_RIGHT}
}}
make_above() {{ # the directories above a path; not through a link that leads nowhere
    above=${{1%/*}}
    [ -z "$above" ] || [ -d "$above" ] || mkdir -p "$above" 2>/dev/null || {{
        while [ -n "$above" ]; do
            [ ! -L "$above" ] || [ -e "$above" ] || exit {_NOT_FOUND}
            [ ! -e "$above" ] || [ -d "$above" ] || exit {_NO_DIRECTORY}
            above=${{above%/*}}
        done
        mkdir -p "${{1%/*}}" || exit {_NO_RIGHT}
    }}
}}
takes_input() {{ # run a program on our input; TERM ends it, and has `cut_off` clear away what it has begun
    exec 3<&0
    trap '[ -z "$!" ] || {{ kill -STOP $!; cut_off $!; kill -KILL $!; }}; exit 143' TERM
    "$@" <&3 &
    wait $!
}}
is_ours() {{ # one of the places that a box is made of
    case $1 in / | /workspace | "$HOME" | /tmp | /home | /var | /var/lib | /var/lib/boxflow*) exit {_OWN_PLACE} ;; esac
}}
"""

# path, offset, limit or "-"
READ: Final = (
    _COMMON
    + r"""
is_there "$1"; resolves "$1"; is_plain "$1"
if [ "$2" = 0 ] && [ "$3" = - ]; then exec cat <"$1"; fi
if [ "$3" = - ]; then exec tail -c "+$(($2 + 1))" <"$1"; fi
tail -c "+$(($2 + 1))" <"$1" 2>/dev/null | head -c "$3"
"""
)

# path, name for the new content meanwhile, mode or "-"; the content comes as input
WRITE: Final = (
    _COMMON
    + rf"""
at=$1
if [ -L "$at" ]; then
    # What a link leads to is written, not the link. "x" keeps a new line at the end of a name.
    at=$(readlink -f "$at"; echo x); at=${{at%?x}}
    [ -n "$at" ] || exit {_NOT_FOUND}
    above=${{at%/*}}; [ -d "${{above:-/}}" ] || exit {_NOT_FOUND}
fi
[ ! -d "$at" ] || exit {_IS_DIRECTORY}
[ ! -e "$at" ] || [ -f "$at" ] || exit {_IS_SPECIAL}
make_above "$at"
[ -w "${{at%/*}}/" ] || exit {_NO_RIGHT}
mode=$3
[ "$mode" != - ] || [ ! -e "$at" ] || mode=$(stat -c %a "$at" 2>/dev/null) || mode=-
beside=${{at%/*}}/$2
cut_off() {{ rm -f "$beside"; }}
trap cut_off EXIT
trap 'exit 143' TERM
takes_input cat >"$beside" || exit
[ "$mode" = - ] || chmod "$mode" "$beside" || exit
mv -f -T "$beside" "$at" || exit
trap - EXIT
"""
)

# path, what each line begins with, depth or "-"
LIST: Final = (
    _COMMON
    + rf"""
is_there "$1"; resolves "$1"
[ -d "$1" ] || exit {_NO_DIRECTORY}
[ -r "$1" ] && [ -x "$1" ] || exit {_NO_RIGHT}
top=${{1%/}}/.
# Names may hold new lines; what a line begins with nobody can guess. What vanishes meanwhile is no error.
if [ "$3" = - ]; then find "$top" -mindepth 1 -exec stat -c "$2 %f %s %Y %n" {{}} + 2>/dev/null
else find "$top" -mindepth 1 -maxdepth 1 -exec stat -c "$2 %f %s %Y %n" {{}} + 2>/dev/null; fi
exit 0
"""
)

# path, what the line begins with
STAT: Final = _COMMON + 'is_there "$1"\nexec stat -c "$2 %f %s %Y %n" "$1"\n'

# path
MAKE_DIRECTORY: Final = (
    _COMMON
    + rf"""
[ -d "$1" ] && exit 0
make_above "$1/x"
[ -d "$1" ] || exit {_NO_DIRECTORY}
"""
)

# path, to
RENAME: Final = (
    _COMMON
    + rf"""
is_there "$1"; is_ours "$1"; is_ours "$2"
make_above "$2"
if [ -d "$2" ] && [ ! -L "$2" ]; then
    # An empty directory is replaced by a directory, as rename(2) does it; nothing else is.
    [ -d "$1" ] && [ ! -L "$1" ] && [ ! "$1" -ef "$2" ] && rmdir "$2" 2>/dev/null || exit {_IS_DIRECTORY}
elif [ -d "$1" ] && [ ! -L "$1" ]; then
    missing "$2" || exit {_NO_DIRECTORY}
fi
mv -f -T "$1" "$2"
"""
)

# path
REMOVE: Final = (
    _COMMON
    + r"""
is_there "$1"; is_ours "$1"
rm -rf "$1" 2>/dev/null && exit 0
# Directories that were made unwritable are no obstacle to their owner.
[ -L "$1" ] || chmod -R u+rwx "$1" 2>/dev/null
exec rm -rf "$1"
"""
)

# path; a tar comes as input
UNPACK: Final = (
    _COMMON
    + rf"""
[ -d "$1" ] || {{ make_above "$1/x"; }}
[ -d "$1" ] || exit {_NO_DIRECTORY}
cd "$1" || exit {_NO_RIGHT}
cut_off() {{ # the file that is half there is the one that is open
    for open in /proc/"$1"/fd/*; do
        [ -f "$open" ] || continue
        half=$(readlink "$open"; echo x)
        rm -f "${{half%?x}}"
    done
}}
takes_input tar -x -p -o -f -
"""
)

# path; first a line that says what it is: "directory" or "file MODE"
PACK: Final = (
    _COMMON
    + rf"""
is_there "$1"; resolves "$1"
if [ -d "$1" ]; then
    cd "$1" 2>/dev/null || exit {_NO_RIGHT}
    echo directory
    exec tar -c -f - .
fi
is_plain "$1"
echo "file $(stat -L -c %a "$1")"
exec cat <"$1"
"""
)


def error_of(code: int, said: str, path: str, box_id: str) -> SandboxError:
    """What an exit status of one of these programs means."""
    where = f"{path!r} in box {box_id!r}"
    match code:
        case c if c == _NOT_FOUND:
            return BoxFileNotFoundError(f"there is no {where}")
        case c if c == _IS_DIRECTORY:
            return SandboxError(f"{where} is a directory, not a file")
        case c if c == _NO_DIRECTORY:
            return SandboxError(f"{where} is no directory, or lies below what is none")
        case c if c == _IS_SPECIAL:
            return SandboxError(f"{where} is a pipe, a socket or a device, not a file")
        case c if c == _NO_RIGHT:
            return SandboxError(f"the box's user may not do that to {where}")
        case c if c == _OWN_PLACE:
            return SandboxError(f"{where} is one of the box's own directories; it stays, delete the box instead")
        case 137 | 143:
            return SandboxError(f"the box ended before {where} was done with")
        case _:
            return SandboxError(f"cannot do that to {where}: {said.strip()[-500:] or f'status {code}'}")


def absolute(path: str, working_directory: str) -> str:
    """The path as the box's programs take it.

    :raises BoxPathError: it leads out of the box, or cannot be a path
    """
    if "\0" in path:
        raise BoxPathError(f"{path!r} cannot be a path: there is a zero byte in it")
    try:
        path.encode()
    except UnicodeEncodeError as exc:
        raise BoxPathError(f"{path!r} cannot be a path: Docker takes names that are UTF-8 only") from exc
    whole = path if path.startswith("/") else f"{working_directory}/{path}"
    depth = 0
    for part in whole.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(part, 1)
        if depth < 0:
            raise BoxPathError(f"{path!r} leads out of the box")
    parts = [part for part in whole.split("/") if part not in ("", ".")]
    return "/" + "/".join(parts)
