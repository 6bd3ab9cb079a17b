"""Who ends a server or a driver, also when its runner is killed? `python -m benchmarks.peers.keeper ... -- COMMAND`.

The command runs in a process group of its own. When the keeper's standard input ends, because the runner closed it or
is gone, the command gets a signal, and its whole group SIGKILL when that has ended it or some seconds are over. Its
process id is written to the descriptor that `--tell` names.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.peers.protocol import SPAWNED_AT

PATIENCE_S = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.keeper")
    parser.add_argument("--signal", default="SIGKILL", help="what ends the command")
    parser.add_argument("--user", help="whom the command runs as")
    parser.add_argument("--log", type=Path, required=True, help="where its standard error goes, and its output")
    parser.add_argument("--tell", type=int, required=True, help="the descriptor to which its process id is written")
    parser.add_argument("--answers", action="store_true", help="its output is ours")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    with options.log.open("ab") as log:
        process = subprocess.Popen(
            options.command,
            stdin=subprocess.DEVNULL,
            stdout=None if options.answers else log,
            stderr=log,
            env={**os.environ, SPAWNED_AT: str(time.time())},
            start_new_session=True,
            user=options.user,
            group=options.user,
            extra_groups=[] if options.user else None,
        )
    os.write(options.tell, f"{process.pid}\n".encode())
    os.close(options.tell)
    asked = signal.Signals[options.signal]
    threading.Thread(target=end_with_input, args=(process, asked), daemon=True).start()
    code = process.wait()  # No deadline: the runner has one, and closes our input then.
    kill_group(process.pid)
    return code


def end_with_input(process: subprocess.Popen[bytes], asked: signal.Signals) -> None:
    while os.read(0, 4096):  # Not `sys.stdin`, whose lock this thread would hold when the interpreter ends.
        pass
    process.send_signal(asked)
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        kill_group(process.pid)


def kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass  # All of it has ended.


if __name__ == "__main__":
    sys.exit(main())
