"""`boxflow`: what is done by hand. Running, serving and steering runs, looking at boxes, and at what this machine has.

main.py             the command, from its words to its exit code       failures.py   which exit code is which error
*_commands.py       what each command takes, and what it prints        printing.py   what may reach a terminal
clients.py          what commands ask of where the runs are: http_runs.py, store_runs.py, http_boxes.py,
sandbox_boxes.py
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

NEEDED = ("click", "rich")


def main() -> int:
    """Do what the command line says, and return the exit code; docs/command-line.md has what each means."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.stderr.write(f"boxflow: the command needs {' and '.join(missing)}: pip install 'boxflow[cli]'\n")
        return 2
    from boxflow.cli.main import run

    return run()
