"""How do OpenAI's Chat Completions say it? platform.openai.com/docs/api-reference/chat, and what is compatible."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from boxflow.testing.model_server.answering import (
    Call,
    Event,
    ModelAnswer,
    Text,
    Thought,
    member,
    pause_s,
    pieces,
    server_sent,
)
from boxflow.testing.model_server.openai_errors import error_body
from boxflow.testing.model_server.replies import Fail
from boxflow.testing.model_server.request import Message, Reading, Tool, ToolOutput, ToolUse, role_of_user_text

_STOPS: Final = {"end": "stop", "length": "length", "refusal": "content_filter"}


class ChatApi:
    """The dialect of opencode, and of nearly every other program."""

    def read(self, body: Mapping[str, Any]) -> Reading:
        asked = member(member(body, "response_format"), "json_schema")
        forced = member(member(body, "tool_choice"), "function")
        tools = [tool["function"] for tool in body.get("tools") or () if "function" in tool]
        return Reading(
            model=str(body["model"]),
            stream=bool(body.get("stream")),
            messages=[_message(message) for message in body["messages"]],
            tools={tool["name"]: Tool(name=tool["name"], schema=tool.get("parameters") or {}) for tool in tools},
            schema=asked.get("schema"),
            forced_tool=forced.get("name"),
            max_tokens=body.get("max_completion_tokens", body.get("max_tokens")),
        )

    def whole(self, answer: ModelAnswer) -> Mapping[str, Any]:
        said = "".join(block.text for block in answer.blocks if isinstance(block, Text))
        thought = "".join(block.text for block in answer.blocks if isinstance(block, Thought))
        calls = [_call(block) for block in answer.blocks if isinstance(block, Call)]
        message: dict[str, Any] = {"role": "assistant", "content": said or (None if calls else "")}
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "finish_reason": _stop(answer), "logprobs": None}
        return {**_opening(answer, "chat.completion"), "choices": [choice], "usage": _usage(answer)}

    def events(self, answer: ModelAnswer, body: Mapping[str, Any]) -> Iterator[Event]:
        yield _chunk(answer, {"role": "assistant", "content": ""})
        position = 0
        for block in answer.blocks:
            if isinstance(block, Call):
                begun = _call(block)
                begun = {**begun, "function": {**begun["function"], "arguments": ""}}
                yield _chunk(answer, {"tool_calls": [{"index": position, **begun}]})
            deltas = list(_deltas(block, position))
            wait_s = pause_s(block, len(deltas))
            for delta in deltas:
                yield _chunk(answer, delta, pause_s=wait_s)
            position += isinstance(block, Call)
        yield _chunk(answer, {}, finish=_stop(answer), closing=True)
        if member(body, "stream_options").get("include_usage"):
            opening = _opening(answer, "chat.completion.chunk")
            yield Event(data=server_sent({**opening, "choices": [], "usage": _usage(answer)}), closing=True)
        yield Event(data=server_sent("[DONE]"), closing=True)

    def error(self, fail: Fail) -> Mapping[str, Any]:
        return error_body(fail)

    def error_event(self, fail: Fail, answer: ModelAnswer) -> bytes:
        return server_sent(error_body(fail))


# --- reading ---------------------------------------------------------------------------------------------------------


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(part["text"]) for part in content or () if part.get("type") == "text")


def _message(message: Mapping[str, Any]) -> Message:
    text = _text(message.get("content"))
    match message["role"]:
        case "assistant":
            uses = [
                ToolUse(call_id=one["id"], name=one["function"]["name"], input=_arguments(one["function"]))
                for one in message.get("tool_calls") or ()
            ]
            return Message(role="assistant", text=text, uses=tuple(uses))
        case "tool":
            return Message(role="tool", outputs=(ToolOutput(call_id=message["tool_call_id"], text=text),))
        case "user":
            return Message(role=role_of_user_text(text), text=text)
        case _:
            return Message(role="system", text=text)


def _arguments(function: Mapping[str, Any]) -> Any:
    try:
        return json.loads(function["arguments"])
    except ValueError:
        return function["arguments"]


# --- writing ---------------------------------------------------------------------------------------------------------


def _opening(answer: ModelAnswer, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{answer.id}", "object": kind, "created": answer.created_at, "model": answer.model}


def _stop(answer: ModelAnswer) -> str:
    return "tool_calls" if answer.uses_tools and answer.stop == "end" else _STOPS[answer.stop]


def _usage(answer: ModelAnswer) -> dict[str, Any]:
    tokens = answer.tokens
    # This API counts what was cached as input too.
    read = tokens.input + tokens.cached_input + tokens.cache_write
    return {
        "prompt_tokens": read,
        "completion_tokens": tokens.output,
        "total_tokens": read + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cached_input},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
    }


def _call(call: Call) -> dict[str, Any]:
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _deltas(block: Text | Thought | Call, position: int) -> Iterator[dict[str, Any]]:
    match block:
        case Text():
            yield from ({"content": piece} for piece in pieces(block.text))
        case Thought():
            yield from ({"reasoning_content": piece} for piece in pieces(block.text))
        case Call():
            for piece in pieces(block.arguments):
                yield {"tool_calls": [{"index": position, "function": {"arguments": piece}}]}


def _chunk(
    answer: ModelAnswer,
    delta: dict[str, Any],
    *,
    finish: str | None = None,
    pause_s: float = 0.0,
    closing: bool = False,
) -> Event:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    data = server_sent({**_opening(answer, "chat.completion.chunk"), "choices": [choice]})
    return Event(data=data, pause_s=pause_s, closing=closing)
