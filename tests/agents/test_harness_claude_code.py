"""Claude Code is started as it wants to be, and what it prints is understood."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from boxflow.errors import ConfigurationError
from boxflow.harness import (
    AgentEvent,
    AgentFailure,
    AgentRequest,
    Finished,
    Launch,
    ModelApi,
    Notice,
    Reasoning,
    SessionStarted,
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from boxflow.testing.harness_contract import HarnessContract, Recording
from boxflow_backends.harnesses import ClaudeCode

SAMPLES = Path(__file__).parent / "samples" / "claude_code"
SESSION = "21a89403-d3a2-4394-b179-dd66cad94b24"
UNKNOWN_SESSION = "99999999-2222-4333-8444-555555555555"
TITLED = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
NAMES = {"type": "array", "items": {"type": "string"}}
WROTE = (
    "File created successfully at: /box/work/a.txt (file state is current in your context — no need to Read it back)"
)


def lines(name: str) -> list[str]:
    return (SAMPLES / f"{name}.jsonl").read_text().splitlines()


def events_of(*output: str, request: AgentRequest | None = None) -> list[AgentEvent]:
    reader = ClaudeCode().reader(request or AgentRequest(prompt="x"))
    return [event for line in output for event in reader.feed(line)]


def session_of(name: str) -> str:
    return json.loads(lines(name)[0])["session_id"]


def recording(name: str, *, calls: int = 0, exit_code: int = 0, request: Any = None, **finished: Any) -> Recording:
    """Each call of the scripted model takes 1,200 tokens in and 34 out, which is worth 0.00548 dollars."""
    usage = Usage(input_tokens=1200 * calls, output_tokens=34 * calls, requests=calls)
    cost_usd = pytest.approx(0.00548 * calls)
    return Recording(
        lines=lines(name),
        exit_code=exit_code,
        request=AgentRequest(prompt="x", **(request or {})),
        finished=Finished(
            **{"session_id": session_of(name), "usage": usage, "cost_usd": cost_usd, "turns": calls, **finished}
        ),
    )


def failed(name: str, failure: AgentFailure, message: str, **more: Any) -> Recording:
    return recording(name, **{"exit_code": 1, "turns": 1, "failure": failure, "message": message, **more})


NO_CONTENT = "API Error: 500 scripted: non-stream fallback fails too. This is a server-side issue, usually temporary "
RECORDINGS: Mapping[str, Recording] = {
    "success": recording("edit", calls=2, text=f"Done. Last tool result was: {WROTE}"),
    "continued": recording("resumed", calls=1, text="Hello from the fake model.", request={"session": SESSION}),
    "structured": recording(
        "json",
        calls=1,
        turns=2,
        request={"schema": TITLED},
        text='{"title":"{dir}","count":2,"x":null}',
        structured={"title": "{dir}", "count": 2, "x": None},
    ),
    "structured-list": recording(
        "array", calls=1, turns=2, request={"schema": NAMES}, text='{"answer":["a","b"]}', structured=["a", "b"]
    ),
    "a-tool-fails": recording("toolfail", calls=2, text="Done. Last tool result was: Exit code 3\nto-stderr"),
    "mcp": recording(
        "mcp",
        calls=2,
        cost_usd=pytest.approx(0.00548),
        text='Done. Last tool result was: [{"type": "text", "text": "42 the \\"key\\" {x}"}]',
    ),
    "without-deltas": recording("without_deltas", calls=1, text="slow slow slow slow slow slow slow slow slow slow"),
    "schema-never-met": failed(
        "badjson",
        AgentFailure.BAD_OUTPUT,
        "Failed to provide valid structured output after 5 attempts — last StructuredOutput error: Output does not "
        "match required schema: root: must have required property 'title'",
        calls=5,
        turns=6,
        text="I will use a tool.",
        request={"schema": TITLED},
    ),
    "turns": failed(
        "maxturns",
        AgentFailure.TURNS,
        "Reached maximum number of turns (2)",
        calls=2,
        turns=3,
        text="I will use a tool.",
    ),
    "budget": failed(
        "budget", AgentFailure.BUDGET, "Reached maximum budget ($0.015)", calls=3, turns=3, text="I will use a tool."
    ),
    "400": failed("err400", AgentFailure.BAD_REQUEST, "API Error: 400 scripted bad request"),
    "401": failed("err401", AgentFailure.AUTHENTICATION, "Invalid API key · Fix external API key"),
    "402": failed("err402", AgentFailure.BUDGET, "API Error: 402 the budget of this run is spent (scripted)"),
    "429": failed("err429", AgentFailure.RATE_LIMITED, "API Error: Request rejected (429) · scripted rate limit"),
    "no-key": failed("nokey", AgentFailure.AUTHENTICATION, "Not logged in · Please run /login"),
    "refused": failed(
        "refused",
        AgentFailure.MODEL_UNAVAILABLE,
        "API Error: Connection refused — a firewall or proxy may be blocking it (ECONNREFUSED)",
    ),
    "breaks-off": failed(
        "midstream",
        AgentFailure.MODEL_UNAVAILABLE,
        NO_CONTENT + "— try again in a moment. If it persists, check your inference gateway (127.0.0.1:8000).",
        usage=Usage(requests=1),
        text="slow slow slow slow slow",
    ),
    "no-such-session": failed(
        "nosession",
        AgentFailure.SESSION_NOT_FOUND,
        f"No conversation found with session ID: {UNKNOWN_SESSION}",
        turns=0,
        request={"session": UNKNOWN_SESSION},
    ),
}


class TestClaudeCode(HarnessContract):
    def make_harness(self) -> ClaudeCode:
        return ClaudeCode()

    def recordings(self) -> Mapping[str, Recording]:
        return RECORDINGS


# --- reading ---------------------------------------------------------------------------------------------------------


def test_text_that_came_in_deltas_is_not_told_again() -> None:
    said = [event.text for event in events_of(*lines("edit")) if isinstance(event, TextDelta)]
    assert "".join(said) == f"I will use a tool.Done. Last tool result was: {WROTE}"


def test_without_deltas_each_message_is_one_piece() -> None:
    said = [event for event in events_of(*lines("without_deltas")) if isinstance(event, TextDelta)]
    assert said == [TextDelta(text="slow slow slow slow slow slow slow slow slow slow")]


def test_every_block_of_a_message_without_deltas_is_told() -> None:
    blocks = [{"type": "text", "text": "one"}, {"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "two"}]
    output = [json.dumps({"type": "assistant", "message": {"id": "m", "content": [block]}}) for block in blocks]
    assert events_of(*output) == [TextDelta(text="one"), Reasoning(text="hm"), TextDelta(text="two")]


def test_tools_and_their_results_are_told() -> None:
    events = events_of(*lines("edit"))
    calls = [event for event in events if isinstance(event, ToolCall)]
    results = [event for event in events if isinstance(event, ToolResult)]
    assert events[0] == SessionStarted(session_id=SESSION, model="claude-opus-5-5")
    assert [call.name for call in calls] == ["Write"]
    assert calls[0].input == {"file_path": "/box/work/a.txt", "content": "hello from the fake model\n"}
    assert results == [ToolResult(call_id=calls[0].call_id, output=WROTE)]


def test_a_failed_tool_is_told_as_one() -> None:
    (result,) = [event for event in events_of(*lines("toolfail")) if isinstance(event, ToolResult)]
    assert (result.output, result.is_error) == ("Exit code 3\nto-stderr", True)


def test_words_of_a_subagent_are_not_the_agents_and_its_tools_are_told() -> None:
    of_subagent = {"parent_tool_use_id": "toolu_1"}
    blocks = [{"type": "text", "text": "secret"}, {"type": "tool_use", "id": "t", "name": "Read", "input": {}}]
    output = [
        json.dumps(
            {"type": "stream_event", "event": {"type": "content_block_delta", "delta": {"text": "s"}}, **of_subagent}
        ),
        json.dumps({"type": "assistant", "message": {"id": "m", "content": blocks}, **of_subagent}),
    ]
    assert events_of(*output) == [ToolCall(call_id="t", name="Read", input={})]


def test_retries_and_denied_permissions_are_noticed() -> None:
    retries = [event.message for event in events_of(*lines("err429")) if isinstance(event, Notice)]
    assert retries[0] == "a model call failed (429 rate_limit); retry 1 of 2 in 1.0 s"
    denied = [event.message for event in events_of(*lines("denied")) if isinstance(event, Notice)]
    assert denied[0].startswith("Bash was denied: Output redirection to '/box/work/m.json' needs approval.")


def test_a_tool_server_that_did_not_start_is_noticed() -> None:
    assert Notice(message="MCP server 'bad' is failed") in events_of(*lines("mcp_broken"))


def test_a_run_that_went_on_after_its_result_is_one_run() -> None:
    """As when something that ran in the background was done: the program prints a second result."""
    reader = ClaudeCode().reader(AgentRequest(prompt="x"))
    events = [event for line in (*lines("edit"), *lines("resumed")) for event in reader.feed(line)]
    assert sum(isinstance(event, Finished) for event in events) == 1
    finished = reader.end(0, "")
    assert finished.text == "Hello from the fake model."
    assert finished.usage == Usage(input_tokens=3600, output_tokens=102, requests=3)
    assert (finished.cost_usd, finished.turns) == (pytest.approx(3 * 0.00548), 3)


def test_an_interrupt_is_one_although_it_exits_with_0() -> None:
    result = {
        "type": "result",
        "subtype": "error_during_execution",
        "is_error": True,
        "terminal_reason": "aborted_tools",
    }
    reader = ClaudeCode().reader(AgentRequest(prompt="x"))
    reader.feed(json.dumps(result))
    assert reader.end(0, "").failure is AgentFailure.INTERRUPTED


def test_what_a_killed_run_used_is_counted_from_its_messages() -> None:
    cut = next(
        number for number, line in enumerate(lines("edit")) if '"result"' in line[:60] or '"type":"result"' in line
    )
    reader = ClaudeCode().reader(AgentRequest(prompt="x"))
    for line in lines("edit")[:cut]:
        reader.feed(line)
    finished = reader.end(137, "")
    assert finished.usage == Usage(input_tokens=2400, output_tokens=68, requests=2)
    assert (finished.failure, finished.session_id) == (AgentFailure.INTERRUPTED, SESSION)


def test_a_version_that_counts_otherwise_is_read_by_what_it_has() -> None:
    """2.1.197 has no `model_usage_since_last_result`, and its cost is that of the run."""
    result = json.loads(lines("edit")[-1])
    del result["model_usage_since_last_result"]
    (finished,) = events_of(json.dumps(result))
    assert isinstance(finished, Finished)
    assert (finished.usage.input_tokens, finished.usage.output_tokens) == (2400, 68)
    assert finished.cost_usd == 0.01096


def test_an_answer_of_null_is_an_answer() -> None:
    request = AgentRequest(prompt="x", schema={"type": ["object", "null"]})
    result = {"type": "result", "subtype": "success", "structured_output": {"answer": None}, "result": "{}"}
    (finished,) = events_of(json.dumps(result), request=request)
    assert isinstance(finished, Finished)
    assert (finished.structured, finished.failure) == (None, None)


def test_a_missing_answer_is_looked_for_in_the_text_and_else_a_failure() -> None:
    request = AgentRequest(prompt="x", schema=TITLED)
    for text, structured, failure in (
        ('It is {"title": "a"}.', {"title": "a"}, None),
        ("It is done.", None, AgentFailure.BAD_OUTPUT),
    ):
        (finished,) = events_of(json.dumps({"type": "result", "subtype": "success", "result": text}), request=request)
        assert isinstance(finished, Finished)
        assert (finished.structured, finished.failure) == (structured, failure)


def test_a_schema_that_the_program_refuses_is_a_bad_request() -> None:
    stderr = 'Error: --json-schema is not a valid JSON Schema: strict mode: unknown keyword: "x"'
    finished = ClaudeCode().reader(AgentRequest(prompt="x")).end(1, stderr)
    assert finished.failure is AgentFailure.BAD_REQUEST
    assert finished.message == f"claude exited with 1: {stderr}"


# --- launching -------------------------------------------------------------------------------------------------------


def launch(**fields: Any) -> Launch:
    return ClaudeCode().launch(AgentRequest(**{"prompt": "Do it.", **fields}))


def test_the_command_line() -> None:
    started = launch(model="sonnet", session=SESSION, max_turns=3, max_cost_usd=0.5)
    assert started.argv == [
        "claude",
        "-p",
        "--output-format",
        "stream-json",
        "--verbose",
        "--include-partial-messages",
        "--permission-mode=bypassPermissions",
        "--settings={dir}/settings.json",
        "--strict-mcp-config",
        "--model=sonnet",
        f"--resume={SESSION}",
        "--max-turns=3",
        "--max-budget-usd=0.500000",
    ]
    assert started.stdin == b"Do it."


def test_the_environment() -> None:
    assert launch(base_url="http://gate", api_key="k").env == {
        "ANTHROPIC_API_KEY": "k",
        "ANTHROPIC_BASE_URL": "http://gate",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "7",
        "CLAUDE_CONFIG_DIR": "{home}",
        "DISABLE_AUTOUPDATER": "1",
        "IS_SANDBOX": "1",
    }
    assert ClaudeCode().api is ModelApi.ANTHROPIC


def test_a_project_cannot_lead_the_key_to_another_host() -> None:
    """What is in the settings file of the command line stands above the project's own."""
    started = launch(base_url="http://gate", options={"settings": {"env": {"A": "{dir}"}, "model": "opus"}})
    settings = json.loads(started.files["settings.json"])
    assert settings == {"env": {"A": "{dir}", "ANTHROPIC_BASE_URL": "http://gate"}, "model": "opus"}
    assert "{dir}" not in started.files["settings.json"]


def test_options_become_arguments_variables_and_files() -> None:
    started = launch(
        options={
            "append_system_prompt": "Be brief.",
            "tools": ["Bash", "Edit"],
            "allowed_tools": ["Bash(git *)", "Edit"],
            "permission_mode": "dontAsk",
            "mcp_servers": {"adder": {"command": "python3", "args": ["adder.py"], "env": {"KEY": "k"}}},
            "max_output_tokens": 1000,
            "request_timeout_s": 1.5,
            "fork_session": True,
            "args": ["--bare"],
        }
    )
    argv = list(started.argv)
    assert {"--permission-mode=dontAsk", "--tools=Bash,Edit", "--mcp-config={dir}/mcp.json", "--fork-session"} <= set(
        argv
    )
    assert argv[argv.index("--allowed-tools") : argv.index("--bare")] == ["--allowed-tools", "Bash(git *)", "Edit"]
    assert "--append-system-prompt-file={dir}/append-system-prompt.md" in argv
    assert started.files["append-system-prompt.md"] == "Be brief."
    server = {"type": "stdio", "command": "python3", "args": ["adder.py"], "env": {"KEY": "k"}}
    assert json.loads(started.files["mcp.json"]) == {"mcpServers": {"adder": server}}
    assert (started.env["CLAUDE_CODE_MAX_OUTPUT_TOKENS"], started.env["API_TIMEOUT_MS"]) == ("1000", "1500")


def test_a_schema_of_something_else_than_an_object_is_put_into_one() -> None:
    """It becomes the input of a tool, which is an object."""
    (argument,) = [one for one in launch(schema=NAMES).argv if one.startswith("--json-schema=")]
    schema = json.loads(argument.partition("=")[2])
    assert schema["properties"] == {"answer": NAMES}


def test_what_the_program_would_refuse_of_a_schema_is_left_out() -> None:
    schema = {
        **TITLED,
        "discriminator": {"propertyName": "title"},
        "$schema": "https://json-schema.org/draft/2020-12/schema",
    }
    (argument,) = [one for one in launch(schema=schema).argv if one.startswith("--json-schema=")]
    assert json.loads(argument.partition("=")[2]) == TITLED


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"permission_mode": "yolo"}, "permission_mode"),
        ({"mcp_servers": {"a": {}}}, "needs either a command or a url"),
        ({"append_system_prompt": "see {dir}"}, "would become a path"),
        ({"args": ["x" * 200_000]}, "can hand over 122880"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        launch(options=options)


def test_a_schema_too_long_for_an_argument_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the JSON schema has"):
        launch(schema={**TITLED, "description": "x" * 200_000})
