"""Real agent programs, in boxes, offline: they work, answer, go on, fail and are killed as the documentation says.

The model is a script on loopback; between it and a program stands the model gateway, as it would before a real host.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agents.real_programs import PROGRAMS
from behaviour.support import eventually, is_alive

from boxflow import Box, Boxes
from boxflow.agent_programs import build_image, find
from boxflow.errors import (
    AgentAuthenticationError,
    AgentBudgetError,
    AgentError,
    AgentTimeoutError,
    AgentUnavailableError,
)
from boxflow.harness import AgentConfig, Finished, TextDelta, ToolCall, ToolResult
from boxflow.testing.model_server import (
    Answer,
    CutStream,
    Fail,
    First,
    ModelRequest,
    Reply,
    RunCommand,
    Say,
    ScriptedModel,
    Tokens,
    WriteFile,
)

pytestmark = [pytest.mark.real, pytest.mark.agents]

KEY = "sk-the-real-key-0123456789"


@dataclass(frozen=True)
class Patch:
    files: list[str]
    lines: int


@pytest.fixture(params=PROGRAMS)
def name(request: pytest.FixtureRequest, need: Callable[[str, bool], None]) -> str:
    """A program that is here, found on the path that boxes have."""
    where = find(request.param)
    need(request.param, where is not None)
    return str(request.param)


#: What depends on the program little is tried with opencode in `--all` only: it takes five seconds to start.
quick_names = pytest.mark.parametrize(
    "name", ["claude-code", "codex", pytest.param("opencode", marks=pytest.mark.thorough)], indirect=True
)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is a variable of the engine; local boxes find the programs on its PATH."""
    places = [str(where.parent) for program in PROGRAMS if (where := find(program)) is not None]
    monkeypatch.setenv("PATH", os.pathsep.join([*places, os.environ["PATH"]]))
    monkeypatch.setenv("MODEL_KEY", KEY)


def config(name: str, model: ScriptedModel, **options: Any) -> AgentConfig:
    base_url = model.url if name == "claude-code" else f"{model.url}/v1"
    return AgentConfig(
        harness=name, key="$MODEL_KEY", base_url=base_url, model="scripted" if name == "opencode" else None, **options
    )


@asynccontextmanager
async def a_box(directory: Path, agent: AgentConfig) -> AsyncIterator[Box]:
    async with Boxes(f"local:{directory / 'boxes'}") as boxes, boxes.create("agents", agent=agent) as box:
        yield box


async def test_it_edits_a_file_by_its_own_tools_and_says_so(name: str, tmp_path: Path) -> None:
    script = [WriteFile("d/a.txt", "hello\n"), RunCommand("cat d/a.txt >> log; echo ran"), Say("All done.")]
    async with ScriptedModel(script) as model, a_box(tmp_path, config(name, model)) as box:
        async with box.agent.stream("write a file", timeout=60) as stream:
            seen = [event async for event in stream]
            run = await stream.result()
        assert await box.files.read("log") == "hello\n"
        assert (run.text, run.agent) == ("All done.", name)
        assert run.usage.requests == 3 and run.usage.output_tokens == 3 * Tokens().output
        assert len([event for event in seen if isinstance(event, ToolCall)]) == 2
        assert any(isinstance(event, ToolResult) and "ran" in event.output for event in seen)
        assert "".join(event.text for event in seen if isinstance(event, TextDelta)).endswith("All done.")
        assert isinstance(seen[-1], Finished)
        # The key went to the model's host, and nowhere else.
        assert {request.api_key for request in model.requests} == {KEY}
        variables = await box.exec.command("cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'")
        assert KEY not in variables.stdout.replace(f"MODEL_KEY={KEY}", "")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


async def test_its_answer_has_a_type_and_a_session_goes_on(name: str, tmp_path: Path) -> None:
    script = [Answer({"files": ["a.txt"], "lines": 3}), Say("Three lines.")]
    async with ScriptedModel(script) as model, a_box(tmp_path, config(name, model)) as box:
        run = await box.agent.run("count", schema=Patch, timeout=60)
        assert run.result == Patch(["a.txt"], 3)
        then = await box.agent.run("sure?", session=run.session_id, timeout=60)
        assert then.result == "Three lines."
        assert then.usage.requests == 1


@quick_names
async def test_an_answer_that_does_not_fit_is_corrected_in_the_same_session(name: str, tmp_path: Path) -> None:
    if name == "claude-code":
        pytest.skip("it sees to that by itself, and asks its model five times")

    def script(request: ModelRequest) -> Reply:
        fits = {"files": ["a"], "lines": 1}
        return Answer(fits if "does not fit" in request.last_user_text else {"files": "a", "lines": 1})

    async with ScriptedModel(script) as model, a_box(tmp_path, config(name, model)) as box:
        run = await box.agent.run("count", schema=Patch, timeout=60)
        assert run.result == Patch(["a"], 1)
        assert run.usage.requests == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, AgentAuthenticationError),
        pytest.param(400, AgentError, marks=pytest.mark.thorough),
        (429, AgentUnavailableError),
        (500, AgentUnavailableError),
    ],
)
async def test_what_its_model_s_host_refuses_is_an_error_of_that_kind(
    name: str, tmp_path: Path, status: int, error: type[AgentError]
) -> None:
    if name == "opencode" and status in (429, 500):
        pytest.skip("it waits and tries again for as long as the deadline lets it")
    # Claude Code's own tries again, which are there for an engine that restarts, would take a minute.
    options = {"options": {"max_retries": 1}} if name == "claude-code" else {}
    async with ScriptedModel([Fail(status)]) as model, a_box(tmp_path, config(name, model, **options)) as box:
        with pytest.raises(error) as caught:
            await box.agent.run("try", timeout=60)
        assert caught.value.agent == name and KEY not in str(caught.value)


async def test_at_its_deadline_nothing_of_it_is_left(name: str, tmp_path: Path) -> None:
    busy = RunCommand('python3 -c \'import os,time; open("pid","w").write(str(os.getpid())); time.sleep(300)\'')
    async with ScriptedModel([busy, Say("never")]) as model, a_box(tmp_path, config(name, model)) as box:
        running = asyncio.create_task(box.agent.run("work", timeout=120))
        work = tmp_path / "boxes" / box.id / "work"
        await eventually(lambda: (work / "pid").exists() and (work / "pid").read_text() != "")
        pid = int((work / "pid").read_text())
        assert is_alive(pid)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not is_alive(pid)
        assert [info.exit_code for info in await box.jobs.list()] == [137]
        with pytest.raises(AgentTimeoutError):
            await box.agent.run("work", timeout=0.5)


@quick_names
async def test_a_huge_answer_arrives_whole(name: str, tmp_path: Path) -> None:
    text = "0123456789abcde\n" * 20_000
    async with ScriptedModel([Say(text)]) as model, a_box(tmp_path, config(name, model)) as box:
        assert (await box.agent.run("tell", timeout=100)).text.strip() == text.strip()


@quick_names
async def test_a_budget_ends_it(name: str, tmp_path: Path) -> None:
    def script(request: ModelRequest) -> Reply:
        return RunCommand(f"echo {request.turn}", tokens=Tokens(output=1000))

    async with ScriptedModel(script) as model, a_box(tmp_path, config(name, model)) as box:
        with pytest.raises(AgentBudgetError, match="raise max_turns, max_cost_usd or max_output_tokens"):
            await box.agent.run("work", max_output_tokens=2500, timeout=60)
        assert len(model.requests) == 3
        with pytest.raises(AgentBudgetError):
            await box.agent.run("work", max_turns=2, timeout=60)
        assert len(model.requests) == 5


ENGINE = """
import asyncio, os, sys
from boxflow import Context, Engine, workflow
from boxflow.harness import AgentConfig

@workflow
async def ported(ctx: Context, agent: list[str]) -> str:
    harness, base_url = agent
    config = AgentConfig(harness=harness, key="$MODEL_KEY", base_url=base_url, model="scripted")
    async with ctx.box("worker", agent=config) as box:
        run = await box.agent.run("count", timeout=100)
        return f"{run.text} {(await box.files.read('ran')).split()}"

async def main():
    directory, harness, base_url = sys.argv[1:]
    async with Engine([ported], store=f"file:{directory}/store", sandbox=f"local:{directory}/boxes") as engine:
        run = await engine.start(ported, [harness, base_url], run_id="r")
        print(await run.result(), flush=True)
        print((await run.usage()).usage.requests, flush=True)

asyncio.run(main())
"""


async def test_an_engine_that_is_killed_finds_its_agent_at_work_again(name: str, tmp_path: Path) -> None:
    go = asyncio.Event()

    async def script(request: ModelRequest) -> Reply:
        if request.turn == 0:
            return RunCommand("echo x >> ran")
        await go.wait()
        return Say("Counted.")

    async def engine(model: ScriptedModel) -> asyncio.subprocess.Process:
        base_url = model.url if name == "claude-code" else f"{model.url}/v1"
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", ENGINE, str(tmp_path), name, base_url, stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )  # fmt: skip

    async with ScriptedModel(script) as model:
        first = await engine(model)
        await eventually(lambda: len(model.requests) == 2)
        first.send_signal(signal.SIGKILL)
        await first.wait()
        second = await engine(model)
        assert second.stdout is not None
        await asyncio.sleep(1)
        go.set()
        async with asyncio.timeout(150):
            output, _ = await second.communicate()
    assert second.returncode == 0
    assert output.decode().splitlines()[0] == "Counted. ['x']"
    assert not list((tmp_path / "boxes").glob("[!.]*"))
    # Neither does the journal know the key.
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


@pytest.mark.docker
async def test_in_a_container_without_network_it_works_answers_fails_and_is_ended_as_elsewhere(
    name: str, tmp_path: Path, need: Callable[[str, bool], None]
) -> None:
    docker_image = pytest.importorskip("tests.docker_image")
    need("docker", docker_image.engine_answers())
    image = await build_image(name, base=docker_image.tools_image(), tag=f"boxflow-test/{name}:latest")
    probe = (
        "python3 -c \"import socket; socket.create_connection(('192.0.2.1', 80), 2)\" 2>&1 | tail -1 > probe; echo ok"
    )
    # By the prompt's last word: what the model does, turn by turn.
    scripts: dict[str, list[Reply]] = {
        "edit": [WriteFile("a.txt", "hello\n"), RunCommand(probe), Say("Done.")],
        "count": [Answer({"files": ["a.txt"], "lines": 3})],
        "sure": [Say("Three lines.")],
        "refused": [Fail(401)],
        "fails-once": [First(Fail(500), then=Say("After a failure."))],
        "cut-once": [First(CutStream(), then=Say("After a cut."))],
        "forever": [RunCommand("echo $$ > pid; exec sleep 300")],
    }

    def script(request: ModelRequest) -> Reply:
        word = next(word for word in reversed(request.last_user_text.split()) if word in scripts)
        return scripts[word][request.turn if word == "edit" else 0]

    async with ScriptedModel(script) as model:
        async with Boxes(f"docker:{image}") as boxes, boxes.create("agents", agent=config(name, model)) as box:
            run = await box.agent.run("edit", timeout=100)
            assert run.text == "Done."
            assert await box.files.read("a.txt") == "hello\n"
            assert "unreachable" in await box.files.read("probe")
            environ = await box.exec.command("cat /proc/[0-9]*/environ 2>/dev/null; env")
            assert KEY not in environ.stdout
            assert run.usage.requests == 3
            with pytest.raises(AgentAuthenticationError):
                await box.agent.run("refused", timeout=100)
            if name != "opencode":
                await the_rest(box)

            running = asyncio.create_task(box.agent.run("forever", timeout=100))
            await eventually(lambda: has_written(box, "pid"))
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            left = await box.exec.command('! kill -0 "$(cat pid)"')
            assert left.exit_code == 0
        assert {request.api_key for request in model.requests} == {KEY}


async def the_rest(box: Box) -> None:
    """What depends on the container least; opencode, which takes five seconds to start, shows it outside of one."""
    counted = await box.agent.run("count", schema=Patch, timeout=100)
    assert counted.result == Patch(["a.txt"], 3)
    assert (await box.agent.run("sure", session=counted.session_id, timeout=100)).text == "Three lines."
    assert (await box.agent.run("fails-once", timeout=100)).text == "After a failure."
    assert (await box.agent.run("cut-once", timeout=100)).text.endswith("After a cut.")


async def has_written(box: Box, path: str) -> bool:
    return (await box.exec.command(f"test -s {path}")).exit_code == 0
