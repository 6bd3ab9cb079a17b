"""The real programs take a scripted model for a model: Claude Code, Codex and opencode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from agents.model_client import COUNTS
from agents.real_programs import RealProgram

from boxflow.agent_programs import find
from boxflow.testing.model_server import (
    Answer,
    CutStream,
    EditFile,
    Fail,
    First,
    ReadFile,
    RunCommand,
    Say,
    ScriptedModel,
    Think,
    Together,
    Tokens,
    WriteFile,
)

pytestmark = [pytest.mark.real, pytest.mark.agents]
COUNTS_STRICT = {**COUNTS, "additionalProperties": False}


# opencode takes seconds to start. That the model server has what it asks for, test_real_agents.py shows, too.
@pytest.fixture(params=["claude-code", "codex", pytest.param("opencode", marks=pytest.mark.thorough)])
def name(request: pytest.FixtureRequest, need: Callable[[str, bool], None]) -> str:
    """The name of a program that is here."""
    need(request.param, find(request.param) is not None)
    return request.param


@pytest.fixture
def named(need: Callable[[str, bool], None]) -> Callable[[str], str]:
    """`named("codex")`: that program, if it is here."""

    def check(name: str) -> str:
        need(name, find(name) is not None)
        return name

    return check


async def test_a_file_is_written_and_a_command_run_by_the_programs_own_tools(name: str, tmp_path: Path) -> None:
    write = Together([Think("A file, then."), Say("I write it."), WriteFile("d/a.txt", "hello\n")])
    async with ScriptedModel([write, RunCommand("cat d/a.txt; echo $((6 * 7))"), Say("All done.")]) as model:
        program = RealProgram(name, model, tmp_path)
        told = await program.run("write a file")
    assert (told.exit_code, told.text) == (0, "All done."), told.output
    assert (program.work / "d/a.txt").read_text() == "hello\n"
    assert [request.turn for request in model.requests] == [0, 1, 2]
    assert "hello\n42" in model.requests[2].last_tool_output
    assert {request.api_key for request in model.requests + model.side_requests} == {"sk-scripted"}
    assert all(request.last_user_text == "write a file" for request in model.requests)
    assert model.requests[0].working_directory == str(program.work)


@pytest.mark.parametrize("codex_model", ["gpt-5.5", "gpt-6-sol", "another-model"])
async def test_codex_offers_its_tools_in_three_ways(
    named: Callable[[str], str], tmp_path: Path, codex_model: str
) -> None:
    script = [
        WriteFile("a.txt", "one\ntwo\n"),
        WriteFile("b.txt", "it's no whole line"),
        RunCommand("sed -i s/two/2/ a.txt"),
        Say("Done."),
    ]
    async with ScriptedModel(script) as model:
        program = RealProgram(named("codex"), model, tmp_path, codex_model=codex_model)
        told = await program.run("go")
    assert (told.exit_code, told.text) == (0, "Done."), told.output
    assert (program.work / "a.txt").read_text() == "one\n2\n"
    assert (program.work / "b.txt").read_text() == "it's no whole line"
    expected = {"gpt-5.5": (False, True), "gpt-6-sol": (True, False), "another-model": (False, False)}
    offered = model.requests[0].tools
    assert ("exec" in offered, "apply_patch" in offered) == expected[codex_model]


async def test_a_file_that_was_read_can_be_edited(name: str, tmp_path: Path) -> None:
    script = [ReadFile("a.txt"), EditFile("a.txt", "two\n", "2\n"), Say("Edited.")]
    async with ScriptedModel(script) as model:
        program = RealProgram(name, model, tmp_path)
        program.work.mkdir()
        (program.work / "a.txt").write_text("one\ntwo\nthree\n")
        told = await program.run("edit the file")
    assert (told.exit_code, told.text) == (0, "Edited."), told.output
    assert (program.work / "a.txt").read_text() == "one\n2\nthree\n"


async def test_a_session_that_goes_on_gets_the_next_turn(name: str, tmp_path: Path) -> None:
    async with ScriptedModel([Say("One."), Say("Two.")]) as model:
        program = RealProgram(name, model, tmp_path)
        first = await program.run("begin")
        second = await program.run("go on", session=first.session)
    assert (first.text, second.text) == ("One.", "Two."), second.output
    assert [request.user_texts[-1] for request in model.requests] == ["begin", "go on"]


@pytest.mark.parametrize("which", ["claude-code", "codex"])
async def test_structured_output_comes_in_the_way_of_each_program(
    named: Callable[[str], str], which: str, tmp_path: Path
) -> None:
    async with ScriptedModel([Answer({"count": 3}), Say("Yes, three.")]) as model:
        program = RealProgram(named(which), model, tmp_path)
        told = await program.run("count", schema=COUNTS_STRICT)
        then = await program.run("sure?", session=told.session)
    assert told.exit_code == 0, told.output
    if which == "claude-code":
        assert told.events[-1]["structured_output"] == {"count": 3}
    else:
        assert told.text == '{"count":3}'
    assert then.text == "Yes, three.", then.output
    schema = model.requests[0].schema
    assert schema is not None and schema["properties"] == COUNTS["properties"]


async def test_claude_code_corrects_structured_output_that_breaks_the_schema(
    named: Callable[[str], str], tmp_path: Path
) -> None:
    async with ScriptedModel([Answer({"wrong": 1}), Answer({"count": 3})]) as model:
        told = await RealProgram(named("claude-code"), model, tmp_path).run("count", schema=COUNTS_STRICT)
    assert told.events[-1]["structured_output"] == {"count": 3}, told.output
    assert [request.turn for request in model.requests] == [0, 1]


async def test_an_error_that_stays_ends_the_program(name: str, tmp_path: Path) -> None:
    async with ScriptedModel([Fail(400, message="this is scripted")]) as model:
        told = await RealProgram(name, model, tmp_path).run("go")
    assert told.exit_code == 1
    assert "this is scripted" in told.output


@pytest.mark.parametrize("fail", [Fail(401), Fail(429, retry_after=0), Fail(500)], ids=lambda fail: str(fail.status))
@pytest.mark.parametrize("which", ["claude-code", "codex"])
async def test_an_error_that_passes_is_tried_again(
    named: Callable[[str], str], which: str, fail: Fail, tmp_path: Path
) -> None:
    if (which, fail.status) in {("codex", 401), ("codex", 429)}:
        # Codex takes these as they are.
        async with ScriptedModel([fail]) as model:
            told = await RealProgram(named(which), model, tmp_path).run("go")
        assert (told.exit_code, told.events[-1]["type"]) == (1, "turn.failed"), told.output
        return
    async with ScriptedModel([First(fail, then=Say("At last."))]) as model:
        told = await RealProgram(named(which), model, tmp_path).run("go")
    assert (told.exit_code, told.text) == (0, "At last."), told.output
    assert len(model.requests) == 2


async def test_a_stream_that_is_cut_once_is_asked_for_again(name: str, tmp_path: Path) -> None:
    async with ScriptedModel([First(CutStream("Half a"), then=Say("A whole sentence."))]) as model:
        told = await RealProgram(name, model, tmp_path).run("go")
    assert (told.exit_code, told.text) == (0, "A whole sentence."), told.output


async def test_the_tokens_of_the_script_are_those_that_the_program_reports(name: str, tmp_path: Path) -> None:
    async with ScriptedModel([Say("Hi.", tokens=Tokens(1000, 50, cached_input=200))]) as model:
        told = await RealProgram(name, model, tmp_path).run("go")
    match name:
        case "claude-code":
            usage = told.events[-1]["usage"]
            counts = (usage["input_tokens"], usage["output_tokens"], usage["cache_read_input_tokens"])
        case "codex":
            usage = told.events[-1]["usage"]
            cached = usage["cached_input_tokens"]
            counts = (usage["input_tokens"] - cached, usage["output_tokens"], cached)
        case _:
            [usage] = [event["part"]["tokens"] for event in told.events if event["type"] == "step_finish"]
            counts = (usage["input"], usage["output"], usage["cache"]["read"])
    assert counts == (1000, 50, 200)
