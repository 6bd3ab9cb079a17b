"""A scripted model keeps to its script in three languages, whoever asks, however often; and breaks when told to."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from agents.model_client import APIS, COUNTS, Agent, events, http

from boxflow.errors import ConfigurationError
from boxflow.testing.model_server import (
    Answer,
    CutStream,
    EditFile,
    Fail,
    First,
    Garbage,
    Hang,
    ModelRequest,
    ReadFile,
    Reply,
    RunCommand,
    Say,
    ScriptedModel,
    Think,
    Together,
    Tokens,
    Use,
    WriteFile,
    prompts,
    script_from_json,
)


def tool(*arguments: str) -> dict[str, Any]:
    properties = {name: {"type": "string"} for name in arguments}
    return {"type": "object", "properties": properties, "required": list(arguments)}


CLAUDE = {
    "Bash": tool("command", "description"),
    "Write": tool("file_path", "content"),
    "Edit": tool("file_path", "old_string", "new_string"),
    "Read": tool("file_path"),
}
OPENCODE = {
    "bash": tool("command"),
    "write": tool("filePath", "content"),
    "edit": tool("filePath", "oldString", "newString"),
    "read": tool("filePath"),
}
CODEX: dict[str, dict[str, Any]] = {"exec_command": tool("cmd"), "apply_patch": {}}
both = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
each_api = pytest.mark.parametrize("api", APIS)


# --- turns -----------------------------------------------------------------------------------------------------------


@each_api
@both
async def test_the_turns_of_a_script_come_in_order(api: str, stream: bool) -> None:
    script = [Use("look", {"at": "a"}), Together([Say("And now"), Use("look", {"at": "b"})]), Say("Done.")]
    async with ScriptedModel(script) as model:
        agent = Agent(model, api, stream, tools={"look": tool("at")})
        told = await agent.ask("go")
        assert [call[1:] for call in told.calls] == [("look", {"at": "a"})]
        told = await agent.give(told, "seen a")
        assert (told.text, [call[1:] for call in told.calls]) == ("And now", [("look", {"at": "b"})])
        told = await agent.give(told, "seen b")
        assert (told.text, told.calls) == ("Done.", [])
    assert [request.turn for request in model.requests] == [0, 1, 2]
    assert [output.text for output in model.requests[-1].tool_outputs] == ["seen a", "seen b"]
    assert model.requests[-1].last_user_text == "go"
    assert model.requests[0].tools["look"].first_of(["to", "at"]) == "at"


@each_api
async def test_a_session_that_goes_on_gets_the_next_turn(api: str) -> None:
    async with ScriptedModel([Say("one"), Say("two")]) as model:
        agent = Agent(model, api)
        assert [(await agent.ask("first")).text, (await agent.ask("second")).text] == ["one", "two"]


@each_api
async def test_the_same_question_again_gets_the_same_turn(api: str) -> None:
    async with ScriptedModel([Use("look", {"at": "a"}), Say("Done.")]) as model:
        first, second = (Agent(model, api, tools={"look": tool("at")}) for _ in range(2))
        told = await asyncio.gather(first.ask("go"), second.ask("go"))
        assert told[0].calls == told[1].calls
        again = await asyncio.gather(first.give(told[0]), second.give(told[1]))
        assert [one.text for one in again] == ["Done.", "Done."]


async def test_uses_of_tools_that_were_torn_apart_are_one_turn() -> None:
    async with ScriptedModel([Together([Use("a"), Use("b")]), Say("Done.")]) as model:
        agent = Agent(model, "responses", tools={"a": tool("x"), "b": tool("x")})
        told = await agent.ask("go")
        calls = [one for one in agent.history if one.get("type") == "function_call"]
        agent.history[1:] = []
        for call in calls:
            agent.history.append(call)
            agent.history.append({"type": "function_call_output", "call_id": call["call_id"], "output": "ok"})
        assert len(told.calls) == 2
        assert (await agent.go_on()).text == "Done."


@each_api
async def test_a_script_that_ends_too_early_says_so(api: str) -> None:
    async with ScriptedModel([Say("one")]) as model:
        agent = Agent(model, api)
        await agent.ask("first")
        with pytest.raises(httpx.HTTPStatusError) as failed:
            await agent.ask("second")
    assert failed.value.response.status_code == 400
    assert failed.value.response.json()["error"]["message"] == (
        "the script has 1 turn, and is asked for one more: end it with a `Say`"
    )


async def test_each_prompt_has_its_own_turns() -> None:
    script = prompts({"to Go": [Use("look"), Say("Go.")], "to Rust": [Say("Rust.")], "": [Say("Hello.")]})
    async with ScriptedModel(script) as model:
        go, rust = (Agent(model, "chat", tools={"look": tool("at")}) for _ in range(2))
        told = await go.ask("port it to Go")
        assert (await rust.ask("port it to Rust")).text == "Rust."
        assert (await go.give(told)).text == "Go."
        assert (await go.ask("and now to Rust")).text == "Rust."
        assert (await go.ask("thanks")).text == "Hello."


async def test_a_prompt_that_no_script_is_for_is_named() -> None:
    async with ScriptedModel(prompts({"to Go": [Say("Go.")]})) as model:
        with pytest.raises(httpx.HTTPStatusError) as failed:
            await Agent(model, "chat").ask("hello")
    message = failed.value.response.json()["error"]["message"]
    assert message == "the script has nothing for 'hello', only for ['to Go']"


@pytest.mark.parametrize("later", [False, True], ids=["function", "coroutine"])
async def test_a_function_decides_from_the_request(later: bool) -> None:
    def decide(request: ModelRequest) -> Reply:
        return Say(f"{request.model} {request.api} {request.turn} {request.last_user_text} {request.system}")

    async def decide_later(request: ModelRequest) -> Reply:
        await asyncio.sleep(0)
        return decide(request)

    async with ScriptedModel(decide_later if later else decide) as model:
        agent = Agent(model, "messages", options={"system": [{"type": "text", "text": "be brief"}]})
        assert (await agent.ask("hi")).text == "m-1 messages 0 hi be brief"


async def test_what_a_script_raises_is_raised_to_whoever_runs_it() -> None:
    def decide(request: ModelRequest) -> Reply:
        raise LookupError(request.last_user_text)

    with pytest.raises(LookupError, match="hi"):
        async with ScriptedModel(decide) as model:
            with pytest.raises(httpx.HTTPStatusError, match="500"):
                await Agent(model, "chat").ask("hi")


# --- tools -----------------------------------------------------------------------------------------------------------


async def used(reply: Reply, tools: dict[str, dict[str, Any]], api: str = "messages") -> tuple[str, Any]:
    async with ScriptedModel([reply]) as model:
        agent = Agent(model, api, tools=tools)
        agent.history.append({"role": "system", "content": "Working directory: /work/it\n"})
        [(_id, name, given)] = (await agent.ask("go")).calls
        return name, given


WISHES: Sequence[tuple[Reply, dict[str, dict[str, Any]], str, Any]] = [
    (WriteFile("a/b", "x\n"), CLAUDE, "Write", {"file_path": "/work/it/a/b", "content": "x\n"}),
    (WriteFile("/abs", "x\n"), OPENCODE, "write", {"filePath": "/abs", "content": "x\n"}),
    (ReadFile("b"), OPENCODE, "read", {"filePath": "/work/it/b"}),
    (ReadFile("it's"), {"bash": tool("command")}, "bash", {"command": "cat 'it'\"'\"'s'"}),
    (
        EditFile("b", "x\n", "y\n"),
        CLAUDE,
        "Edit",
        {"file_path": "/work/it/b", "old_string": "x\n", "new_string": "y\n"},
    ),
    (RunCommand("ls"), CLAUDE, "Bash", {"command": "ls", "description": "scripted"}),
    (RunCommand("ls"), OPENCODE, "bash", {"command": "ls"}),
    (RunCommand("ls"), CODEX, "exec_command", {"cmd": "ls"}),
    (
        RunCommand("ls"),
        {"shell": {"type": "object", "properties": {"command": {"type": "array"}}}},
        "shell",
        {"command": ["sh", "-c", "ls"]},
    ),
    (WriteFile("a", "x\ny\n"), CODEX, "apply_patch", "*** Begin Patch\n*** Add File: a\n+x\n+y\n*** End Patch\n"),
    (
        EditFile("a", "x\n", "y\nz\n"),
        CODEX,
        "apply_patch",
        "*** Begin Patch\n*** Update File: a\n@@\n-x\n+y\n+z\n*** End Patch\n",
    ),
    (WriteFile("d/a", "no newline"), CODEX, "exec_command", {"cmd": "mkdir -p d && printf %s 'no newline' > d/a"}),
    (RunCommand("ls"), {"exec": {}}, "exec", 'text(await tools.exec_command({"cmd": "ls"}));'),
    (Use("add", {"a": 1}), {"mcp__sums__add": tool("a"), "mcp__sums__subtract": tool("a")}, "mcp__sums__add", {"a": 1}),
    (Use("nothing like it", {"a": 1}), CLAUDE, "nothing like it", {"a": 1}),
]


@pytest.mark.parametrize(("reply", "tools", "name", "given"), WISHES, ids=lambda value: str(value)[:40])
async def test_a_wish_becomes_a_tool_of_the_program_that_asks(
    reply: Reply, tools: dict[str, dict[str, Any]], name: str, given: Any
) -> None:
    free_text = any(not schema for schema in tools.values())
    assert await used(reply, tools, "responses" if free_text else "messages") == (name, given)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (RunCommand("ls"), "no tool to run 'ls' is offered, only look, other_look"),
        (EditFile("a", "x", "y"), "no tool to edit 'a' is offered, only look, other_look; use RunCommand"),
        (Use("ook"), None),
    ],
)
async def test_a_wish_that_no_tool_is_for_is_told(reply: Reply, message: str | None) -> None:
    async with ScriptedModel([reply]) as model:
        agent = Agent(model, "chat", tools={"look": tool("at"), "other_look": tool("at")})
        if message is None:
            assert (await agent.ask("go")).calls[0][1] == "ook"
            return
        with pytest.raises(httpx.HTTPStatusError) as failed:
            await agent.ask("go")
    assert failed.value.response.json()["error"]["message"] == message


async def test_a_name_that_may_be_two_tools_is_refused() -> None:
    async with ScriptedModel([Use("add")]) as model:
        with pytest.raises(httpx.HTTPStatusError) as failed:
            await Agent(model, "chat", tools={"a_add": tool("x"), "b_add": tool("x")}).ask("go")
    message = failed.value.response.json()["error"]["message"]
    assert message == "Use('add') may be any of a_add, b_add: write its whole name"


async def test_a_tool_in_a_namespace_is_used_as_its_api_wants() -> None:
    async with ScriptedModel([Use("add", {"a": 1})]) as model:
        namespace = {"type": "namespace", "name": "sums", "tools": [{"type": "function", "name": "add"}]}
        told = await Agent(model, "responses", options={"tools": [namespace]}).ask("go")
    [item] = told.raw[-1]["response"]["output"]
    assert (item["namespace"], item["name"], item["arguments"]) == ("sums", "add", '{"a":1}')


async def test_code_mode_is_seen_in_what_comes_with_the_conversation() -> None:
    async with ScriptedModel([WriteFile("a", "x\n")]) as model:
        agent = Agent(model, "responses")
        tools = [{"type": "namespace", "name": "functions", "tools": [{"type": "custom", "name": "exec"}]}]
        agent.history.append({"type": "additional_tools", "tools": tools})
        [(_id, name, code)] = (await agent.ask("go")).calls
    assert name == "exec"
    assert code.startswith('text(await tools.apply_patch("*** Begin Patch\\n*** Add File: a')


# --- structured output -----------------------------------------------------------------------------------------------

FORMATS = {
    "messages": {"output_config": {"format": {"type": "json_schema", "schema": COUNTS}}},
    "responses": {"text": {"format": {"type": "json_schema", "name": "counts", "schema": COUNTS}}},
    "chat": {"response_format": {"type": "json_schema", "json_schema": {"name": "counts", "schema": COUNTS}}},
}
FORCED = {
    "messages": {"tool_choice": {"type": "tool", "name": "report"}},
    "responses": {"tool_choice": {"type": "function", "name": "report"}},
    "chat": {"tool_choice": {"type": "function", "function": {"name": "report"}}},
}


@each_api
@both
async def test_structured_output_comes_as_text_where_a_format_was_asked_for(api: str, stream: bool) -> None:
    async with ScriptedModel([Answer({"count": 3})]) as model:
        told = await Agent(model, api, stream, options=FORMATS[api]).ask("count")
    assert json.loads(told.text) == {"count": 3}
    assert model.requests[0].schema == COUNTS


@each_api
async def test_structured_output_comes_by_the_tool_that_must_be_used(api: str) -> None:
    async with ScriptedModel([Answer({"count": 3})]) as model:
        told = await Agent(model, api, tools={"report": COUNTS}, options=FORCED[api]).ask("count")
    assert [call[1:] for call in told.calls] == [("report", {"count": 3})]


@each_api
async def test_structured_output_comes_by_the_tool_that_is_made_for_it(api: str) -> None:
    async with ScriptedModel([Answer({"count": 3}), Say("next")]) as model:
        agent = Agent(model, api, tools={"StructuredOutput": COUNTS, **CLAUDE})
        told = await agent.ask("count")
        assert [call[1:] for call in told.calls] == [("StructuredOutput", {"count": 3})]
        assert model.requests[0].schema == COUNTS
        # A program that tells the model that its answer was taken gets a word, which is no turn.
        assert (await agent.give(told)).text == "The structured output was given."
        assert (await agent.ask("go on")).text == "next"
    assert [request.turn for request in model.requests] == [0, 1]


async def test_structured_output_that_was_refused_is_a_turn_like_any_other() -> None:
    async with ScriptedModel([Answer({"wrong": 3}), Answer({"count": 3})]) as model:
        agent = Agent(model, "messages", tools={"StructuredOutput": COUNTS})
        [(call_id, _name, _input)] = (await agent.ask("count")).calls
        result = {"type": "tool_result", "tool_use_id": call_id, "content": "no", "is_error": True}
        agent.history.append({"role": "user", "content": [result]})
        assert [call[2] for call in (await agent.go_on()).calls] == [{"count": 3}]


# --- how it is told --------------------------------------------------------------------------------------------------


@each_api
@both
async def test_answers_cost_what_the_script_says(api: str, stream: bool) -> None:
    cost = Tokens(100, 20, cached_input=30, cache_write=5, reasoning=7)
    async with ScriptedModel([Say("a", tokens=cost), Say("b")], tokens=Tokens(3, 2)) as model:
        agent = Agent(model, api, stream)
        usage = (await agent.ask("one")).usage
        plain = (await agent.ask("two")).usage
    if api == "messages":
        written = {"cache_read_input_tokens": 30, "cache_creation_input_tokens": 5}
        assert usage == {"input_tokens": 100, "output_tokens": 20, **written}
        assert (plain["input_tokens"], plain["output_tokens"]) == (3, 2)
        return
    read, said = ("input", "output") if api == "responses" else ("prompt", "completion")
    assert (usage[f"{read}_tokens"], usage[f"{said}_tokens"], usage["total_tokens"]) == (135, 20, 155)
    assert usage[f"{read}_tokens_details"]["cached_tokens"] == 30
    assert usage[f"{said}_tokens_details"]["reasoning_tokens"] == 7
    assert plain["total_tokens"] == 5


@each_api
@both
async def test_thoughts_come_before_words(api: str, stream: bool) -> None:
    async with ScriptedModel([Together([Think("hm " * 20), Say("I see.")])]) as model:
        told = await Agent(model, api, stream).ask("why?")
    assert (told.thought, told.text) == ("hm " * 20, "I see.")


@each_api
@both
async def test_an_answer_may_be_huge(api: str, stream: bool) -> None:
    text = "0123456789é" * 300_000
    async with ScriptedModel([Say(text)]) as model:
        told = await Agent(model, api, stream).ask("tell me all")
    assert told.text == text


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        ("length", {"messages": "max_tokens", "responses": "incomplete", "chat": "length"}),
        ("refusal", {"messages": "refusal", "responses": "incomplete", "chat": "content_filter"}),
        ("end", {"messages": "end_turn", "responses": "completed", "chat": "stop"}),
    ],
)
@each_api
@both
async def test_the_model_says_why_it_stops(api: str, stream: bool, stop: Any, words: dict[str, str]) -> None:
    async with ScriptedModel([Say("and then", stop=stop)]) as model:
        told = await Agent(model, api, stream).ask("go")
    assert told.stop == words[api]


async def test_a_slow_answer_takes_as_long_as_it_says() -> None:
    async with ScriptedModel([Say("slowly " * 20, over_s=0.3)]) as model:
        began = time.monotonic()
        await Agent(model, "chat").ask("go")
    assert 0.3 <= time.monotonic() - began < 5


# --- what goes wrong -------------------------------------------------------------------------------------------------

KINDS = {
    "messages": {401: "authentication_error", 429: "rate_limit_error", 500: "api_error", 529: "overloaded_error"},
    "responses": {401: "invalid_request_error", 429: "rate_limit_exceeded", 500: "server_error", 529: "server_error"},
}
KINDS["chat"] = KINDS["responses"]


@each_api
@both
@pytest.mark.parametrize("status", [401, 429, 500, 529])
async def test_an_error_has_the_shape_that_its_api_has(api: str, stream: bool, status: int) -> None:
    async with ScriptedModel([Fail(status, message="no", retry_after=2.5)]) as model:
        with pytest.raises(httpx.HTTPStatusError) as failed:
            await Agent(model, api, stream).ask("go")
    answer = failed.value.response
    assert (answer.status_code, answer.headers["retry-after"]) == (status, "2.5")
    assert (answer.json()["error"]["type"], answer.json()["error"]["message"]) == (KINDS[api][status], "no")
    assert (answer.json().get("type") == "error") is (api == "messages")


@each_api
async def test_an_error_in_the_middle_of_a_stream_is_an_event_of_it(api: str) -> None:
    async with ScriptedModel([Fail(529, "overloaded_error", "too much", after="I was about")]) as model:
        agent = Agent(model, api)
        async with http() as client:
            agent.history.append({"role": "user", "content": "go"})
            told = list(events(await client.post(agent.url, json=agent.body())))
    assert "I was about" in json.dumps(told[:-1])
    error = told[-1]["response"]["error"] if api == "responses" else told[-1]["error"]
    assert error["message"] == "too much"


@each_api
@both
async def test_a_cut_stream_ends_without_its_end(api: str, stream: bool) -> None:
    async with ScriptedModel([CutStream("half a sen")]) as model:
        agent = Agent(model, api, stream)
        agent.history.append({"role": "user", "content": "go"})
        got = b""
        async with http() as client:
            with pytest.raises(httpx.RemoteProtocolError):
                async with client.stream("POST", agent.url, json=agent.body()) as answer:
                    async for chunk in answer.aiter_bytes():
                        got += chunk
    assert got
    assert not stream or b"half a sen" in got


@both
async def test_nothing_comes_for_as_long_as_the_model_hangs(stream: bool) -> None:
    async with ScriptedModel([Hang(0.2, then=Say("late"))]) as model:
        began = time.monotonic()
        assert (await Agent(model, "messages", stream).ask("go")).text == "late"
    assert time.monotonic() - began >= 0.2


async def test_a_stream_may_fall_silent_in_the_middle() -> None:
    async with ScriptedModel([Hang(0.2, after="wait for it")]) as model:
        told = await Agent(model, "responses").ask("go")
    assert told.text == "wait for it"


async def test_whoever_gives_up_on_a_model_that_hangs_leaves_nothing_behind() -> None:
    async with ScriptedModel([Hang(3600)]) as model:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await Agent(model, "messages").ask("go")
        await asyncio.sleep(0.1)
        assert [task.get_name() for task in asyncio.all_tasks() if "attend" in repr(task)] == []


async def test_leaving_ends_what_still_hangs() -> None:
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        async with ScriptedModel([Hang(3600)]) as model:
            asking = group.create_task(_fails(Agent(model, "messages")))
            while not model.requests:
                await asyncio.sleep(0.01)
        await asking
    assert time.monotonic() - began < 5


async def _fails(agent: Agent) -> None:
    with pytest.raises(httpx.TransportError):
        await agent.ask("go")


async def test_garbage_comes_as_it_is() -> None:
    garbage = Garbage(b"\xff<html>", status=502, content_type="text/html")
    async with ScriptedModel([garbage]) as model, http() as client:
        agent = Agent(model, "chat")
        answer = await client.post(agent.url, json=agent.body())
    assert (answer.status_code, answer.content) == (502, b"\xff<html>")


@each_api
async def test_a_first_time_may_differ_from_the_others(api: str) -> None:
    async with ScriptedModel([First(Fail(500), then=Use("look")), First(Fail(429), then=Say("ok"), times=2)]) as model:
        agent = Agent(model, api, tools={"look": tool("at")})
        statuses: list[int] = []

        async def persist() -> Any:
            while True:
                try:
                    return await agent.go_on()
                except httpx.HTTPStatusError as exc:
                    statuses.append(exc.response.status_code)
                    # Falling back to an answer in one piece, as Claude Code does, is the same question.
                    agent.stream = False

        agent.history.append({"role": "user", "content": "go"})
        told = await persist()
        agent._add_output(told.calls[0][0], "seen")
        assert (await persist()).text == "ok"
    assert statuses == [500, 429, 429]


# --- who asks, and what beside the work ------------------------------------------------------------------------------


@each_api
async def test_the_key_that_arrives_is_kept_and_others_than_the_right_one_are_refused(api: str) -> None:
    async with ScriptedModel([Say("hi")], keys=["sk-right"]) as model:
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            await Agent(model, api, key="sk-wrong").ask("go")
        await Agent(model, api, key="sk-right", prefix="/agents/7").ask("go")
    assert [request.api_key for request in model.received] == ["sk-wrong", "sk-right"]
    assert [(request.api_key, request.path[:9]) for request in model.requests] == [("sk-right", "/agents/7")]


async def test_what_programs_ask_beside_the_work_takes_no_turn() -> None:
    async with ScriptedModel([Say("hi")]) as model:
        async with http(base_url=model.url) as client:
            assert (await client.head("/api/hello")).status_code == 200
            assert (await client.get("/")).status_code == 200
            assert (await client.get("/v1/models")).json()["data"][0]["object"] == "model"
            counted = await client.post("/v1/messages/count_tokens", json={"model": "m", "messages": []})
            assert counted.json()["input_tokens"] > 0
            assert (await client.get("/nowhere")).status_code == 404
        title = {"role": "system", "content": "You are a title generator."}
        namer = Agent(model, "chat", headers={"user-agent": "opencode/1.18.33"}, history=[title])
        assert (await namer.ask("name this")).text == "A scripted title"
        warm_up = Agent(model, "messages", headers={"user-agent": "claude-cli/2.1.330"})
        warm_up.history.append({"role": "user", "content": "quota"})
        async with http() as client:
            body = {**warm_up.body(), "max_tokens": 1, "stream": False}
            await client.post(warm_up.url, json=body, headers=warm_up._headers())
        compaction = {"x-codex-turn-metadata": '{"request_kind":"compaction"}'}
        assert (await Agent(model, "responses", headers=compaction).ask("sum up")).text
        assert (await Agent(model, "chat").ask("go")).text == "hi"
    assert [request.last_user_text for request in model.requests] == ["go"]
    assert [request.last_user_text for request in model.side_requests] == ["name this", "quota", "sum up"]
    assert len(model.received) == 9


async def test_what_programs_add_to_a_users_message_is_not_what_the_user_says() -> None:
    async with ScriptedModel([Say("hi")]) as model:
        agent = Agent(model, "messages")
        reminder = {"type": "text", "text": "<system-reminder>\nbe kind\n</system-reminder>"}
        agent.history.append({"role": "user", "content": [reminder, {"type": "text", "text": "go"}]})
        await agent.go_on()
    [request] = model.requests
    assert (request.last_user_text, list(request.user_texts)) == ("go", ["go"])
    assert "be kind" in request.system


@pytest.mark.parametrize(
    ("content", "headers", "words"),
    [
        (b"{", {}, "JSONDecodeError"),
        (b"[]", {}, "the body is no request of the messages API"),
        (b'{"model": "m"}', {}, "KeyError: 'messages'"),
        (b"\x28\xb5", {"content-encoding": "zstd"}, "packed with 'zstd'"),
    ],
)
async def test_a_body_that_makes_no_sense_is_refused(content: bytes, headers: dict[str, str], words: str) -> None:
    async with ScriptedModel([Say("hi")]) as model, http() as client:
        answer = await client.post(f"{model.url}/v1/messages", content=content, headers=headers)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert model.requests == []


async def test_requests_may_follow_each_other_on_one_connection_and_bytes_that_are_no_http_end_it() -> None:
    async with ScriptedModel([Say("hi")]) as model:
        async with http(base_url=model.url) as client:
            for _ in range(3):
                assert (await client.get("/v1/models")).status_code == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", int(model.url.rpartition(":")[2]))
        writer.write(b"\x00\x01 nonsense\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert (await Agent(model, "chat").ask("go")).text == "hi"


async def test_a_conversation_that_a_server_should_have_stored_is_asked_for() -> None:
    async with ScriptedModel([Say("hi")]) as model:
        with pytest.raises(httpx.HTTPStatusError) as failed:
            await Agent(model, "responses", options={"previous_response_id": "resp_1"}).ask("go")
    assert "send the whole conversation instead of previous_response_id" in failed.value.response.text


async def test_an_answer_that_is_no_json_is_told_before_anything_is_sent() -> None:
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        async with ScriptedModel([Use("look", {"at": {1, 2}})]) as model:
            with pytest.raises(httpx.HTTPStatusError, match="500"):
                await Agent(model, "messages", tools={"look": tool("at")}).ask("go")


async def test_one_connection_that_breaks_ends_no_other() -> None:
    def decide(request: ModelRequest) -> Reply:
        return Garbage(b"", status=1) if request.last_user_text == "break" else Say("hi")

    with pytest.raises(Exception, match="1"):
        async with ScriptedModel(decide) as model:
            with pytest.raises(httpx.RemoteProtocolError):
                await Agent(model, "chat").ask("break")
            assert (await Agent(model, "chat").ask("go")).text == "hi"


async def test_so_many_requests_are_kept_and_no_more() -> None:
    async with ScriptedModel(lambda _request: Say("hi"), keep=2) as model:
        for text in "abc":
            await Agent(model, "chat").ask(text)
    assert [request.last_user_text for request in model.requests] == ["b", "c"]
    assert len(model.received) == 2


def test_one_text_is_no_list_of_keys() -> None:
    with pytest.raises(ConfigurationError, match="keys= is one text; give a list of keys"):
        ScriptedModel([Say("hi")], keys="sk-right")


# --- its life, and scripts as JSON -----------------------------------------------------------------------------------


async def test_it_can_be_entered_in_one_task_and_left_in_another() -> None:
    model = ScriptedModel([Say("hi")])
    await asyncio.create_task(model.__aenter__())
    assert (await Agent(model, "chat").ask("go")).text == "hi"
    await asyncio.create_task(model.__aexit__(None, None, None))
    with pytest.raises(httpx.ConnectError):
        await Agent(model, "chat").ask("go")


async def test_a_port_that_is_taken_is_told() -> None:
    async with ScriptedModel([Say("hi")]) as model:
        port = int(model.url.rpartition(":")[2])
        with pytest.raises(OSError, match="address already in use"):
            await ScriptedModel([Say("hi")], port=port).__aenter__()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("hello", "a script is a list of turns, or an object of such lists; not 'hello'"),
        ([{"sing": "la"}], "the script, turn 1: 'sing' is no kind of reply; those are first, answer, cut_stream"),
        ([{"say": "hi"}, "hi"], "the script, turn 2: 'hi' is no reply; write one as in {'say': 'Hello.'}"),
        ({"a": {"say": "hi"}}, "the script for 'a' must be a list of turns; it is {'say': 'hi'}"),
        ([{"say": "hi", "loud": True}], "the script, turn 1: 'say' cannot be made of {'say': 'hi', 'loud': True}"),
        ([{"hang": -1}], "seconds=-1 cannot be; give seconds, 0 or more"),
        ([[]], "blocks=[] is no answer; give at least one"),
    ],
)
def test_a_script_that_is_none_says_where(data: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        script_from_json(data)
    assert str(refused.value).startswith(message)


def test_a_script_can_be_json() -> None:
    data = [
        {"write_file": "a", "text": "x\n"},
        [{"think": "hm"}, {"say": "hi", "tokens": {"input": 1, "output": 2}}],
        {"first": {"fail": 429, "retry_after": 1}, "then": {"answer": {"count": 3}}},
        {"garbage": "x"},
    ]
    assert script_from_json(data) == [
        WriteFile("a", "x\n"),
        Together([Think("hm"), Say("hi", tokens=Tokens(1, 2))]),
        First(Fail(429, retry_after=1), then=Answer({"count": 3})),
        Garbage(b"x"),
    ]


async def test_it_can_be_run_by_hand(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('{"hello": [{"say": "Hello yourself."}]}')
    program = [sys.executable, "-m", "boxflow.testing.model_server", str(script)]
    process = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        async with http() as client:
            answer = await client.post(f"{url}/v1/chat/completions", json=body)
        assert answer.json()["choices"][0]["message"]["content"] == "Hello yourself."
        assert b"Hello yourself." in await process.stdout.readline()
    finally:
        process.terminate()
        await process.wait()
