"""The real agent programs behind the gateway: Claude Code, Codex and opencode, with a scripted model for a host."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from agents.real_programs import PROGRAMS, RealProgram
from gateway.harness import ANTHROPIC, KEY, OPENAI, SECRETS, account

from boxflow.agent_programs import find
from boxflow.gateway import Account, MemoryLedger, ModelGateway
from boxflow.ports import Egress
from boxflow.testing.model_server import RunCommand, Say, ScriptedModel, Tokens, WriteFile
from boxflow_backends.egress_gate import EgressGate, box_environment, forwarder_argv

pytestmark = [pytest.mark.real, pytest.mark.agents]

WORK = [WriteFile("a.txt", "hello\n"), RunCommand("cat a.txt"), Say("All done.")]
HOST = "model.boxflow.internal"


@pytest.fixture(params=PROGRAMS)
def name(request: pytest.FixtureRequest, need: Callable[[str, bool], None]) -> str:
    """The name of a program that is here."""
    need(request.param, find(request.param) is not None)
    return request.param


def account_of(name: str, model: ScriptedModel, **changes: Any) -> Account:
    return account(ANTHROPIC if name == "claude-code" else OPENAI, model.url, name=f"box/{name}", **changes)


def behind(url: str) -> Any:
    """What stands for the model, where all that is asked of it is its URL."""
    return SimpleNamespace(url=url)


class Proxied(RealProgram):
    """A program with the environment of a box that has no network but its gate."""

    def _with(self, launch: tuple[list[str], dict[str, str]]) -> tuple[list[str], dict[str, str]]:
        return launch[0], {**launch[1], **json.loads((self.directory / "environment.json").read_text())}

    def _claude(self, *args: Any) -> tuple[list[str], dict[str, str]]:
        return self._with(super()._claude(*args))

    def _codex(self, *args: Any) -> tuple[list[str], dict[str, str]]:
        return self._with(super()._codex(*args))

    def _opencode(self, *args: Any) -> tuple[list[str], dict[str, str]]:
        return self._with(super()._opencode(*args))


@asynccontextmanager
async def gate_to(port: int, directory: Path) -> AsyncIterator[dict[str, str]]:
    """An egress gate that lets a box reach the gateway on *port* and nothing else; the box's environment."""
    way = f"{HOST}:80"
    gate = EgressGate(Egress(allow=[way], resolve={way: f"127.0.0.1:{port}"}), directory=directory, name="box")
    await gate.open()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        proxy_port = free.getsockname()[1]
    argv = forwarder_argv(str(directory / "gate.sock"), proxy_port)
    forwarder = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        assert forwarder.stdout is not None
        assert await forwarder.stdout.readline() == b"ready\n"
        yield box_environment(str(directory), proxy_port)
    finally:
        forwarder.kill()
        await forwarder.wait()
        await gate.close()


async def test_a_program_works_and_never_sees_the_key(name: str, tmp_path: Path) -> None:
    ledger = MemoryLedger()
    async with (
        ScriptedModel(WORK, tokens=Tokens(1000, 30, cached_input=200), keys={KEY}) as model,
        ModelGateway(ledger, secrets=SECRETS) as gateway,
    ):
        one = account_of(name, model)
        await gateway.open(one)
        program = RealProgram(name, behind(gateway.url(one.token)), tmp_path, key="of-no-use")
        told = await program.run("write a file")
        spent = await gateway.spent(one.token)
    assert (told.exit_code, told.text) == (0, "All done."), told.output
    assert (program.work / "a.txt").read_text() == "hello\n"
    aside = len(model.side_requests)
    assert len(model.requests) == 3
    assert spent.usage.requests == 3 + aside and spent.estimated == 0
    # What a program asks beside the work costs a little, too.
    assert spent.usage.cached_input_tokens == 600
    assert 90 <= spent.usage.output_tokens <= 90 + 30 * aside
    assert KEY not in told.output + str(ledger._records)
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert kept == []


async def test_a_program_without_a_network_reaches_its_model_through_the_gate(name: str, tmp_path: Path) -> None:
    (tmp_path / "gate").mkdir()
    async with (
        ScriptedModel(WORK, keys={KEY}) as model,
        ModelGateway(secrets=SECRETS) as gateway,
        gate_to(gateway.port, tmp_path / "gate") as environment,
    ):
        one = account_of(name, model)
        await gateway.open(one)
        (tmp_path / "environment.json").write_text(json.dumps(environment))
        program = Proxied(name, behind(f"http://{HOST}/t/{one.token}"), tmp_path, key="of-no-use")
        told = await program.run("write a file")
        spent = await gateway.spent(one.token)
    assert (told.exit_code, told.text) == (0, "All done."), told.output
    assert spent.usage.requests == len(model.requests) + len(model.side_requests)


@pytest.mark.parametrize("trouble", ["budget", pytest.param("token", marks=pytest.mark.thorough)])
async def test_a_program_that_is_refused_stops_soon(name: str, trouble: str, tmp_path: Path) -> None:
    async with ScriptedModel(WORK, keys={KEY}) as model, ModelGateway(secrets=SECRETS) as gateway:
        one = account_of(name, model, max_output_tokens=34)
        if trouble == "budget":
            await gateway.open(one)
        program = RealProgram(name, behind(gateway.url(one.token)), tmp_path, key="of-no-use")
        began = time.monotonic()
        told = await program.run("write a file")
        took_s = time.monotonic() - began
        refused = (await gateway.spent(one.token)).refused if trouble == "budget" else 1
    assert told.exit_code != 0, told.output
    assert "All done." not in told.output
    if trouble == "budget":
        assert f"the budget of 'box/{name}' is spent" in told.output
        assert 1 <= refused <= 3
    # The slowest takes 7 s by itself; without the right answers it would be minutes.
    assert took_s < 45
