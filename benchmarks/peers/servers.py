"""How do the peers' servers run? Real ones, on loopback, with a directory of their own, kept by a keeper each.

Their durability is the default one. What else is set is in the commands below: ports, and what makes them quiet.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import attrs

from benchmarks.peers.errors import PeerUnavailableError
from benchmarks.peers.installing import program_of
from benchmarks.rounds import ROOT

READY_WITHIN_S = 30.0


@attrs.frozen(kw_only=True)
class Server:
    """A server that answers."""

    address: str = ""
    pids: tuple[int, ...] = ()


@contextmanager
def kept(
    command: list[str],
    log: Path,
    *,
    signal: str = "SIGKILL",
    user: str | None = None,
    answers: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Generator[tuple[int, IO[str]], None, None]:
    """A command with a keeper: its process id, and its output if it *answers*. Leaving ends it and all its children."""
    told, telling = os.pipe()  # Not the output, where what the command prints could come between.
    options = ["--signal", signal, "--log", str(log), "--tell", str(telling), *(["--user", user] if user else [])]
    options += ["--answers"] if answers else []
    keeper = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers.keeper", *options, "--", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        start_new_session=True,  # So that a Ctrl-C reaches us, and the keeper through us.
        pass_fds=[telling],
    )
    os.close(telling)
    assert keeper.stdin is not None and keeper.stdout is not None
    try:
        with os.fdopen(told) as words:
            first = words.readline()
        if not first:
            raise PeerUnavailableError(f"{command[0]} cannot be started: {last_line(log)}")
        yield int(first), keeper.stdout
    finally:
        keeper.stdin.close()
        keeper.wait()  # No deadline: the keeper has one for what it keeps.
        keeper.stdout.close()


@contextmanager
def serving(kind: str, directory: Path) -> Generator[Server, None, None]:
    """The server of that kind, ready; none for an empty one.

    :raises PeerUnavailableError: it is not here, or does not answer
    """
    if not kind:
        yield Server()
        return
    name, _, setting = kind.partition("-")
    with {"postgres": postgres, "temporal": temporal, "restate": restate}[name](directory, setting) as server:
        yield server


@contextmanager
def postgres(directory: Path, _setting: str) -> Generator[Server, None, None]:
    """PostgreSQL with a cluster of its own, as `postgres` or `nobody` where we are root, whom it refuses."""
    bin_directory = _postgres_programs()
    user = _unprivileged()
    data, port = directory / "postgres", free_port()
    data.mkdir(mode=0o700)
    if user is not None:
        directory.chmod(0o711)
        shutil.chown(data, user, user)
    make = [str(bin_directory / "initdb"), "--pgdata", str(data), "--auth=trust", "--username=postgres"]
    make += ["--encoding=UTF8", "--locale=C"]
    try:
        subprocess.run(
            make,
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
            cwd="/",
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
    except subprocess.CalledProcessError as error:
        raise PeerUnavailableError(f"initdb failed: {error.stderr.strip().splitlines()[-1][:200]}") from error
    command = [str(bin_directory / "postgres"), "-D", str(data), "-p", str(port)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}"]
    # SIGQUIT ends it at once, and takes its shared memory along, which SIGKILL would leave.
    with kept(command, directory / "server.log", signal="SIGQUIT", user=user) as (pid, _):
        is_ready = [str(bin_directory / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        _until_ready(lambda: subprocess.run(is_ready, check=False, timeout=10).returncode == 0, pid, directory)
        yield Server(address=f"postgresql://postgres@127.0.0.1:{port}/postgres", pids=(pid,))


def _postgres_programs() -> Path:
    places = [Path(found).parent for name in ("postgres", "initdb") if (found := shutil.which(name))]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if all((place / name).exists() for name in ("postgres", "initdb", "pg_isready")):
            return place
    raise PeerUnavailableError("PostgreSQL is not on this machine; install it (Debian: apt-get install postgresql)")


def _unprivileged() -> str | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextmanager
def temporal(directory: Path, setting: str) -> Generator[Server, None, None]:
    """Temporal's development server with a SQLite file; `tuned` lifts its limit of 20 polls a second of each queue."""
    program, port = program_of("temporal", "bin", "temporal"), free_port()
    address = f"127.0.0.1:{port}"
    command = [program, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)]
    command += ["--db-filename", str(directory / "temporal.db"), "--log-level", "error"]
    if setting == "tuned":
        for queue in ("transfer", "timer", "visibility"):
            command += ["--dynamic-config-value", f"history.{queue}ProcessorMaxPollRPS=100000"]
    health = [program, "operator", "namespace", "describe", "default", "--address", address]
    with kept(command, directory / "server.log") as (pid, _):
        _until_ready(
            lambda: subprocess.run(health, check=False, capture_output=True, timeout=20).returncode == 0, pid, directory
        )
        yield Server(address=address, pids=(pid,))


@contextmanager
def restate(directory: Path, _setting: str) -> Generator[Server, None, None]:
    """Restate's server, one node."""
    program = program_of("restate", *_restate_program())
    ingress, admin, node = (f"127.0.0.1:{free_port()}" for _ in range(3))
    environment = {
        "RESTATE_BASE_DIR": str(directory / "restate"),
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_BIND_ADDRESS": node,
        "RESTATE_INGRESS__BIND_ADDRESS": ingress,
        "RESTATE_ADMIN__BIND_ADDRESS": admin,
        "RESTATE_NODE_NAME": "node",
        "RESTATE_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "RUST_LOG": "error",
    }
    health = [f"http://{admin}/health", f"http://{ingress}/restate/health"]
    with kept([program, "--no-logo"], directory / "server.log", environment=environment) as (pid, _):
        _until_ready(lambda: all(map(_answers, health)), pid, directory)
        yield Server(address=f"http://{ingress} http://{admin}", pids=(pid,))


def _restate_program() -> tuple[str, ...]:
    machine = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(os.uname().machine, os.uname().machine)
    package = f"restate-server-{sys.platform}-{machine}"
    return ("node_modules", "@restatedev", package, "bin", "restate-server")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _until_ready(is_ready: Callable[[], bool], pid: int, directory: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not is_ready():
        if not Path(f"/proc/{pid}").exists():
            raise PeerUnavailableError(f"its server ended: {last_line(directory / 'server.log')}")
        if time.monotonic() > deadline:
            raise PeerUnavailableError(f"its server was not ready after {READY_WITHIN_S:g} s")
        time.sleep(0.05)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def last_line(log: Path) -> str:
    """What a program has said last, for a reason."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][:300] if lines else "it said nothing"
