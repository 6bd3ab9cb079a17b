"""Codex is started as it wants to be, and what it prints is understood."""

from __future__ import annotations

import json
import tomllib
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
from boxflow_backends.harnesses import Codex

SAMPLES = Path(__file__).parent / "samples" / "codex"
SESSION = "01a21a01-0a91-7f41-be13-3282e603158e"
UNKNOWN_SESSION = "99999999-2222-4333-8444-555555555555"
TITLED = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
WARNING = "WARNING: proceeding, even though we could not create PATH aliases: Refusing to create helper binaries"
NO_ROLLOUT = (
    f"Error: thread/resume: thread/resume failed: no rollout found for thread id {UNKNOWN_SESSION} (code -32600)"
)
BUSY = "We’re currently experiencing high demand, which may cause temporary errors."


def lines(name: str) -> list[str]:
    return (SAMPLES / f"{name}.jsonl").read_text().splitlines()


def events_of(*output: str) -> list[AgentEvent]:
    reader = Codex().reader(AgentRequest(prompt="x"))
    return [event for line in output for event in reader.feed(line)]


def recording(name: str, *, calls: int = 0, exit_code: int = 0, request: Any = None, **finished: Any) -> Recording:
    """Each call of the scripted model takes 1,200 tokens in and 34 out."""
    session_id = json.loads(lines(name)[0])["thread_id"] if lines(name) else None
    usage = Usage(input_tokens=1200 * calls, output_tokens=34 * calls)
    return Recording(
        lines=lines(name),
        exit_code=exit_code,
        stderr=finished.pop("stderr", WARNING),
        request=AgentRequest(prompt="x", **(request or {})),
        finished=Finished(**{"session_id": session_id, "usage": usage, **finished}),
    )


def failed(name: str, failure: AgentFailure, message: str, **more: Any) -> Recording:
    return recording(name, **{"exit_code": 1, "failure": failure, "message": message, **more})


ANSWER = '{"title": "{dir}", "count": 2, "x": null}'
AT_MODEL = "url: http://127.0.0.1:8000/v1/responses"
PATCHED = (
    "Done. Last tool result was: Exit code: 0\nWall time: 0 seconds\nOutput:\nSuccess. "
    "Updated the following files:\nA a.txt\n"
)
RECORDINGS: Mapping[str, Recording] = {
    "success": recording("edit", calls=2, text=PATCHED),
    # It says 3,600 tokens, of which 2,400 are those of the run before.
    "continued": recording("resumed", text="Hello from the fake model.", request={"session": SESSION}),
    "structured": recording("json", calls=1, text=ANSWER, structured=json.loads(ANSWER), request={"schema": TITLED}),
    "structured-list": recording(
        "array", calls=1, text='["a", "b"]', structured=["a", "b"], request={"schema": {"type": "array"}}
    ),
    # Codex does not validate: that is for whoever asked.
    "schema-not-met": recording(
        "badjson", calls=1, text='{"wrong": true}', structured={"wrong": True}, request={"schema": TITLED}
    ),
    "400": failed("err400", AgentFailure.BAD_REQUEST, "scripted bad request"),
    "401": failed(
        "err401",
        AgentFailure.AUTHENTICATION,
        f"unexpected status 401 Unauthorized: invalid x-api-key (scripted), {AT_MODEL}",
    ),
    "402": failed(
        "err402",
        AgentFailure.BUDGET,
        f"unexpected status 402 Payment Required: the budget of this run is spent (scripted), {AT_MODEL}",
    ),
    "429": failed("err429", AgentFailure.RATE_LIMITED, "exceeded retry limit, last status: 429 Too Many Requests"),
    "500": failed("err500", AgentFailure.MODEL_UNAVAILABLE, BUSY),
    "breaks-off": failed(
        "midstream",
        AgentFailure.MODEL_UNAVAILABLE,
        "stream disconnected before completion: scripted mid-stream error",
    ),
    "cut": failed(
        "cut",
        AgentFailure.MODEL_UNAVAILABLE,
        "stream disconnected before completion: Transport error: network error: error decoding response body",
    ),
    "refused-and-killed": failed("refused", AgentFailure.INTERRUPTED, "codex was ended by signal 9", exit_code=137),
    "no-key": failed("nokey", AgentFailure.AUTHENTICATION, "Missing environment variable: `FAKE_API_KEY`."),
    "no-such-session": failed(
        "nosession",
        AgentFailure.SESSION_NOT_FOUND,
        f"codex exited with 1: {WARNING}\n{NO_ROLLOUT}",
        stderr=f"{WARNING}\n{NO_ROLLOUT}",
        request={"session": UNKNOWN_SESSION},
    ),
    "another-session": recording(
        "resumed",
        text="Hello from the fake model.",
        failure=AgentFailure.SESSION_NOT_FOUND,
        message=f"codex began a new session instead of continuing {UNKNOWN_SESSION!r}, which it does not know",
        request={"session": UNKNOWN_SESSION},
    ),
}


class TestCodex(HarnessContract):
    def make_harness(self) -> Codex:
        return Codex()

    def recordings(self) -> Mapping[str, Recording]:
        return RECORDINGS


# --- reading ---------------------------------------------------------------------------------------------------------


def test_tools_and_their_results_are_told() -> None:
    changes = [{"path": "/box/work/hello.txt", "kind": "add"}]
    command = {"command": "/bin/bash -lc 'echo hi from bash; uname -s'"}
    assert events_of(*lines("multi"))[:-2] == [
        SessionStarted(session_id="01a2079a-7223-72a2-ac53-a6160ff0e8e2"),
        ToolCall(call_id="item_0", name="file_change", input={"changes": changes}),
        ToolResult(call_id="item_0", output="add /box/work/hello.txt"),
        ToolCall(call_id="item_1", name="command_execution", input=command),
        ToolResult(call_id="item_1", output="hi from bash\nLinux\n"),
    ]


def test_a_failed_command_is_told_as_one() -> None:
    (result,) = [event for event in events_of(*lines("toolfail")) if isinstance(event, ToolResult)]
    assert (result.output, result.is_error) == ("to-stderr\n", True)


def test_a_tool_of_a_server_is_told_by_both_names() -> None:
    events = events_of(*lines("mcp"))
    assert ToolCall(call_id="item_1", name="adder.add", input={"a": 2, "b": 40}) in events
    assert ToolResult(call_id="item_1", output='42 the "key" {x}') in events


def test_a_tool_whose_beginning_was_not_told_is_told_at_its_end() -> None:
    item = {"id": "item_4", "type": "web_search", "query": "asyncio", "status": "completed"}
    assert events_of(json.dumps({"type": "item.completed", "item": item})) == [
        ToolCall(call_id="item_4", name="web_search", input={"query": "asyncio"}),
        ToolResult(call_id="item_4"),
    ]


def test_reasoning_warnings_and_retries_are_told() -> None:
    thought = {"type": "item.completed", "item": {"id": "item_0", "type": "reasoning", "text": "Hm."}}
    warning = {"type": "item.completed", "item": {"id": "item_1", "type": "error", "message": "unknown\n model"}}
    assert events_of(json.dumps(thought), json.dumps(warning)) == [
        Reasoning(text="Hm."),
        Notice(message="unknown model"),
    ]
    retries = [event.message for event in events_of(*lines("err429")) if isinstance(event, Notice)]
    assert retries[0] == "Reconnecting... 1/2 (exceeded retry limit, last status: 429 Too Many Requests)"


def test_cached_tokens_are_counted_once() -> None:
    usage = {"input_tokens": 100, "cached_input_tokens": 60, "output_tokens": 9, "reasoning_output_tokens": 5}
    (finished,) = events_of(json.dumps({"type": "turn.completed", "usage": usage}))
    assert isinstance(finished, Finished)
    assert finished.usage == Usage(input_tokens=40, cached_input_tokens=60, output_tokens=9)


def test_no_credit_is_told_from_a_bad_request_although_it_has_its_status() -> None:
    """OpenAI's programs stop trying at 400, so that is what the gateway answers."""
    error = {"message": "boxflow: the budget of 'a' is spent: 1 of 1 USD", "type": "insufficient_quota"}
    (finished,) = events_of(json.dumps({"type": "turn.failed", "error": {"message": json.dumps({"error": error})}}))
    assert isinstance(finished, Finished)
    assert (finished.failure, finished.message) == (AgentFailure.BUDGET, error["message"])


def test_a_session_read_from_the_middle_of_its_output_is_not_taken_for_another_one() -> None:
    reader = Codex().reader(AgentRequest(prompt="x", session=SESSION.upper()))
    events = [event for line in lines("resumed")[1:] for event in reader.feed(line)]
    assert isinstance(events[-1], Finished)
    assert reader.end(0, "").failure is None


def test_the_last_message_is_the_result() -> None:
    said = [
        {"type": "item.completed", "item": {"type": "agent_message", "text": text}} for text in ("I begin.", "Done.")
    ]
    events = events_of(*map(json.dumps, [*said, {"type": "turn.completed"}]))
    assert events[:2] == [TextDelta(text="I begin."), TextDelta(text="Done.")]
    assert events[2] == Finished(text="Done.")


# --- launching -------------------------------------------------------------------------------------------------------


def launch(**fields: Any) -> Launch:
    return Codex().launch(AgentRequest(**{"prompt": "Do it.", **fields}))


def config_of(started: Launch) -> dict[str, Any]:
    """What the program makes of the `-c` arguments."""
    argv = list(started.argv)
    given = [argv[number + 1] for number, one in enumerate(argv) if one == "-c"]
    return tomllib.loads("\n".join(given))


def test_the_command_line() -> None:
    argv = launch(model="gpt-5.5", base_url="http://gate/v1", api_key="k").argv
    assert [one for number, one in enumerate(argv) if one != "-c" and argv[number - 1] != "-c"] == [
        "codex",
        "exec",
        "--json",
        "--skip-git-repo-check",
        "--ignore-user-config",
        "--dangerously-bypass-approvals-and-sandbox",
        "--model=gpt-5.5",
        "--",
        "-",
    ]


def test_the_configuration() -> None:
    started = launch(base_url="http://gate/v1", api_key="k")
    assert config_of(started) == {
        "analytics": {"enabled": False},
        "check_for_update_on_startup": False,
        "model_provider": "boxflow",
        "model_providers": {
            "boxflow": {
                "name": "boxflow",
                "base_url": "http://gate/v1",
                "wire_api": "responses",
                "request_max_retries": 2,
                "stream_max_retries": 2,
                "env_key": "BOXFLOW_API_KEY",
            }
        },
        "shell_environment_policy": {"exclude": ["BOXFLOW_API_KEY"]},
    }
    assert started.env == {"CODEX_HOME": "{home}", "BOXFLOW_API_KEY": "k"}
    assert Codex().api is ModelApi.OPENAI


def test_a_key_without_a_base_url_is_for_openai() -> None:
    assert config_of(launch(api_key="k"))["model_providers"]["boxflow"]["base_url"] == "https://api.openai.com/v1"
    assert "model_provider" not in config_of(launch())


def test_a_session_is_continued_by_its_id() -> None:
    argv = launch(session=SESSION).argv
    assert argv[:3] == ["codex", "exec", "resume"]
    assert argv[-3:] == ["--", SESSION, "-"]


@pytest.mark.parametrize("session", ["--last", "my session", "-", "01a21a01"])
def test_what_is_no_uuid_is_refused_since_it_would_begin_a_new_session(session: str) -> None:
    with pytest.raises(ConfigurationError, match="those are UUIDs"):
        launch(session=session)


def test_options_become_configuration() -> None:
    started = launch(
        options={
            "append_system_prompt": 'Say "ä".\n\\ {dir} \x7f',
            "reasoning_effort": "low",
            "config": {"model_verbosity": "low", "tools": {"web search": [True, 1.5]}},
            "mcp_servers": {"a.b": {"command": "python3", "args": ["x"], "env": {"TOKEN": "t"}}},
        }
    )
    config = config_of(started)
    assert config["developer_instructions"] == 'Say "ä".\n\\ {dir} \x7f'
    assert (config["model_reasoning_effort"], config["model_verbosity"]) == ("low", "low")
    assert config["tools"] == {"web search": [True, 1.5]}
    assert config["mcp_servers"] == {"a.b": {"command": "python3", "args": ["x"], "env_vars": ["TOKEN"]}}


def test_secrets_of_tool_servers_are_in_variables_and_not_in_arguments() -> None:
    servers = {
        "a": {"command": "a", "env": {"TOKEN": "secret-1"}},
        "b": {"url": "https://b.example", "headers": {"Authorization": "secret-2"}},
    }
    started = launch(options={"mcp_servers": servers})
    assert not any("secret" in one for one in started.argv)
    headers = config_of(started)["mcp_servers"]["b"]["env_http_headers"]
    assert (started.env["TOKEN"], started.env[headers["Authorization"]]) == ("secret-1", "secret-2")


def test_tool_servers_that_need_two_values_of_one_variable_are_refused() -> None:
    servers = {name: {"command": "x", "env": {"TOKEN": name}} for name in ("a", "b")}
    with pytest.raises(ConfigurationError, match="'b' needs another value of 'TOKEN'"):
        launch(options={"mcp_servers": servers})


def test_a_schema_is_made_strict_where_that_says_the_same() -> None:
    schema = {**TITLED, "properties": {"title": {"type": "string"}, "note": {"type": "string", "default": ""}}}
    started = launch(schema=schema)
    assert "--output-schema={dir}/schema.json" in started.argv
    assert json.loads(started.files["schema.json"]) == {
        "type": "object",
        "properties": {"title": {"type": "string"}, "note": {"type": "string"}},
        "required": ["title", "note"],
        "additionalProperties": False,
    }


def test_a_schema_that_strict_mode_cannot_say_stands_in_the_prompt() -> None:
    started = launch(schema={"type": "object", "additionalProperties": {"type": "integer"}})
    assert not any("--output-schema" in one for one in started.argv)
    assert b"fits this JSON schema" in started.stdin
    assert b'"additionalProperties":{"type":"integer"}' in started.stdin
