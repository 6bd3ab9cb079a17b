"""How does an agent program get onto this machine, and where is it then?"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import attrs

from boxflow.agent_programs.catalogue import AgentProgram, Manager, Source, program_of
from boxflow.agent_programs.running import Ran, run
from boxflow.boxes.agent_places import default_directory
from boxflow.boxes.shielded import finish
from boxflow.errors import BoxflowError

# The programs have some hundred megabytes: a slow line takes minutes for one.
INSTALL_TIMEOUT_S: Final = 900.0
# opencode takes 3 s for it on a busy machine.
VERSION_TIMEOUT_S: Final = 60.0

_STAGING: Final = ".installing-"
_ABANDONED_S: Final = 2 * INSTALL_TIMEOUT_S
_REMOVAL_S: Final = 60.0

# What npm and pip say when nobody answers.
_UNREACHABLE: Final = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ERR_SOCKET_TIMEOUT|"
    r"NewConnectionError|ConnectTimeout|Name or service not known|Temporary failure in name resolution"
)
_UNKNOWN: Final = re.compile(r"\bE404\b|\bETARGET\b|No matching distribution found")


class AgentInstallError(BoxflowError):
    """An agent program could not be installed; `.agent` is its name, `.output` what the package manager said."""

    def __init__(self, agent: str, why: str, output: str = "") -> None:
        tail = "\n  ".join(output.splitlines()[-10:])
        super().__init__(f"{agent!r} cannot be installed: {why}" + (f"\n  {tail}" if tail else ""))
        self.agent = agent
        self.output = output


@attrs.frozen(kw_only=True)
class Installed:
    """An agent program that is there.

    :param version: of the program itself, as it says
    :param program: its file, which needs nothing outside of *directory*
    :param directory: with everything that it needs
    """

    name: str
    version: str
    program: Path
    directory: Path


def find(name: str, directory: str | Path | None = None) -> Path | None:
    """Where the agent program is: installed in *directory*, or by default in the usual one, or on PATH; else None.

    :raises ConfigurationError: there is no such program
    """
    program = program_of(name)
    linked = Path(directory or default_directory()) / "bin" / program.program
    if linked.exists():
        return linked
    on_path = None if directory else shutil.which(program.program)
    return Path(on_path) if on_path else None


async def install(
    name: str,
    directory: str | Path | None = None,
    *,
    manager: Manager | None = None,
    timeout_s: float = INSTALL_TIMEOUT_S,
) -> Installed:
    """Install the agent program *name*, in the version that boxflow is tested with; nothing when it is there already.

    It is in `directory/bin` then, complete: it was started once before it got there. Cancelled or failed, it leaves
    nothing new behind; several at once, in several processes, do not disturb each other.

    :param directory: `default_directory()` when None
    :param manager: npm where it is there, else PyPI, when None
    :raises AgentInstallError: it cannot be had, or does not run here; says what to do
    :raises ConfigurationError: there is no such program, or *manager* does not have it
    """
    program = program_of(name)
    chosen = manager or _manager(program)
    source = program.source(chosen)
    root = Path(directory or default_directory())
    home = root / f"{name}-{chosen}-{source.version}"
    threads = anyio.CapacityLimiter(1)
    if await anyio.to_thread.run_sync(_look, program, home, limiter=threads) is None:
        staging = root / f"{_STAGING}{name}-{secrets.token_hex(4)}"
        await anyio.to_thread.run_sync(_prepare, root, staging, limiter=threads)
        try:
            await _lay_down(program, chosen, source, staging, timeout_s)
            candidates = await anyio.to_thread.run_sync(_candidates, source, staging, limiter=threads)
            binary, version = await _first_that_runs(program, source, candidates, staging)
            note = f"{binary.relative_to(binary.parents[source.depth - 1])}\n{version}\n"
            await anyio.to_thread.run_sync(_move, binary.parents[source.depth - 1], home, note, limiter=threads)
        finally:
            await finish(anyio.to_thread.run_sync(_remove, staging, limiter=threads), timeout_s=_REMOVAL_S)
    return await anyio.to_thread.run_sync(_link, program, home, root, limiter=threads)


# --- what a package manager does -------------------------------------------------------------------------------------


def _manager(program: AgentProgram) -> Manager:
    if "npm" in program.sources and shutil.which("npm") is None and "pypi" in program.sources:
        return "pypi"
    return next(iter(program.sources))


async def _lay_down(program: AgentProgram, manager: Manager, source: Source, staging: Path, timeout_s: float) -> None:
    argv = _npm(program, source, staging) if manager == "npm" else _pip(source, staging)
    # The user's own environment: proxies, registries and credentials for them are there.
    ran = await run(argv, env=os.environ, timeout_s=timeout_s)
    if ran.exit_code != 0:
        raise AgentInstallError(program.name, _reason(ran, manager, source, timeout_s), ran.output)


def _npm(program: AgentProgram, source: Source, staging: Path) -> Sequence[str]:
    npm = shutil.which("npm")
    if npm is None:
        instead = "; or take it from PyPI, manager='pypi'" if "pypi" in program.sources else ""
        raise AgentInstallError(program.name, f"there is no npm; Debian: apt-get install npm{instead}")
    # Its packages' scripts only put the binary in front of a wrapper, and what is taken is the binary. They demand a
    # newer Node.js than many machines have, for that wrapper.
    quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    lenient = ["--ignore-scripts", "--engine-strict=false", "--include=optional"]
    return [npm, "install", *quiet, *lenient, "--prefix", str(staging), f"{source.package}@{source.version}"]


def _pip(source: Source, staging: Path) -> Sequence[str]:
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-compile"]
    what = ["--no-deps", "--target", str(staging), f"{source.package}=={source.version}"]
    return [sys.executable, "-m", "pip", "install", *quiet, *what]


def _reason(ran: Ran, manager: Manager, source: Source, timeout_s: float) -> str:
    if ran.exit_code is None:
        return f"{manager} was not done after {timeout_s:g} s; look at the network, or give it longer (timeout_s=)"
    if _UNREACHABLE.search(ran.output):
        return f"{manager}'s registry does not answer; look at the network, at proxies, and at {manager}'s settings"
    if _UNKNOWN.search(ran.output):
        return f"the registry has no {source.package} {source.version} for this machine"
    if "No module named pip" in ran.output:
        return "this Python has no pip; run `python -m ensurepip`"
    return f"{manager} failed with exit status {ran.exit_code}"


# --- from the package to the program ---------------------------------------------------------------------------------


async def _first_that_runs(
    program: AgentProgram, source: Source, candidates: Sequence[Path], staging: Path
) -> tuple[Path, str]:
    """The binary that runs, and the version that it tells."""
    told = ""
    for candidate in candidates:
        ran = await version_of(candidate, staging)
        if ran.exit_code == 0 and (found := re.search(r"\d+\.\d+[\w.+-]*", ran.output)):
            return candidate, found[0]
        told = ran.output or f"{candidate.name} --version says nothing within {VERSION_TIMEOUT_S:g} s"
    if told:
        raise AgentInstallError(program.name, "it does not run on this machine", told)
    raise AgentInstallError(program.name, f"{source.package} {source.version} has no binary for this machine")


async def version_of(program: Path, home: Path) -> Ran:
    """What the program says to `--version`, with *home* as its home.

    :raises OSError: it cannot be started
    """
    # Nothing else of the environment: it must run in a box, too.
    env = {"PATH": os.defpath, "HOME": str(home)}
    return await run([str(program), "--version"], env=env, timeout_s=VERSION_TIMEOUT_S)


# --- files: in threads -----------------------------------------------------------------------------------------------

# Beside the program; its lines are the program's place and its version.
_NOTE: Final = ".boxflow-program"


def _prepare(root: Path, staging: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(f"{_STAGING}*"):
        # By somebody who was killed: nobody takes that long.
        if time.time() - left.lstat().st_mtime > _ABANDONED_S:
            _remove(left)
    staging.mkdir()


def _candidates(source: Source, staging: Path) -> Sequence[Path]:
    return [found for pattern in source.programs for found in sorted(staging.glob(pattern))]


def _move(installed: Path, home: Path, note: str) -> None:
    (installed / _NOTE).write_text(note)
    try:
        installed.rename(home)
    except OSError as exc:
        # Somebody else may have been faster, with the same.
        if not (home / _NOTE).exists():
            what = "something else is in the place of an agent program; move it away"
            raise FileExistsError(exc.errno, what, str(home)) from exc


def _look(program: AgentProgram, home: Path) -> Installed | None:
    try:
        place, version = (home / _NOTE).read_text().splitlines()
    except FileNotFoundError:
        return None
    return Installed(name=program.name, version=version, program=home / place, directory=home)


def _link(program: AgentProgram, home: Path, root: Path) -> Installed:
    installed = _look(program, home)
    assert installed is not None
    link = root / "bin" / program.program
    link.parent.mkdir(exist_ok=True)
    # Relative, so that the whole directory can be moved, or be somewhere else in a box.
    target = Path("..", home.name, installed.program.relative_to(home))
    if not (link.is_symlink() and link.readlink() == target):
        # A new link put in place of the old one: there is a program at any moment.
        new = link.with_name(f".{link.name}-{secrets.token_hex(4)}")
        new.symlink_to(target)
        new.replace(link)
    return installed


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
