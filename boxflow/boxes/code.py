"""How is a program text run? By which interpreter, from which file, and what when the box has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from boxflow.boxes.command import ExecResult
from boxflow.errors import SandboxError

# For each language the file's name and what runs it, the first that the box has. Words are split, "{}" is the file.
_INTERPRETERS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "python": ("main.py", ("python3 {}", "python {}")),
    "javascript": ("main.mjs", ("node {}", "bun {}", "deno run -A {}")),
    # Node runs TypeScript by itself since 22.6, at first behind a flag (nodejs.org/api/typescript.html).
    "typescript": ("main.mts", ("bun {}", "deno run -A {}", "tsx {}", "node --experimental-strip-types {}")),
    "bash": ("main.sh", ("bash {}",)),
    "sh": ("main.sh", ("sh {}",)),
    "ruby": ("main.rb", ("ruby {}",)),
    "perl": ("main.pl", ("perl {}",)),
    "php": ("main.php", ("php {}",)),
    "go": ("main.go", ("go run {}",)),
}

_ALIASES: Final[Mapping[str, str]] = {
    "py": "python", "python3": "python", "js": "javascript", "node": "javascript", "ts": "typescript", "shell": "sh",
    "rb": "ruby", "pl": "perl", "golang": "go",
}  # fmt: skip

# No status that programs use, and checked together with the words: a program that exits so by itself is no error here.
_NO_INTERPRETER = 119
_NONE_OF = "boxflow: none of these is in the box: "

# $1 is the file's name, $2 the candidates, one a line; the program's arguments follow. The text comes as the input.
_SCRIPT: Final = rf"""
name=$1 candidates=$2; shift 2
set -f; IFS='
'
for candidate in $candidates; do
    IFS=' '; program=${{candidate%% *}}
    if command -v "$program" >/dev/null 2>&1; then
        place=$(mktemp -d "${{TMPDIR:-/tmp}}/boxflow-code.XXXXXX") || exit 1
        trap 'rm -rf "$place"' EXIT
        cat >"$place/$name" || exit 1
        before= after=
        for word in $candidate; do [ "$word" = '{{}}' ] || before="$before $word"; done
        $before "$place/$name" "$@" </dev/null
        exit
    fi
done
echo "{_NONE_OF}"$candidates >&2
exit {_NO_INTERPRETER}
"""


def code_argv(lang: str, args: Sequence[str]) -> tuple[str, ...]:
    """What to start; the program text is its input.

    :raises ValueError: a language that is not known
    """
    known = _ALIASES.get(lang.lower(), lang.lower())
    if known not in _INTERPRETERS:
        raise ValueError(f"code in {lang!r} cannot be run; known are {', '.join(sorted(_INTERPRETERS))}")
    name, candidates = _INTERPRETERS[known]
    return ("sh", "-c", _SCRIPT, "code", name, "\n".join(candidates), *args)


def missing_interpreter(result: ExecResult, lang: str, box: str) -> None:
    """:raises SandboxError: *result* says that the box has nothing to run *lang* with."""
    if result.exit_code == _NO_INTERPRETER and result.stderr.startswith(_NONE_OF):
        raise SandboxError(
            f"box {box!r} has nothing to run {lang} with; make it from an image that has it: "
            + result.stderr.removeprefix("boxflow: ").strip()
        )
