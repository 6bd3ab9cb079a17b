"""What all agents share: a run is a job, read as events; its answer is checked, its end is told, nothing is left."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agents.line_agent import LineAgent
from behaviour.manual_clock import ManualClock
from behaviour.support import eventually, in_memory, is_alive, until

from boxflow import Box, Boxes, Context, Engine, RunStatus, plugins, workflow
from boxflow.agent_deliveries import signed
from boxflow.boxes.agent_run import AgentStatus
from boxflow.errors import (
    AgentAuthenticationError,
    AgentBudgetError,
    AgentError,
    AgentNotInstalledError,
    AgentOutputError,
    AgentTimeoutError,
    AgentUnavailableError,
    ConfigurationError,
    NotDurableError,
)
from boxflow.harness import AgentConfig, AgentFailure, Finished, Notice, SessionStarted, TextDelta, Usage
from boxflow_backends.local_sandbox import LocalSandbox

LINE = LineAgent()


@dataclass(frozen=True)
class Patch:
    files: list[str]
    lines: int


@contextmanager
def known_harness() -> Iterator[None]:
    """The harness by its name, as if a package had brought it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(plugins._BUILT_IN[plugins.HARNESSES], "line", "agents.line_agent:LineAgent")
        yield


@asynccontextmanager
async def a_box(directory: Path) -> AsyncIterator[Box]:
    async with Boxes(LocalSandbox(directory)) as boxes, boxes.create("agents") as box:
        yield box


async def test_a_run_gives_its_last_words_and_what_it_used(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        run = await box.agent.run("say hello\nwrite f made\nresult null", agent=LINE)
        assert (run.result, run.text, run.status, run.agent) == ("hello", "hello", AgentStatus.COMPLETED, "line")
        assert (run.session_id, run.cost_usd, run.turns) == ("s1", 0.25, 1)
        assert run.usage == Usage(input_tokens=10, output_tokens=5, requests=1)
        assert run.duration_s >= 0
        assert await box.files.read("f") == "made"


async def test_an_answer_has_the_type_that_was_asked_for(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        run = await box.agent.run('result {"files": ["a"], "lines": 3}', schema=Patch, agent=LINE)
        assert run.result == Patch(["a"], 3)
        words = 'say {"files": [], "lines": 1}\nresult null'
        assert (await box.agent.run(words, schema=Patch, agent=LINE)).result == Patch([], 1)
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        assert (await box.agent.run('result {"n": 3}', schema=schema, agent=LINE)).result == {"n": 3}


async def test_an_answer_that_does_not_fit_is_asked_for_once_more(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        prompt = 'count tries\nresult {"files": "a"}\nagain\ncount tries\nresult {"files": ["a"], "lines": 1}'
        run = await box.agent.run(prompt, schema=Patch, agent=LINE)
        assert run.result == Patch(["a"], 1)
        assert (run.usage.input_tokens, run.cost_usd) == (20, 0.5)
        assert await box.files.read("tries") == "x\nx\n"


async def test_an_answer_that_never_fits_is_an_error_with_its_text(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        prompt = 'count tries\nsay first\nresult {"n": 1}\nagain\ncount tries\nsay second\nresult {"n": 2}'
        with pytest.raises(AgentOutputError, match="gave no answer that fits its schema") as caught:
            await box.agent.run(prompt, schema=Patch, agent=LINE)
        assert caught.value.text == "second"
        assert await box.files.read("tries") == "x\nx\n"


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (AgentFailure.AUTHENTICATION, AgentAuthenticationError),
        (AgentFailure.RATE_LIMITED, AgentUnavailableError),
        (AgentFailure.MODEL_UNAVAILABLE, AgentUnavailableError),
        (AgentFailure.BUDGET, AgentBudgetError),
        (AgentFailure.TURNS, AgentBudgetError),
        (AgentFailure.BAD_OUTPUT, AgentOutputError),
        (AgentFailure.INTERRUPTED, AgentError),
    ],
)
async def test_each_failure_is_an_error_of_its_kind(
    tmp_path: Path, kind: AgentFailure, error: type[AgentError]
) -> None:
    async with a_box(tmp_path) as box:
        with pytest.raises(error, match=r"agent 'line' .*the reason") as caught:
            await box.agent.run(f"say words\nfail {kind} the reason", agent=LINE)
        assert caught.value.text == "words"


async def test_an_output_that_ends_without_a_result_is_a_failure(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        with pytest.raises(AgentError, match=r"crashed.*exit 7"):
            await box.agent.run("say words\nexit 7", agent=LINE)


async def test_a_program_that_is_not_there_says_how_to_install_it(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        with pytest.raises(AgentNotInstalledError, match=r"'line-agent' is not in the box, .*line-agent@1\.0\.0"):
            await box.agent.run("say x", agent=LineAgent("line-agent"))
        with pytest.raises(ConfigurationError, match="agent 'clod' is not known; known are claude-code, codex"):
            await box.agent.run("say x", agent="clod")


async def test_a_local_box_finds_the_programs_that_boxflow_has_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "agents" / "bin"
    installed.mkdir(parents=True)
    (installed / "line-agent").symlink_to(sys.executable)
    monkeypatch.setenv("BOXFLOW_AGENTS", str(tmp_path / "agents"))
    async with a_box(tmp_path / "boxes") as box:
        assert (await box.agent.run("say found\nresult null", agent=LineAgent("line-agent"))).result == "found"


async def test_at_its_deadline_an_agent_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        with pytest.raises(AgentTimeoutError, match="was killed after 1 s"):
            await box.agent.run("daemon\nforever", timeout=1, agent=LINE)
        assert not is_alive(int(await box.files.read("daemon")))


async def test_cancelling_kills_the_agent_with_all_that_it_started(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        running = asyncio.create_task(box.agent.run("daemon\nforever", agent=LINE))
        work = next(tmp_path.glob("*/work"))
        await eventually(lambda: (work / "daemon").exists() and (work / "daemon").read_text() != "")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not is_alive(int(await box.files.read("daemon")))


async def test_a_program_that_does_not_end_after_its_result_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boxflow.boxes.agent_work.GRACE_S", 0.2)
    async with a_box(tmp_path) as box:
        run = await box.agent.run("say done\nresult null\ndaemon\nforever", agent=LINE)
        assert run.result == "done"
        assert not is_alive(int(await box.files.read("daemon")))


async def test_events_come_while_the_agent_works(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        seen: list[Any] = []
        async with box.agent.stream("say one\nraw {torn\nuntil go\nsay two\nresult null", agent=LINE) as stream:
            async for event in stream:
                seen.append(event)
                if isinstance(event, Notice):
                    await box.files.write("go", "")
            run = await stream.result()
        torn = Notice(message="not understood: {torn")
        assert seen[:3] == [SessionStarted(session_id="s1"), TextDelta(text="one"), torn]
        assert seen[3] == TextDelta(text="two") and isinstance(seen[4], Finished) and len(seen) == 5
        assert (run.result, run.id) == ("two", stream.id)


async def test_leaving_a_stream_detaches_and_anybody_attaches_again(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        async with box.agent.stream("say one\nuntil go\nsay two\nresult null", agent=LINE) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
        async with Boxes(LocalSandbox(tmp_path)) as others:
            same = await others.get(box.id)
            await box.files.write("go", "")
            again = same.agent.attach(stream.id, agent=LINE)
            texts = [event.text async for event in again if isinstance(event, TextDelta)]
            assert texts == ["one", "two"]
            assert (await again.result()).result == "two"
            rest = [event async for event in same.agent.attach(stream.id, agent=LINE, after=2)]
            assert rest[0] == TextDelta(text="two") and len(rest) == 2


async def test_files_of_this_machine_are_there_before_the_agent_begins(tmp_path: Path) -> None:
    (tmp_path / "spec.md").write_text("spec")
    async with a_box(tmp_path / "boxes") as box:
        await box.agent.run("until spec.md\nresult null", files=[tmp_path / "spec.md"], agent=LINE, timeout=30)
        assert await box.files.read("spec.md") == "spec"


async def test_an_agent_of_a_body_goes_on_while_the_engine_is_away_and_runs_once(tmp_path: Path) -> None:
    @workflow
    async def ported(ctx: Context, _: None) -> Patch:
        async with ctx.box("worker") as box:
            prompt = 'count ran\nuntil go\nresult {"files": ["a"], "lines": 3}'
            return (await box.agent.run(prompt, schema=Patch, agent=LINE)).result

    machine = in_memory(sandbox=LocalSandbox(tmp_path))
    async with machine.running(ported) as engine:
        await engine.start(ported, run_id="r")
        await eventually(lambda: bool(list(tmp_path.glob("*/work/ran"))))
    ran = next(tmp_path.glob("*/work/ran"))
    ran.with_name("go").touch()
    async with machine.running(ported) as engine:
        run = await engine.get("r")
        assert await run.result(timeout=30) == Patch(["a"], 3)
        assert [o.name for o in await run.history()] == ["worker.create", "worker.agent.run", "worker.delete"]


async def test_in_a_body_a_failure_is_the_same_error(tmp_path: Path) -> None:
    @workflow
    async def refused(ctx: Context, _: None) -> list[str]:
        told: list[str] = []
        async with ctx.box("worker") as box:
            for prompt, program in (("fail budget spent", LINE), ("say x", LineAgent("line-agent"))):
                try:
                    await box.agent.run(prompt, agent=program)
                except AgentError as error:
                    told.append(f"{type(error).__name__}: {error}")
            try:
                box.agent.stream("say x", agent=LINE)
            except NotDurableError as error:
                told.append(str(error))
        return told

    async with in_memory(sandbox=LocalSandbox(tmp_path)).running(refused) as engine:
        budget, missing, stream = await engine.run(refused)
    assert budget.startswith("AgentBudgetError: agent 'line' has spent its budget")
    assert missing.startswith("AgentNotInstalledError: agent 'line' cannot work: 'line-agent' is not in the box")
    assert "use `box.agent.run`" in stream


async def test_a_run_knows_what_its_agents_and_those_of_its_children_have_used(tmp_path: Path) -> None:
    @workflow
    async def child(ctx: Context, _: None) -> None:
        async with ctx.box("worker") as box:
            await box.agent.run("result null", agent=LINE)

    @workflow
    async def parent(ctx: Context, _: None) -> None:
        await asyncio.gather(ctx.invoke("a", child), ctx.invoke("b", child))
        async with ctx.box("worker") as box:
            try:
                await box.agent.run("fail crashed x", agent=LINE)
            except AgentError:
                pass

    async with in_memory(sandbox=LocalSandbox(tmp_path)).running(parent, child) as engine:
        run = await engine.start(parent)
        await run.result()
        used = await run.usage()
    assert used.usage == Usage(input_tokens=20, output_tokens=10, requests=2)
    assert (used.cost_usd, used.agent_runs, used.unpriced_runs) == (0.5, 3, 1)


async def test_with_a_webhook_the_run_returns_at_once_and_its_result_resumes_the_workflow(tmp_path: Path) -> None:
    @workflow
    async def waits(ctx: Context, _: None) -> list[Any]:
        box = await ctx.box("worker")
        done = await ctx.create_webhook("done")
        prompt = 'until go\nresult {"files": ["a"], "lines": 3}'
        run = await box.agent.run(prompt, schema=Patch, agent=AgentConfig(harness="line"), webhook=done)
        call = await ctx.wait_for_webhook("agent", done, timeout="1m")
        told = call.json()
        return [run.status.value, told["type"], told["data"]["result"], told["data"]["id"] == run.id, call.headers]

    with known_harness():
        machine = in_memory(sandbox=LocalSandbox(tmp_path))
        async with machine.running(waits, max_resident_runs=0) as engine:
            run = await engine.start(waits, run_id="r")
            await until(run, RunStatus.WAITING)
        next(tmp_path.glob("*/work")).joinpath("go").touch()
        async with machine.running(waits) as engine:
            status, kind, result, same, headers = await (await engine.get("r")).result(timeout=40)
    assert (status, kind, result, same) == ("running", "agent.completed", {"files": ["a"], "lines": 3}, True)
    assert headers["webhook-id"].startswith("msg_") and headers["webhook-signature"].startswith("v1,")


async def test_a_webhook_elsewhere_is_told_until_it_answers_and_can_check_who_speaks(tmp_path: Path) -> None:
    heard: list[tuple[dict[str, str], bytes]] = []

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        heard.append((headers, await reader.readexactly(int(headers["content-length"]))))
        status = "503 Later" if len(heard) == 1 else "204 Fine"
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        writer.close()

    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/result"
    clock = ManualClock()
    with known_harness():
        async with server, Engine([], sandbox=LocalSandbox(tmp_path), clock=clock, secret="s") as engine:
            box = await engine.boxes.create("a")
            run = await box.agent.run("say hello\nresult null", agent="line", webhook=url)
            await eventually(lambda: len(heard) == 1)

            def moved_on() -> bool:
                clock.advance(6)
                return len(heard) == 2

            await eventually(moved_on)
    (first, body), (second, again) = heard
    assert body == again and first["webhook-id"] == second["webhook-id"]
    assert json.loads(body)["data"]["id"] == run.id and json.loads(body)["data"]["result"] == "hello"
    assert second == second | signed(b"s", second["webhook-id"], int(second["webhook-timestamp"]), body)


async def test_without_an_engine_nobody_could_tell_a_webhook(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        with pytest.raises(ConfigurationError, match="webhook= needs an engine"):
            await box.agent.run("say x", agent=LINE, webhook="http://127.0.0.1:1/")


async def test_a_limit_that_nobody_would_keep_is_refused(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        with pytest.raises(ConfigurationError, match="'line' does not know what it costs; give AgentConfig"):
            await box.agent.run("count ran\nresult null", agent=LINE, max_cost_usd=1.0)
        with pytest.raises(ConfigurationError, match="'command' does not count its turns"):
            await box.agent.run("x", agent="command", options={"argv": ["true"]}, max_turns=3)
        assert (await box.agent.run("result null", agent=LINE, max_turns=3)).turns == 1
