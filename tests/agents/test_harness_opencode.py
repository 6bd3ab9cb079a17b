"""opencode is started as it wants to be, and what it prints is understood."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from boxflow.errors import ConfigurationError
from boxflow.harness import (
    AgentEvent,
    AgentFailure,
    AgentRequest,
    Finished,
    Launch,
    Notice,
    Reasoning,
    SessionStarted,
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from boxflow.testing.harness_contract import HarnessContract, Recording
from boxflow_backends.harnesses import OpenCode

SAMPLES = Path(__file__).parent / "samples" / "opencode"
TITLED = {"type": "object", "properties": {"title": {"type": "string"}, "no": {}}}
GATE = "http://gate/v1"
UNABLE = "Cannot connect to API: The socket connection was closed unexpectedly. For more information, pass "
REJECTED = "The user rejected permission to use this specific tool call."


def lines(name: str) -> list[str]:
    return (SAMPLES / f"{name}.jsonl").read_text().splitlines()


def events_of(*output: str) -> list[AgentEvent]:
    reader = OpenCode().reader(AgentRequest(prompt="x"))
    return [event for line in output for event in reader.feed(line)]


def recording(name: str, *, calls: int = 0, exit_code: int = 0, request: Any = None, **finished: Any) -> Recording:
    """Each call of the scripted model takes 1,200 tokens in and 34 out."""
    session_id = json.loads(lines(name)[0])["sessionID"] if lines(name) else None
    usage = Usage(input_tokens=1200 * calls, output_tokens=34 * calls, requests=calls)
    return Recording(
        lines=lines(name),
        exit_code=exit_code,
        stderr=finished.pop("stderr", ""),
        request=AgentRequest(prompt="x", **(request or {})),
        finished=Finished(**{"session_id": session_id, "usage": usage, "turns": calls or None, **finished}),
    )


def failed(name: str, failure: AgentFailure, message: str, **more: Any) -> Recording:
    return recording(name, **{"exit_code": 1, "failure": failure, "message": message, "turns": None, **more})


RECORDINGS: Mapping[str, Recording] = {
    "success": recording("edit", calls=2, text="Done. Last tool result was: Wrote file successfully."),
    "continued": recording("resumed", calls=1, text="Hello from the fake model.", request={"session": "ses_x"}),
    "structured": recording(
        "json", calls=1, text='Here: {"no": 1}\n', structured={"no": 1}, request={"schema": TITLED}
    ),
    "no-structure": recording(
        "resumed",
        calls=1,
        text="Hello from the fake model.",
        failure=AgentFailure.BAD_OUTPUT,
        message="the agent was asked for JSON, and its answer holds none",
        request={"schema": TITLED},
    ),
    "a-tool-fails": recording("toolfail", calls=2, text="Done. Last tool result was: to-stderr\n"),
    "400": failed("err400", AgentFailure.BAD_REQUEST, "scripted bad request"),
    "401": failed("err401", AgentFailure.AUTHENTICATION, "invalid x-api-key (scripted)"),
    "402": failed("err402", AgentFailure.BUDGET, "the budget of this run is spent (scripted)"),
    "429": failed("err429", AgentFailure.RATE_LIMITED, "scripted rate limit"),
    "500": failed("err500", AgentFailure.MODEL_UNAVAILABLE, "scripted server error"),
    "cut": failed(
        "cut",
        AgentFailure.MODEL_UNAVAILABLE,
        UNABLE + "`verbose: true` in the second argument to fetch()",
    ),
    "bad-model": failed("bad_model", AgentFailure.CRASHED, "Unexpected server error. Check server logs for details."),
    "permission": failed(
        "ask",
        AgentFailure.PERMISSION,
        REJECTED,
        exit_code=0,
        calls=1,
        stderr="\x1b[93m\x1b[1m! \x1b[0mpermission requested: bash (echo hi); auto-rejecting\n",
    ),
    "no-such-session": failed(
        "nosession",
        AgentFailure.SESSION_NOT_FOUND,
        "opencode exited with 1: Error: Session not found",
        stderr="\x1b[91m\x1b[1mError: \x1b[0mSession not found\n",
        request={"session": "ses_nope"},
    ),
    "killed-while-it-tries-again": failed(
        "midstream", AgentFailure.INTERRUPTED, "opencode was ended by signal 15", exit_code=143
    ),
}


class TestOpenCode(HarnessContract):
    session = "ses_de5fce26dffewwNAS96pjxI2A6"

    def make_harness(self) -> OpenCode:
        return OpenCode()

    def recordings(self) -> Mapping[str, Recording]:
        return RECORDINGS


# --- reading ---------------------------------------------------------------------------------------------------------


def test_tools_and_their_results_are_told() -> None:
    events = events_of(*lines("mcp"))
    assert isinstance(events[0], SessionStarted)
    assert events[1:] == [
        ToolCall(call_id="call_85745908591a4118", name="adder_add", input={"a": 2, "b": 40}),
        ToolResult(call_id="call_85745908591a4118", output='42 the "key" {x}'),
        TextDelta(text='Done. Last tool result was: 42 the "key" {x}'),
    ]


def test_a_command_that_exits_with_3_failed_although_it_completed() -> None:
    (result,) = [event for event in events_of(*lines("toolfail")) if isinstance(event, ToolResult)]
    assert (result.output, result.is_error) == ("to-stderr\n", True)


def part(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, "sessionID": "s", "part": fields})


def step(reason: str, **tokens: Any) -> str:
    return part("step_finish", reason=reason, tokens=tokens, cost=0.25)


def ended(*output: str, exit_code: int = 0) -> Finished:
    reader = OpenCode().reader(AgentRequest(prompt="x"))
    for line in output:
        reader.feed(line)
    return reader.end(exit_code, "")


def test_the_words_of_the_last_message_are_the_result() -> None:
    said = [part("text", messageID=one, text=text) for one, text in (("a", "I begin."), ("b", "Done."), ("b", "Bye."))]
    assert ended(*said, step("stop")).text == "Done.\nBye."


def test_thoughts_are_told() -> None:
    assert events_of(part("reasoning", text="Hm."))[1:] == [Reasoning(text="Hm.")]


def test_tokens_and_cost_are_summed_over_the_steps() -> None:
    tokens = {"input": 10, "output": 5, "reasoning": 2, "cache": {"read": 100, "write": 7}}
    finished = ended(step("tool-calls", **tokens), step("stop", **tokens))
    assert finished.usage == Usage(input_tokens=34, cached_input_tokens=200, output_tokens=14, requests=2)
    assert (finished.cost_usd, finished.turns) == (0.5, 2)


@pytest.mark.parametrize("reason", ["length", "content-filter", "error"])
def test_an_answer_that_the_model_did_not_end_is_no_success(reason: str) -> None:
    finished = ended(part("text", messageID="a", text="half"), step(reason))
    assert (finished.failure, finished.text) == (AgentFailure.BAD_OUTPUT, "half")


def test_a_step_that_began_after_the_end_makes_it_none() -> None:
    assert ended(step("stop"), part("step_start")).failure is AgentFailure.BAD_OUTPUT


def test_a_denied_tool_after_which_it_goes_on_is_no_failure() -> None:
    denied = part("tool_use", callID="c", tool="bash", state={"status": "error", "error": REJECTED})
    assert ended(denied, step("tool-calls"), part("step_start"), step("stop")).failure is None


def test_no_credit_is_told_from_a_bad_request_although_it_has_its_status() -> None:
    """OpenAI's programs stop trying at 400, so that is what the gateway answers."""
    error = {"message": "boxflow: the budget of 'a' is spent: 1 of 1 USD", "type": "insufficient_quota"}
    data = {"message": error["message"], "statusCode": 400, "responseBody": json.dumps({"error": error})}
    finished = ended(json.dumps({"type": "error", "error": {"name": "APIError", "data": data}}), exit_code=1)
    assert (finished.failure, finished.message) == (AgentFailure.BUDGET, error["message"])


def test_an_error_is_noticed() -> None:
    assert events_of(*lines("err429"))[1:] == [Notice(message="scripted rate limit")]


# --- launching -------------------------------------------------------------------------------------------------------


def launch(**fields: Any) -> Launch:
    return OpenCode().launch(AgentRequest(**{"prompt": "Do it.", **fields}))


def pinned(started: Launch) -> dict[str, Any]:
    return json.loads(started.env["OPENCODE_CONFIG_CONTENT"])


def test_the_command_line() -> None:
    assert launch().argv == ["opencode", "run", "--format=json", "--thinking", "--title=boxflow"]
    assert launch(session="ses_x").argv == ["opencode", "run", "--format=json", "--thinking", "--session=ses_x"]


def test_the_model_and_where_it_is_stand_where_no_project_can_change_them() -> None:
    started = launch(
        model="some/model", base_url=GATE, api_key="k", options={"model_settings": {"limit": {"output": 9}}}
    )
    assert pinned(started) == {
        "autoupdate": False,
        "share": "disabled",
        "permission": "allow",
        "enabled_providers": ["boxflow"],
        "model": "boxflow/some/model",
        "small_model": "boxflow/some/model",
        "provider": {
            "boxflow": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "boxflow",
                "options": {"baseURL": GATE, "apiKey": "{env:BOXFLOW_API_KEY}"},
                "models": {"some/model": {"name": "some/model", "tool_call": True, "limit": {"output": 9}}},
            }
        },
    }
    assert started.env["BOXFLOW_API_KEY"] == "k"


def test_without_a_base_url_the_models_provider_gets_the_key() -> None:
    started = launch(model="anthropic/claude-x", api_key="k")
    assert pinned(started)["provider"] == {"anthropic": {"options": {"apiKey": "{env:BOXFLOW_API_KEY}"}}}
    assert pinned(started)["model"] == "anthropic/claude-x"


def test_a_base_url_without_a_model_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs a model beside a base URL"):
        launch(base_url=GATE)


def test_its_directories_are_below_home_and_home_itself_stays() -> None:
    variables = launch().env
    assert {name: value for name, value in variables.items() if "{home}" in value} == {
        "XDG_CACHE_HOME": "{home}/cache",
        "XDG_CONFIG_HOME": "{home}/config",
        "XDG_DATA_HOME": "{home}/data",
        "XDG_STATE_HOME": "{home}/state",
    }
    assert "HOME" not in variables


def test_options_become_configuration_and_files() -> None:
    started = launch(
        options={
            "agent": "plan",
            "append_system_prompt": "Be brief.",
            "mcp_servers": {
                "a": {"command": "python3", "args": ["{dir}"], "env": {"K": "v"}},
                "b": {"url": "https://b.example"},
            },
            "config": {"snapshot": True, "mcp": {"a": {"timeout": 9}}},
        }
    )
    text = started.files["opencode.json"]
    config = json.loads(text)
    assert config["mcp"]["a"] == {
        "type": "local",
        "command": ["python3", "{dir}"],
        "environment": {"K": "v"},
        "enabled": True,
        "timeout": 9,
    }
    assert config["mcp"]["b"]["type"] == "remote"
    assert config["snapshot"] is True
    # Of all braces, only those of the harness's own file become a path.
    assert config["instructions"] == ["{dir}/boxflow-instructions.md"]
    assert text.count("{dir}") == 1
    assert started.files["boxflow-instructions.md"] == "Be brief."
    assert "--agent=plan" in started.argv


def test_a_schema_stands_in_the_prompt() -> None:
    started = launch(schema=TITLED)
    assert started.stdin.startswith(b"Do it.\n\n")
    assert b'{"type":"object","properties":{"title":{"type":"string"},"no":{}}}' in started.stdin
    assert launch() == attrs.evolve(started, stdin=b"Do it.")
