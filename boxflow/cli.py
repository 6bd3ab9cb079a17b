"""`boxflow`: what is done by hand. So far: agent programs, and what this machine has."""

from __future__ import annotations

import sys

from boxflow.agent_programs.__main__ import main as agents

USAGE = """\
usage: boxflow agents install NAME... [--directory DIR]      claude-code, codex, opencode; pinned
       boxflow agents image NAME... --base IMAGE --tag TAG   an image with installed ones, for boxes
       boxflow doctor                                        what is there, and what to do about what is not
"""


def main() -> int:
    """Do what the command line says; 0 when it could be done, 2 when it was not understood."""
    match sys.argv[1:]:
        case ["agents", *rest]:
            return agents(rest, prog="boxflow agents")
        case ["doctor", *rest]:
            return agents(["doctor", *rest], prog="boxflow")
        case ["-h" | "--help"]:
            sys.stdout.write(USAGE)
            return 0
        case _:
            sys.stderr.write(USAGE)
            return 2


if __name__ == "__main__":
    sys.exit(main())
