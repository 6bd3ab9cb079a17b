"""What of all that boxflow may use is on this machine, does it work, and what is to be done about it if not?"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import attrs

from boxflow.agent_programs.catalogue import PROGRAMS, AgentProgram
from boxflow.agent_programs.docker_engine import connect, engine_address
from boxflow.agent_programs.installing import find, version_of
from boxflow.agent_programs.running import run
from boxflow.errors import ConfigurationError

_ASK_S: Final = 10.0


@attrs.frozen(kw_only=True)
class Finding:
    """What was found of one thing.

    :param detail: its version and place, or what is wrong with it
    :param advice: what to do; empty when it is in order
    """

    name: str
    status: Literal["ok", "missing", "broken"]
    detail: str = ""
    advice: str = ""


async def doctor(directory: str | Path | None = None) -> list[Finding]:
    """Look at Python, at what installs agent programs, at those themselves, and at what boxes are made with.

    Nothing is changed, and nothing is asked outside of this machine. It takes as long as the slowest program takes to
    tell its version.

    :param directory: where agent programs are installed; see `find`
    """
    programs = [_agent(program, directory) for program in PROGRAMS.values()]
    install_node = "needed to install agent programs from npm; Debian: apt-get install npm"
    checks = [
        _python(),
        _tool("node", install_node),
        _tool("npm", install_node),
        _tool("git", "needed for `box.git`; Debian: apt-get install git"),
        *programs,
        _docker(),
        _bubblewrap(),
    ]
    return list(await asyncio.gather(*checks))


async def _python() -> Finding:
    # One that is too old does not get as far as this.
    return Finding(name="python", status="ok", detail=f"{platform.python_version()} ({sys.executable})")


async def _tool(name: str, advice: str) -> Finding:
    path = shutil.which(name)
    if path is None:
        return Finding(name=name, status="missing", detail="not on PATH", advice=advice)
    return await _asked(name, [path, "--version"], path, advice, os.environ)


async def _asked(name: str, argv: list[str], path: str, advice: str, env: Mapping[str, str]) -> Finding:
    try:
        ran = await run(argv, env=env, timeout_s=_ASK_S)
    except OSError as exc:
        return Finding(name=name, status="broken", detail=f"{path} cannot be started: {exc}", advice=advice)
    last = ran.output.splitlines()[-1] if ran.output else ""
    if ran.exit_code is None:
        return Finding(name=name, status="broken", detail=f"{path} does not end", advice=advice)
    if ran.exit_code != 0:
        detail = f"{path} fails with exit status {ran.exit_code}: {last}"
        return Finding(name=name, status="broken", detail=detail, advice=advice)
    return Finding(name=name, status="ok", detail=f"{last} ({path})" if last else path)


async def _agent(program: AgentProgram, directory: str | Path | None) -> Finding:
    install = f"boxflow agents install {program.name}"
    path = find(program.name, directory)
    if path is None:
        detail = f"no {program.program}" + ("" if directory else " on PATH or where boxflow installs it")
        return Finding(name=program.name, status="missing", detail=detail, advice=install)
    with tempfile.TemporaryDirectory(prefix="boxflow-doctor-", ignore_cleanup_errors=True) as home:
        try:
            ran = await version_of(path, Path(home))
        except OSError as exc:
            return Finding(
                name=program.name, status="broken", detail=f"{path} cannot be started: {exc}", advice=install
            )
    if ran.exit_code != 0:
        detail = f"{path} --version fails: {ran.output[-200:]}"
        return Finding(name=program.name, status="broken", detail=detail, advice=install)
    version = ran.output.splitlines()[-1]
    tested = {source.version for source in program.sources.values()}
    known = any(one in version for one in tested)
    remark = "" if known else f", another version than boxflow is tested with ({', '.join(sorted(tested))})"
    return Finding(name=program.name, status="ok", detail=f"{version} ({path}){remark}")


async def _docker() -> Finding:
    import httpx

    address = engine_address()
    advice = "needed for `docker:` boxes; start it, or set DOCKER_HOST"
    try:
        async with asyncio.timeout(_ASK_S), connect(address, timeout_s=_ASK_S) as engine:
            answer = await engine.get("/version")
    except ConfigurationError as exc:
        return Finding(name="docker", status="broken", detail=str(exc), advice=advice)
    except (httpx.TransportError, TimeoutError) as exc:
        status: Literal["missing", "broken"] = "missing" if isinstance(exc, httpx.ConnectError) else "broken"
        return Finding(name="docker", status=status, detail=f"no engine answers at {address}: {exc}", advice=advice)
    if answer.status_code != 200:
        detail = f"the engine at {address} answers {answer.status_code}"
        return Finding(name="docker", status="broken", detail=detail, advice=advice)
    return Finding(name="docker", status="ok", detail=f"{answer.json()['Version']} ({address})")


async def _bubblewrap() -> Finding:
    path = shutil.which("bwrap")
    advice = "only for `local:` boxes with a profile of bubblewrap; Debian: apt-get install bubblewrap"
    if path is None:
        return Finding(name="bubblewrap", status="missing", detail="no bwrap on PATH", advice=advice)
    argv = [path, "--ro-bind", "/", "/", "--unshare-all", path, "--version"]
    advice = "the kernel must let this user make namespaces (sysctl kernel.unprivileged_userns_clone, AppArmor)"
    return await _asked("bubblewrap", argv, path, advice, os.environ)
