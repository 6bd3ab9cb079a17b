"""A scripted agent is a harness like any other, and does in a box what the script says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from boxflow import AgentConfig, Context, workflow
from boxflow.errors import AgentAuthenticationError, AgentOutputError, AgentTimeoutError, StepFailedError
from boxflow.harness import AgentFailure, Finished, SessionStarted, TextDelta, ToolCall, ToolResult, Usage
from boxflow.testing import AgentReply, AgentTask, ScriptedAgent, World
from boxflow.testing.agent_lines import line_of
from boxflow.testing.harness_contract import HarnessContract, Recording

SUCCESS = Finished(
    text="Done.", structured={"title": "ä"}, session_id="s", usage=Usage(input_tokens=3), cost_usd=0.25, turns=2
)
FAILURE = Finished(failure=AgentFailure.AUTHENTICATION, message="bad key", text="so far")


class TestScriptedAgent(HarnessContract):
    def make_harness(self) -> ScriptedAgent:
        return ScriptedAgent()

    def recordings(self) -> Mapping[str, Recording]:
        working = [
            SessionStarted(session_id="s", model="m"),
            TextDelta(text="I look."),
            ToolCall(call_id="1", name="bash", input={"command": ["ls", None, 1.5]}),
            ToolResult(call_id="1", output="README.md"),
        ]
        lines = [line_of(event).rstrip("\n") for event in working]
        return {
            "success": Recording(lines=[*lines, line_of(SUCCESS).rstrip("\n")], finished=SUCCESS),
            "failure": Recording(lines=[line_of(FAILURE).rstrip("\n")], finished=FAILURE, exit_code=1),
        }


@dataclass
class Patch:
    title: str
    lines: int = 0


@workflow
async def port(ctx: Context, prompt: str) -> Patch:
    async with ctx.box("go", agent=AgentConfig("claude-code", key="$NO_SUCH_KEY_IS_NEEDED", model="m-1")) as box:
        run = await box.agent.run(prompt, schema=Patch, timeout="3h", max_turns=5, max_output_tokens=10)
        assert run.agent == "claude-code"
        return run.result


async def test_its_answer_and_its_edits_are_those_of_the_script() -> None:
    async with World() as world:
        world.agent.on("Port *", result=Patch("ported", 3), edits={"go/main.go": "package main\n"}, delay="2h")
        seen: list[str] = []
        world.sandbox.on("look", lambda command: seen.append(command.box.read("go/main.go")))

        @workflow
        async def look(ctx: Context, _: None) -> Patch:
            async with ctx.box("go") as box:
                run = await box.agent.run("Port it", schema=Patch, timeout="3h")
                assert run.duration_s == 7200
                await box.exec.command("look")
            return run.result

        assert await world.run(look) == Patch("ported", 3)
        assert seen == ["package main\n"]


async def test_any_agent_is_answered_without_its_program_its_key_and_a_gateway() -> None:
    async with World() as world:
        world.agent.on("Port *", result=Patch("ported"))
        assert await world.run(port, "Port it") == Patch("ported")
        (task,) = world.agent.tasks
        assert (task.prompt, task.model, task.session) == ("Port it", "m-1", None)
        assert task.schema is not None and "title" in task.schema["properties"]


async def test_an_answer_that_does_not_fit_is_asked_for_once_more_in_its_session() -> None:
    async with World() as world:
        world.agent.on("Port *", AgentReply(result={"name": "wrong"}), AgentReply(result=Patch("right")))
        assert await world.run(port, "Port it") == Patch("right")
        first, second = world.agent.tasks
        assert (first.session, second.session) == (None, "session-1")
        assert "does not fit" in second.prompt


async def caught(world: World, prompt: str = "Port it") -> BaseException:
    found: list[BaseException] = []

    @workflow
    async def body(ctx: Context, prompt: str) -> None:
        async with ctx.box("go", agent="codex") as box:
            try:
                await box.agent.run(prompt, schema=Patch, timeout="1h")
            except Exception as error:
                found.append(error)

    await world.run(body, prompt)
    return found[0]


async def test_a_failure_of_the_script_is_the_error_that_it_is_in_life() -> None:
    async with World() as world:
        world.agent.on("*", failure=AgentFailure.AUTHENTICATION, message="the key is worn out")
        error = await caught(world)
        assert isinstance(error, AgentAuthenticationError) and "worn out" in str(error) and "codex" in str(error)


async def test_an_answer_that_never_fits_is_an_error() -> None:
    async with World() as world:
        world.agent.on("*", text="no JSON")
        assert isinstance(await caught(world), AgentOutputError)


async def test_an_agent_that_takes_too_long_is_killed_at_its_deadline() -> None:
    async with World() as world:
        began = world.now
        world.agent.on("*", result=Patch("late"), delay="2h")
        assert isinstance(await caught(world), AgentTimeoutError)
        assert (world.now - began).total_seconds() == 3600


async def test_a_prompt_that_the_script_does_not_know_says_so() -> None:
    async with World() as world:
        world.agent.on(re.compile("^Review"), text="fine")
        error = await caught(world, "Port it")
        assert isinstance(error, StepFailedError)
        assert "no reply to the prompt 'Port it' in box 'go'" in str(error) and "world.agent.on('Port it'" in str(error)


async def test_a_function_of_the_script_sees_the_task_and_its_box() -> None:
    async def reply(task: AgentTask) -> AgentReply:
        await asyncio.sleep(60)
        return AgentReply(result=Patch(task.box.read("title.txt").upper()), edits={"title.txt": None})

    async with World() as world:
        world.agent.on(lambda task: "Port" in task.prompt, reply)
        world.sandbox.on("prepare", files={"title.txt": "small"})

        @workflow
        async def body(ctx: Context, _: None) -> Patch:
            async with ctx.box("go", init="prepare") as box:
                return (await box.agent.run("Port it", schema=Patch)).result

        assert await world.run(body) == Patch("SMALL")


async def test_what_it_is_seen_to_do_is_kept_with_its_run() -> None:
    steps = [ToolCall(call_id="1", name="bash", input={"command": "ls"}), ToolResult(call_id="1", output="README")]

    @workflow
    async def body(ctx: Context, _: None) -> list[str]:
        async with ctx.box("go") as box:
            run = await box.agent.run("Look")
            again = await box.agent.run("Look again", session=run.session_id)
            assert again.session_id == run.session_id
            return [type(event).__name__ for event in run.events]

    async with World() as world:
        world.agent.on("Look", events=steps, text="seen", cost_usd=0.5, usage=Usage(output_tokens=7))
        run = await world.start(body)
        assert await run.result() == ["ToolCall", "ToolResult"]
        usage = await run.usage()
        assert (usage.agent_runs, usage.cost_usd, usage.usage.output_tokens) == (2, 1.0, 14)


async def test_cancelling_a_run_ends_its_agent() -> None:
    async with World(jumps=False) as world:
        world.agent.on("*", result=Patch("never"), delay="2h")
        run = await world.start(port, "Port it")
        await world.advance("10m")
        await run.cancel("no longer wanted")
        with pytest.raises(Exception, match="no longer wanted"):
            await run.result()
        assert [command.exit_code for command in world.sandbox.ran("scripted-agent")] == [137]
        assert world.boxes_left == []


async def test_an_agent_that_nobody_waits_for_tells_its_result_without_a_network() -> None:
    @workflow
    async def body(ctx: Context, _: None) -> str:
        box = await ctx.box("go")
        hook = await ctx.create_webhook("done")
        await box.agent.run("Port it", webhook=hook)
        await box.agent.run("Port it", webhook="https://example.org/told")
        call = await ctx.wait_for_webhook("agent", hook, timeout="1h")
        await ctx.sleep("let it tell", 1)
        return call.json()["data"]["text"]

    async with World() as world:
        world.agent.on("Port *", text="ported", delay="20m")
        assert await world.run(body) == "ported"
        (post,) = world.posts
        assert (post.url, post.json()["type"]) == ("https://example.org/told", "agent.completed")
