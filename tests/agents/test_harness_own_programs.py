"""Programs of one's own are agents, too: any that prints text, and any that speaks the protocol of custom harnesses."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from boxflow.testing.harness_contract import HarnessContract, Recording
from boxflow_backends.harnesses import Command, Sse

TITLED = {"type": "object", "properties": {"title": {"type": "string"}}}


def frames(*events: tuple[str, Any]) -> list[str]:
    """What the protocol's own helper prints."""
    return [line for name, data in events for line in (f"event: {name}", f"data: {json.dumps(data)}", "")]


def done(output: str, **more: Any) -> tuple[str, Any]:
    numbers = {
        "input_tokens": 12,
        "output_tokens": 3,
        "cached_input_tokens": 5,
        "total_cost_usd": 0.01,
        "session_id": "s1",
    }
    return "done", {"output": output, **numbers, **more}


# --- a command -------------------------------------------------------------------------------------------------------


class TestCommand(HarnessContract):
    options = {"argv": ["my-agent", "--fast"]}
    session = "any words"
    ends_by_exit = True

    def make_harness(self) -> Command:
        return Command()

    def recordings(self) -> Mapping[str, Recording]:
        asked = AgentRequest(prompt="x", schema=TITLED)
        answer = ["Thinking ...", "{", ' "title": "a"', "}", ""]
        return {
            "success": Recording(lines=["One.", "", "Two."], finished=Finished(text="One.\n\nTwo.")),
            "structured": Recording(
                lines=answer, request=asked, finished=Finished(text="\n".join(answer[:-1]), structured={"title": "a"})
            ),
            "no-structure": Recording(
                lines=["Done."],
                request=asked,
                finished=Finished(
                    text="Done.",
                    failure=AgentFailure.BAD_OUTPUT,
                    message="the agent was asked for JSON, and its answer holds none",
                ),
            ),
            "failure": Recording(
                lines=["One."],
                exit_code=2,
                stderr="Traceback\nHTTP 429 Too Many Requests\n",
                finished=Finished(
                    text="One.",
                    failure=AgentFailure.RATE_LIMITED,
                    message="the command exited with 2: Traceback\nHTTP 429 Too Many Requests",
                ),
            ),
            "not-there": Recording(
                lines=[],
                exit_code=127,
                stderr="sh: my-agent: not found",
                finished=Finished(
                    failure=AgentFailure.CRASHED, message="the command exited with 127: sh: my-agent: not found"
                ),
            ),
        }


def launch(harness: Command | Sse, **fields: Any) -> Launch:
    return harness.launch(AgentRequest(**{"prompt": "Do it.", "options": {"argv": ["my-agent"]}, **fields}))


def test_a_command_is_told_by_variables() -> None:
    started = launch(Command(), model="m", session="s", base_url="http://gate", api_key="k", schema=TITLED)
    assert started.env == {
        "BOXFLOW_MODEL": "m",
        "BOXFLOW_SESSION": "s",
        "BOXFLOW_BASE_URL": "http://gate",
        "BOXFLOW_API_KEY": "k",
        "BOXFLOW_SCHEMA": "{dir}/schema.json",
    }
    assert json.loads(started.files["schema.json"]) == TITLED


@pytest.mark.parametrize(("api", "prefix"), [(ModelApi.OPENAI, "OPENAI"), (ModelApi.ANTHROPIC, "ANTHROPIC")])
def test_a_command_that_speaks_a_known_interface_finds_its_variables(api: ModelApi, prefix: str) -> None:
    harness = Command(api=api)
    variables = launch(harness, base_url="http://gate", api_key="k").env
    assert (variables[f"{prefix}_BASE_URL"], variables[f"{prefix}_API_KEY"]) == ("http://gate", "k")
    assert harness.api is api


def test_a_command_that_wants_its_prompt_in_a_file_gets_one() -> None:
    options = {"argv": ["aider", "--message-file", "{dir}/prompt.txt"]}
    started = launch(Command(), options=options)
    assert started.files == {"prompt.txt": "Do it."}
    assert launch(Command()).files == {}
    with pytest.raises(ConfigurationError, match="would become a path"):
        launch(Command(), options=options, prompt="print {home}")


@pytest.mark.parametrize("harness", [Command(), Sse()])
@pytest.mark.parametrize("options", [{}, {"argv": []}, {"argv": [""]}])
def test_no_program_is_an_error_that_says_how_to_name_one(harness: Command | Sse, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"needs options=\{'argv': \[program, argument, ...\]\}"):
        launch(harness, options=options)


@pytest.mark.parametrize(
    ("stderr", "failure"),
    [
        ("HTTP 401 Unauthorized", AgentFailure.AUTHENTICATION),
        ("error code: 429", AgentFailure.RATE_LIMITED),
        ("openai.APIStatusError: Error code: 503 - busy", AgentFailure.MODEL_UNAVAILABLE),
        ("HTTP/1.1 404 Not Found", AgentFailure.BAD_REQUEST),
        ("boxflow: the budget of 'a' is spent: 1 of 1 USD", AgentFailure.BUDGET),
        ('File "a.py", line 401, in <module>\nKeyError: 429', AgentFailure.CRASHED),
        ("", AgentFailure.CRASHED),
    ],
)
def test_the_last_words_on_stderr_tell_what_went_wrong(stderr: str, failure: AgentFailure) -> None:
    assert Command().reader(AgentRequest(prompt="x")).end(1, stderr).failure is failure


def test_of_a_huge_output_the_end_is_kept() -> None:
    reader = Command().reader(AgentRequest(prompt="x"))
    events = [event for number in range(6) for event in reader.feed(f"{number}" * 1024**2)]
    assert [event for event in events if isinstance(event, Notice)] == [
        Notice(message="only the last 4194304 characters of the output are kept as its result")
    ]
    assert sum(isinstance(event, TextDelta) for event in events) == 6
    text = reader.end(0, "").text
    assert len(text) <= 4 * 1024**2
    assert text.endswith("5" * 1024**2)


# --- server-sent events ----------------------------------------------------------------------------------------------


class TestSse(HarnessContract):
    options = {"argv": ["my-agent"]}
    session = "s1"
    prompt_in_argv = True

    def make_harness(self) -> Sse:
        return Sse()

    def recordings(self) -> Mapping[str, Recording]:
        usage = Usage(input_tokens=12, cached_input_tokens=5, output_tokens=3)
        reported = {"session_id": "s1", "usage": usage, "cost_usd": 0.01}
        failed = {"error": "HTTP 401 Unauthorized", "input_tokens": 2, "session_id": ""}
        return {
            "success": Recording(
                lines=frames(
                    ("text", {"text": "Hel"}),
                    ("thinking", {"text": "hm"}),
                    ("tool", {"toolCallId": "t1", "name": "read", "input": {"path": "a"}}),
                    ("tool_result", {"toolCallId": "t1", "output": {"lines": 3}}),
                    ("text", {"text": "lo"}),
                    done("Hello"),
                ),
                finished=Finished(text="Hello", **reported),
            ),
            "structured": Recording(
                lines=frames(done('{"title": "a"}')),
                request=AgentRequest(prompt="x", schema=TITLED),
                finished=Finished(text='{"title": "a"}', structured={"title": "a"}, **reported),
            ),
            "error": Recording(
                lines=frames(("text", {"text": "Hel"}), ("error", failed)),
                exit_code=1,
                stderr="Traceback",
                request=AgentRequest(prompt="x", session="s0"),
                finished=Finished(
                    text="Hel",
                    session_id="s0",
                    usage=Usage(input_tokens=2),
                    failure=AgentFailure.AUTHENTICATION,
                    message="HTTP 401 Unauthorized",
                ),
            ),
            "ends-without-a-word": Recording(
                lines=frames(("text", {"text": "Hel"})),
                finished=Finished(
                    text="Hel",
                    failure=AgentFailure.BAD_OUTPUT,
                    message="the program exited with 0, but its output ends without a result",
                ),
            ),
        }


def read(*lines: str) -> tuple[list[AgentEvent], Finished]:
    reader = Sse().reader(AgentRequest(prompt="x"))
    return [event for line in lines for event in reader.feed(line)], reader.end(0, "")


def test_the_protocols_arguments() -> None:
    started = launch(Sse(), options={"argv": ["python3", "agent.py"]}, model="m", session="s1")
    assert started.argv == ["python3", "agent.py", "-p", "Do it.", "--model", "m", "--stream", "--session", "s1"]
    assert launch(Sse()).argv == ["my-agent", "-p", "Do it.", "--model", "custom", "--stream"]


def test_the_protocols_events_are_told() -> None:
    events, _ = read(*TestSse().recordings()["success"].lines)
    assert events[:-1] == [
        TextDelta(text="Hel"),
        Reasoning(text="hm"),
        ToolCall(call_id="t1", name="read", input={"path": "a"}),
        ToolResult(call_id="t1", output='{"lines":3}'),
        TextDelta(text="lo"),
    ]


def test_the_framing_is_that_of_server_sent_events() -> None:
    lines = ["\ufeff: a comment", "id: 7", "retry: 10", "event:text\r", "data: {\r", 'data:"text": "a"}\r', "\r"]
    events, _ = read(*lines)
    assert events == [TextDelta(text="a")]


def test_a_last_event_counts_without_an_empty_line_after_it() -> None:
    lines = frames(done("Hello"))
    assert read(*lines[:-1])[1] == read(*lines)[1]


def test_events_of_another_protocol_and_lines_of_none_are_passed_over() -> None:
    events, _ = read("Loading ...", *frames(("ping", {}), ("text", "no object")))
    assert events == [Notice(message="Loading ..."), Notice(message='text: "no object"')]


def test_an_event_without_an_end_does_not_fill_the_memory() -> None:
    events, _ = read("event: text", *["data: " + "x" * 1024**2] * 20)
    assert len(events) == 4
    assert isinstance(events[0], Notice)


def test_a_cost_of_nothing_is_one_that_is_not_known() -> None:
    assert read(*frames(done("Hello", total_cost_usd=0)))[1].cost_usd is None
