"""Agent programs are installed whole or not at all, found, put into images, examined; package managers are doubles."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from boxflow.agent_programs import (
    PROGRAMS,
    AgentInstallError,
    Finding,
    build_image,
    default_directory,
    dockerfile,
    doctor,
    find,
    install,
    write_build_context,
)
from boxflow.agent_programs.docker_engine import engine_address
from boxflow.errors import ConfigurationError, ImageNotFoundError, SandboxUnavailableError

NATIVE = {
    "claude-code": "node_modules/@anthropic-ai/claude-code-linux-x64/claude",
    "codex": "node_modules/@openai/codex-linux-x64/vendor/x86_64/bin/codex",
    "opencode": "node_modules/opencode-linux-x64/bin/opencode",
}


class Machine:
    """Programs on PATH that a test writes, and where they put things."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "path"
        self.agents = directory / "agents"
        self.calls = directory / "calls"
        self.path.mkdir()
        # The shell and its programs, and no node, npm, git or bwrap of this machine.
        for name in ("sh", "cat", "mkdir", "chmod", "sleep", "env"):
            real = next(Path(one, name) for one in ("/bin", "/usr/bin") if Path(one, name).exists())
            (self.path / name).symlink_to(real)

    def program(self, name: str, *lines: str) -> None:
        file = self.path / name
        file.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        file.chmod(0o755)

    def npm(self, *lines: str, programs: dict[str, str] | None = None) -> None:
        """An npm that notes that it was called, does *lines*, and lays down programs that are shell scripts."""
        call = f'echo $PPID "$@" >> {shlex.quote(str(self.calls))}'
        find_prefix = 'while [ "$1" != --prefix ]; do shift; done; prefix=$2'
        laying = []
        for place, script in (programs or {}).items():
            file = f'"$prefix"/{shlex.quote(place)}'
            folder = f'"$prefix"/{shlex.quote(str(Path(place).parent))}'
            text = shlex.quote(f"#!/bin/sh\n{script}\n")
            laying.append(f"mkdir -p {folder}; printf %s {text} > {file}; chmod +x {file}")
        self.program("npm", call, find_prefix, *lines, *laying)

    @property
    def left_behind(self) -> list[str]:
        return sorted(one.name for one in self.agents.glob(".*")) if self.agents.exists() else []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(machine.path))
    monkeypatch.setenv("BOXFLOW_AGENTS", str(machine.agents))
    monkeypatch.setenv("HOME", str(tmp_path))
    return machine


def version_of(name: str) -> str:
    return PROGRAMS[name].sources["npm"].version


# --- installing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PROGRAMS))
async def test_a_program_is_there_after_it_was_installed(machine: Machine, name: str) -> None:
    machine.npm(programs={NATIVE[name]: f"echo {name} {version_of(name)}"})
    assert find(name) is None
    installed = await install(name)
    assert (installed.name, installed.version) == (name, version_of(name))
    assert find(name) == machine.agents / "bin" / PROGRAMS[name].program
    assert installed.program.samefile(machine.agents / "bin" / PROGRAMS[name].program)
    source = PROGRAMS[name].sources["npm"]
    assert f"{source.package}@{source.version}" in machine.calls.read_text()
    assert machine.left_behind == []


async def test_installing_twice_installs_once_and_mends_the_link(machine: Machine) -> None:
    machine.npm(programs={NATIVE["codex"]: "echo codex 0.169.0"})
    first = await install("codex")
    link = machine.agents / "bin" / "codex"
    link.unlink()
    link.symlink_to("/nowhere")
    assert await install("codex") == first
    assert link.samefile(first.program)
    assert len(machine.calls.read_text().splitlines()) == 1


async def test_several_at_once_end_with_one(machine: Machine) -> None:
    machine.npm("sleep 0.2", programs={NATIVE["codex"]: "echo codex 0.169.0"})
    one, other = await asyncio.gather(install("codex"), install("codex"))
    assert one == other
    assert sorted(path.name for path in machine.agents.iterdir()) == ["bin", "codex-npm-0.169.0"]


async def test_what_a_program_needs_comes_with_it_and_what_it_does_not_stays_away(machine: Machine) -> None:
    home = "node_modules/@openai/codex-linux-x64/vendor/x86_64"
    extra = {f"{home}/codex-path/rg": "echo rg", "node_modules/@openai/codex/bin/codex.js": "echo wrapper"}
    machine.npm(programs={NATIVE["codex"]: "echo codex 0.169.0", **extra})
    installed = await install("codex")
    files = sorted(str(one.relative_to(installed.directory)) for one in installed.directory.rglob("*") if one.is_file())
    assert files == [".boxflow-program", "bin/codex", "codex-path/rg"]


async def test_the_binary_that_runs_here_is_taken(machine: Machine) -> None:
    baseline = "node_modules/opencode-linux-x64-baseline/bin/opencode"
    machine.npm(programs={NATIVE["opencode"]: "echo illegal instruction; exit 132", baseline: "echo 1.18.33"})
    installed = await install("opencode")
    assert (installed.version, installed.program.read_text()) == ("1.18.33", "#!/bin/sh\necho 1.18.33\n")


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (
            "npm error code ENOTFOUND",
            "npm's registry does not answer; look at the network, at proxies, and at npm's settings",
        ),
        ("npm error code ETARGET", "the registry has no @openai/codex 0.169.0 for this machine"),
        ("npm error code EACCES", "npm failed with exit status 1"),
    ],
)
async def test_what_the_package_manager_says_becomes_advice(machine: Machine, says: str, why: str) -> None:
    machine.npm(f"echo {says} >&2; exit 1")
    with pytest.raises(AgentInstallError) as failed:
        await install("codex")
    assert str(failed.value) == f"'codex' cannot be installed: {why}\n  {says}"
    assert (failed.value.agent, failed.value.output) == ("codex", says)
    assert (machine.left_behind, find("codex")) == ([], None)


async def test_a_package_manager_that_does_not_end_is_ended(machine: Machine) -> None:
    machine.npm("sleep 600")
    began = time.monotonic()
    with pytest.raises(AgentInstallError, match=r"npm was not done after 0.3 s"):
        await install("codex", timeout_s=0.3)
    assert time.monotonic() - began < 10
    assert machine.left_behind == []


async def test_a_program_that_does_not_run_is_not_installed(machine: Machine) -> None:
    machine.npm(programs={NATIVE["codex"]: "echo no such library; exit 127"})
    with pytest.raises(AgentInstallError) as failed:
        await install("codex")
    assert str(failed.value) == "'codex' cannot be installed: it does not run on this machine\n  no such library"
    assert (machine.left_behind, find("codex")) == ([], None)


async def test_a_package_without_a_binary_for_this_machine_is_told(machine: Machine) -> None:
    machine.npm()
    with pytest.raises(AgentInstallError, match=r"@openai/codex 0.169.0 has no binary for this machine"):
        await install("codex")


async def test_cancelling_leaves_nothing_and_ends_the_package_manager(machine: Machine) -> None:
    machine.npm("echo $$ > $prefix/pid; exec sleep 600")
    task = asyncio.create_task(install("codex"))
    while not (pids := list(machine.agents.glob(".installing-*/pid"))) or not pids[0].read_text():
        await asyncio.sleep(0.01)
    pid = int(pids[0].read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert machine.left_behind == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_what_killed_installations_left_is_cleared_away(machine: Machine) -> None:
    machine.npm(programs={NATIVE["codex"]: "echo codex 0.169.0"})
    for name, age_s in (("old", 3600), ("new", 60)):
        left = machine.agents / f".installing-codex-{name}"
        (left / "node_modules").mkdir(parents=True)
        os.utime(left, (time.time() - age_s, time.time() - age_s))
    await install("codex")
    assert machine.left_behind == [".installing-codex-new"]


async def test_something_else_in_its_place_is_left_alone(machine: Machine) -> None:
    machine.npm(programs={NATIVE["codex"]: "echo codex 0.169.0"})
    mine = machine.agents / "codex-npm-0.169.0" / "mine"
    mine.mkdir(parents=True)
    with pytest.raises(FileExistsError, match="something else is in the place of an agent program; move it away"):
        await install("codex")
    assert mine.exists()


async def test_without_npm_it_comes_from_pypi_where_it_can(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    double = machine.path / "modules" / "pip.py"
    double.parent.mkdir()
    double.write_text(
        "import pathlib, sys\n"
        "target = pathlib.Path(sys.argv[sys.argv.index('--target') + 1]) / 'claude_agent_sdk' / '_bundled' / 'claude'\n"
        "target.parent.mkdir(parents=True)\n"
        "target.write_text('#!/bin/sh\\necho 2.1.330 ' + sys.argv[-1])\n"
        "target.chmod(0o755)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(double.parent))
    installed = await install("claude-code")
    assert installed.directory.name == "claude-code-pypi-0.2.187"
    assert installed.version == "2.1.330"
    with pytest.raises(AgentInstallError, match=r"there is no npm; Debian: apt-get install npm$"):
        await install("opencode")
    with pytest.raises(AgentInstallError, match="apt-get install npm; or take it from PyPI, manager='pypi'"):
        await install("codex", manager="npm")
    with pytest.raises(ConfigurationError, match="'opencode' does not come from pypi, only from npm"):
        await install("opencode", manager="pypi")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'copilot' cannot be installed, only claude-code, codex, opencode"):
        find("copilot")


def test_a_program_on_path_is_found_unless_a_directory_is_named(machine: Machine) -> None:
    machine.program("codex", "echo codex 0.1")
    assert find("codex") == machine.path / "codex"
    assert find("codex", machine.agents) is None


def test_programs_have_a_usual_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXFLOW_AGENTS", "/named")
    assert default_directory() == Path("/named")
    monkeypatch.delenv("BOXFLOW_AGENTS")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_directory() == Path("/data/boxflow/agents")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_directory() == Path("/home/me/.local/share/boxflow/agents")


# --- the examination -------------------------------------------------------------------------------------------------


async def examined(directory: Path | None = None) -> dict[str, Finding]:
    return {finding.name: finding for finding in await doctor(directory)}


async def test_on_a_bare_machine_everything_but_python_is_missing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    found = await examined()
    assert {name: one.status for name, one in found.items()} == {
        "python": "ok",
        **dict.fromkeys(["node", "npm", "git", "claude-code", "codex", "opencode", "docker", "bubblewrap"], "missing"),
    }
    assert found["codex"].advice == "boxflow agents install codex"
    assert all(one.advice for one in found.values() if one.status != "ok")


async def test_what_works_is_told_with_its_version_and_what_does_not_with_its_last_words(machine: Machine) -> None:
    machine.program("git", "echo git version 2.39")
    machine.program("node", "echo bad; exit 3")
    machine.program("bwrap", "echo 'No permissions to create new namespace'; exit 1")
    machine.program("claude", "echo '2.1.330 (Claude Code)'")
    machine.program("codex", "echo codex-cli 0.1.0")
    machine.program("opencode", "echo Segmentation fault; exit 139")
    found = await examined()
    path = machine.path
    assert (found["git"].status, found["git"].detail) == ("ok", f"git version 2.39 ({path / 'git'})")
    assert (found["node"].status, found["node"].detail) == ("broken", f"{path / 'node'} fails with exit status 3: bad")
    assert (found["bubblewrap"].status, found["bubblewrap"].advice[:10]) == ("broken", "the kernel")
    assert (found["claude-code"].status, found["claude-code"].detail) == (
        "ok",
        f"2.1.330 (Claude Code) ({path / 'claude'})",
    )
    assert "another version than boxflow is tested with (0.163.0, 0.169.0)" in found["codex"].detail
    assert (found["opencode"].status, "Segmentation fault" in found["opencode"].detail) == ("broken", True)


@pytest.mark.parametrize(("status", "expected"), [(200, "ok"), (500, "broken")])
async def test_a_docker_engine_is_asked_for_its_version(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, expected: str
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"Version": "29.1"}'
        writer.write(b"HTTP/1.1 %d It\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()
        writer.close()

    socket = tmp_path / "d.sock"
    server = await asyncio.start_unix_server(answer, socket)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
    docker = (await examined())["docker"]
    server.close()
    await server.wait_closed()
    assert (docker.status, docker.detail) == (
        expected,
        f"29.1 (unix://{socket})" if status == 200 else f"the engine at unix://{socket} answers 500",
    )


async def test_an_engine_that_is_reached_in_another_way_is_said_not_to_be_asked(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@there")
    assert (await examined())["docker"].detail == (
        "Docker's engine at 'ssh://me@there' is not asked from here; use the program `docker`"
    )


# --- images ----------------------------------------------------------------------------------------------------------


async def an_installed_codex(machine: Machine) -> None:
    home = "node_modules/@openai/codex-linux-x64/vendor/x86_64"
    machine.npm(programs={NATIVE["codex"]: "echo codex 0.169.0", f"{home}/codex-path/rg": "echo rg"})
    await install("codex")


async def test_a_build_context_has_the_programs_and_links_to_them(machine: Machine, tmp_path: Path) -> None:
    await an_installed_codex(machine)
    write_build_context(tmp_path / "context.tar", "codex", base="base:1")
    with tarfile.open(tmp_path / "context.tar") as archive:
        entries = {entry.name: entry for entry in archive}
        text = archive.extractfile("Dockerfile")
        assert text is not None and text.read() == b"FROM base:1\nCOPY root/ /\n"
    home = "root/opt/boxflow/agents/codex-npm-0.169.0"
    assert entries["root/usr/local/bin/codex"].linkname == "/opt/boxflow/agents/codex-npm-0.169.0/bin/codex"
    assert {f"{home}/bin/codex", f"{home}/codex-path/rg"} <= set(entries)
    assert {(one.uid, one.gid) for one in entries.values()} == {(0, 0)}
    assert entries[f"{home}/bin/codex"].mode == 0o755


async def test_an_image_of_what_is_not_installed_is_refused(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'codex' is not installed in .*; install it there first"):
        await build_image("codex", base="base:1", tag="agents:1")


async def test_an_engine_that_does_not_answer_is_told(machine: Machine) -> None:
    await an_installed_codex(machine)
    with pytest.raises(SandboxUnavailableError, match="Docker's engine at 'unix:///nowhere' does not answer"):
        await build_image("codex", base="base:1", tag="agents:1", address="unix:///nowhere")


def test_a_dockerfile_has_the_pinned_packages() -> None:
    text = dockerfile("claude-code", "codex", base="node:24")
    assert text.startswith("FROM node:24\n")
    assert "@anthropic-ai/claude-code@2.1.330 @openai/codex@0.169.0" in text


@pytest.mark.real
@pytest.mark.docker
async def test_boxes_of_the_image_have_the_program(tmp_path: Path, need: Callable[[str, bool], None]) -> None:
    need("docker", (await examined())["docker"].status == "ok")
    import docker
    from docker_image import busybox_image

    base = await asyncio.to_thread(busybox_image)
    tag = f"boxflow-test-agents:{os.getpid()}"
    address = engine_address()
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(tmp_path)
        patch.setenv("PATH", str(machine.path))
        patch.setenv("BOXFLOW_AGENTS", str(machine.agents))
        await an_installed_codex(machine)
        assert await build_image("codex", base=base, tag=tag, address=address) == tag
        with pytest.raises(ImageNotFoundError, match="'no' cannot be built"):
            await build_image("codex", base="localhost:9/none:1", tag="no", address=address)
    engine = docker.DockerClient(base_url=address)
    try:
        said = await asyncio.to_thread(engine.containers.run, tag, ["codex", "--version"], remove=True)
        assert said == b"codex 0.169.0\n"
    finally:
        await asyncio.to_thread(engine.images.remove, tag, force=True)
        engine.close()


# --- by hand ---------------------------------------------------------------------------------------------------------


async def by_hand(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "boxflow.agent_programs", *arguments],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _nothing = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_it_can_be_done_by_hand(machine: Machine) -> None:
    machine.npm(programs={NATIVE["codex"]: "echo codex 0.169.0"})
    place = machine.agents / "codex-npm-0.169.0/bin/codex"
    assert await by_hand("install", "codex", "--directory", str(machine.agents)) == (0, f"codex 0.169.0: {place}\n")
    machine.npm("exit 1")
    status, said = await by_hand("install", "opencode")
    assert (status, said.splitlines()[0]) == (1, "'opencode' cannot be installed: npm failed with exit status 1")
    status, said = await by_hand("doctor")
    assert f"codex         ok       codex 0.169.0 ({machine.agents / 'bin/codex'})" in said
    assert "opencode      missing" in said
