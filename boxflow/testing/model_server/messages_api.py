"""How does Anthropic's Messages API say it? docs.anthropic.com/en/api/messages, and "Streaming Messages" there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
from boxflow.testing.model_server.replies import Fail
from boxflow.testing.model_server.request import Message, Reading, Tool, ToolOutput, ToolUse, role_of_user_text

_ERRORS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STOPS: Final = {"end": "end_turn", "length": "max_tokens", "refusal": "refusal"}


class MessagesApi:
    """The dialect of Claude Code, and of every Anthropic SDK."""

    def read(self, body: Mapping[str, Any]) -> Reading:
        asked = member(member(body, "output_config"), "format") or member(body, "output_format")
        choice = member(body, "tool_choice")
        messages = [Message(role="system", text=_text(body["system"]))] if body.get("system") else []
        for message in body["messages"]:
            messages.extend(_messages(message["role"], message["content"]))
        return Reading(
            model=str(body["model"]),
            stream=bool(body.get("stream")),
            messages=messages,
            tools={tool["name"]: Tool(name=tool["name"], schema=tool.get("input_schema", {})) for tool in _tools(body)},
            schema=asked.get("schema"),
            forced_tool=choice.get("name") if choice.get("type") == "tool" else None,
            max_tokens=body.get("max_tokens"),
        )

    def whole(self, answer: ModelAnswer) -> Mapping[str, Any]:
        return {
            **_opening(answer),
            "content": [_block(block) for block in answer.blocks],
            "stop_reason": _stop(answer),
            "usage": _usage(answer, answer.tokens.output),
        }

    def events(self, answer: ModelAnswer, body: Mapping[str, Any]) -> Iterator[Event]:
        begun: dict[str, Any] = {"content": [], "stop_reason": None, "usage": _usage(answer, 1)}
        yield _event("message_start", message=_opening(answer) | begun)
        yield _event("ping")
        for index, block in enumerate(answer.blocks):
            last = index == len(answer.blocks) - 1
            yield _event("content_block_start", index=index, content_block=_empty(block))
            deltas = list(_deltas(block))
            wait_s = pause_s(block, len(deltas))
            for delta in deltas:
                yield _event("content_block_delta", pause_s=wait_s, index=index, delta=delta)
            yield _event("content_block_stop", closing=last, index=index)
        delta = {"stop_reason": _stop(answer), "stop_sequence": None}
        usage = {"output_tokens": answer.tokens.output}
        yield _event("message_delta", closing=True, delta=delta, usage=usage)
        yield _event("message_stop", closing=True)

    def error(self, fail: Fail) -> Mapping[str, Any]:
        kind = fail.type or _ERRORS.get(fail.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": fail.message}, "request_id": "req_scripted"}

    def error_event(self, fail: Fail, answer: ModelAnswer) -> bytes:
        return server_sent(self.error(fail), "error")


# --- reading ---------------------------------------------------------------------------------------------------------


def _tools(body: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return (tool for tool in body.get("tools") or () if "name" in tool)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(block.get("text", "")) for block in content if block.get("type") == "text")


def _messages(role: str, content: Any) -> Iterator[Message]:
    blocks: list[Mapping[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    if role == "assistant":
        uses = [ToolUse(call_id=one["id"], name=one["name"], input=one.get("input")) for one in _of("tool_use", blocks)]
        yield Message(role="assistant", text=_text(blocks), uses=tuple(uses))
        return
    outputs = [
        ToolOutput(call_id=one["tool_use_id"], text=_text(one.get("content") or ""), is_error=bool(one.get("is_error")))
        for one in _of("tool_result", blocks)
    ]
    if outputs:
        yield Message(role="tool", outputs=tuple(outputs))
    texts = [str(one["text"]) for one in _of("text", blocks)]
    added = [text for text in texts if role != "user" or role_of_user_text(text) == "system"]
    said = [text for text in texts if text not in added]
    if added:
        yield Message(role="system", text="\n".join(added))
    if said:
        yield Message(role="user", text="\n".join(said))


def _of(kind: str, blocks: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (block for block in blocks if block.get("type") == kind)


# --- writing ---------------------------------------------------------------------------------------------------------


def _event(kind: str, *, pause_s: float = 0.0, closing: bool = False, **fields: Any) -> Event:
    return Event(data=server_sent({"type": kind, **fields}, kind), pause_s=pause_s, closing=closing)


def _opening(answer: ModelAnswer) -> dict[str, Any]:
    return {
        "id": f"msg_{answer.id}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "stop_sequence": None,
    }


def _stop(answer: ModelAnswer) -> str:
    return "tool_use" if answer.uses_tools and answer.stop == "end" else _STOPS[answer.stop]


def _usage(answer: ModelAnswer, output: int) -> dict[str, int]:
    return {
        "input_tokens": answer.tokens.input,
        "cache_creation_input_tokens": answer.tokens.cache_write,
        "cache_read_input_tokens": answer.tokens.cached_input,
        "output_tokens": output,
    }


def _block(block: Text | Thought | Call) -> dict[str, Any]:
    match block:
        case Text():
            return {"type": "text", "text": block.text}
        case Thought():
            return {"type": "thinking", "thinking": block.text, "signature": "c2NyaXB0ZWQ="}
        case Call():
            return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": block.input}


def _empty(block: Text | Thought | Call) -> dict[str, Any]:
    blank: dict[str, Any] = {"text": "", "thinking": "", "signature": "", "input": {}}
    return {key: blank.get(key, value) for key, value in _block(block).items()}


def _deltas(block: Text | Thought | Call) -> Iterator[dict[str, Any]]:
    match block:
        case Text():
            yield from ({"type": "text_delta", "text": piece} for piece in pieces(block.text))
        case Thought():
            yield from ({"type": "thinking_delta", "thinking": piece} for piece in pieces(block.text))
            yield {"type": "signature_delta", "signature": "c2NyaXB0ZWQ="}
        case Call():
            yield from ({"type": "input_json_delta", "partial_json": piece} for piece in pieces(block.arguments))
