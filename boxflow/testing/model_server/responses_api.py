"""How does OpenAI's Responses API say it? platform.openai.com/docs/api-reference/responses and /responses-streaming."""

from __future__ import annotations

import itertools
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

_CALLS: Final = frozenset({"function_call", "custom_tool_call", "local_shell_call", "tool_search_call"})
_OUTPUTS: Final = frozenset(
    {"function_call_output", "custom_tool_call_output", "local_shell_call_output", "tool_search_output"}
)
_INCOMPLETE: Final = {"length": "max_output_tokens", "refusal": "content_filter"}


class ResponsesApi:
    """The dialect of Codex."""

    def read(self, body: Mapping[str, Any]) -> Reading:
        if body.get("previous_response_id"):
            raise ValueError("nothing is stored here: send the whole conversation instead of previous_response_id")
        asked = member(member(body, "text"), "format")
        given = body["input"]
        items = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
        messages = [Message(role="system", text=body["instructions"])] if body.get("instructions") else []
        messages.extend(_messages(items))
        offered = [*(body.get("tools") or ()), *_later_tools(items)]
        return Reading(
            model=str(body["model"]),
            stream=bool(body.get("stream")),
            messages=messages,
            tools={tool.name: tool for one in offered for tool in _tools(one)},
            schema=asked.get("schema"),
            forced_tool=member(body, "tool_choice").get("name"),
            max_tokens=body.get("max_output_tokens"),
        )

    def whole(self, answer: ModelAnswer) -> Mapping[str, Any]:
        return _response(answer, [_item(answer, index) for index in range(len(answer.blocks))])

    def events(self, answer: ModelAnswer, body: Mapping[str, Any]) -> Iterator[Event]:
        numbers = itertools.count()

        def event(kind: str, *, pause_s: float = 0.0, closing: bool = False, **fields: Any) -> Event:
            data = server_sent({"type": kind, "sequence_number": next(numbers), **fields}, kind)
            return Event(data=data, pause_s=pause_s, closing=closing)

        begun = {**_response(answer, []), "status": "in_progress", "usage": None}
        yield event("response.created", response=begun)
        yield event("response.in_progress", response=begun)
        for index, block in enumerate(answer.blocks):
            last = index == len(answer.blocks) - 1
            item = _item(answer, index)
            place = {"item_id": item["id"], "output_index": index}
            yield event("response.output_item.added", output_index=index, item={**item, **_begun(block)})
            yield from _content(event, block, item, place, last=last)
            yield event("response.output_item.done", closing=last, output_index=index, item=item)
        kind = "response.incomplete" if answer.stop in _INCOMPLETE else "response.completed"
        yield event(kind, closing=True, response=self.whole(answer))

    def error(self, fail: Fail) -> Mapping[str, Any]:
        return error_body(fail)

    def error_event(self, fail: Fail, answer: ModelAnswer) -> bytes:
        error = {"code": fail.type or "server_error", "message": fail.message}
        failed = {**_response(answer, []), "status": "failed", "error": error, "usage": None}
        return server_sent({"type": "response.failed", "response": failed}, "response.failed")


# --- reading ---------------------------------------------------------------------------------------------------------


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(part["text"]) for part in content or () if isinstance(part.get("text"), str))


def _messages(items: list[Any]) -> Iterator[Message]:
    """The items as messages: neighbours that the model made are one."""
    texts: list[str] = []
    uses: list[ToolUse] = []
    answered = False
    for item in items:
        kind = item.get("type", "message")
        if kind == "reasoning" or kind in _CALLS or item.get("role") == "assistant":
            answered = True
            if kind in _CALLS:
                uses.append(_use(item))
            elif kind == "message":
                texts.append(_text(item["content"]))
            continue
        if answered:
            yield Message(role="assistant", text="\n".join(texts), uses=tuple(uses))
            texts, uses, answered = [], [], False
        if kind in _OUTPUTS:
            yield Message(role="tool", outputs=(_output(item),))
        elif kind == "message":
            text = _text(item["content"])
            yield Message(role=role_of_user_text(text) if item["role"] == "user" else "system", text=text)
    if answered:
        yield Message(role="assistant", text="\n".join(texts), uses=tuple(uses))


def _use(item: Mapping[str, Any]) -> ToolUse:
    given: Any = item.get("input", item.get("action"))
    if isinstance(text := item.get("arguments"), str):
        try:
            given = json.loads(text)
        except ValueError:
            given = text
    name = str(item.get("name", item["type"]))
    where = item.get("namespace")
    return ToolUse(call_id=str(item.get("call_id")), name=f"{where}.{name}" if where else name, input=given)


def _output(item: Mapping[str, Any]) -> ToolOutput:
    output = item.get("output", "")
    text = output if isinstance(output, str) else _text(output) if isinstance(output, list) else json.dumps(output)
    return ToolOutput(call_id=str(item.get("call_id")), text=text)


def _later_tools(items: list[Any]) -> Iterator[Mapping[str, Any]]:
    """Tools that come in the conversation: Codex's "code mode", and what a tool search found."""
    for item in items:
        if item.get("type") in ("additional_tools", "tool_search_output"):
            yield from item.get("tools") or ()


def _tools(offer: Mapping[str, Any], where: str = "") -> Iterator[Tool]:
    if offer.get("type") == "namespace":
        # What Codex calls "functions" is no namespace to the model.
        inner = "" if offer["name"] == "functions" else f"{offer['name']}."
        for one in offer.get("tools") or ():
            yield from _tools(one, inner)
        return
    name = where + str(offer.get("name", offer.get("type")))
    yield Tool(name=name, schema=offer.get("parameters") or {}, free_text=offer.get("type") == "custom")


# --- writing ---------------------------------------------------------------------------------------------------------


def _response(answer: ModelAnswer, output: list[dict[str, Any]]) -> dict[str, Any]:
    reason = _INCOMPLETE.get(answer.stop)
    tokens = answer.tokens
    # This API counts what was cached as input too.
    read = tokens.input + tokens.cached_input + tokens.cache_write
    return {
        "id": f"resp_{answer.id}",
        "object": "response",
        "created_at": answer.created_at,
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "error": None,
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": tokens.cached_input, "cache_write_tokens": tokens.cache_write},
            "output_tokens": tokens.output,
            "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
            "total_tokens": read + tokens.output,
        },
    }


def _item(answer: ModelAnswer, index: int) -> dict[str, Any]:
    identity = f"{answer.id}_{index}"
    match answer.blocks[index]:
        case Text(text=text):
            part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": []}
            message = {"type": "message", "id": f"msg_{identity}", "role": "assistant"}
            return {**message, "status": "completed", "content": [part]}
        case Thought(text=text):
            summary = [{"type": "summary_text", "text": text}]
            return {"type": "reasoning", "id": f"rs_{identity}", "summary": summary, "encrypted_content": ""}
        case Call(input=str(text)) as call:
            item = {"type": "custom_tool_call", "id": f"ctc_{identity}", "status": "completed"}
            return {**item, "call_id": call.call_id, "name": call.name, "input": text}
        case Call() as call:
            where, _, name = call.name.rpartition(".")
            item = {"type": "function_call", "id": f"fc_{identity}", "status": "completed", "call_id": call.call_id}
            return {**item, **({"namespace": where} if where else {}), "name": name, "arguments": call.arguments}


def _begun(block: Text | Thought | Call) -> dict[str, Any]:
    match block:
        case Text():
            return {"status": "in_progress", "content": []}
        case Thought():
            return {"summary": []}
        case Call(input=str()):
            return {"status": "in_progress", "input": ""}
        case Call():
            return {"status": "in_progress", "arguments": ""}


def _content(
    event: Any, block: Text | Thought | Call, item: dict[str, Any], place: dict[str, Any], *, last: bool
) -> Iterator[Event]:
    """Pieces of one item, between its beginning and its end."""
    match block:
        case Text(text=text):
            name, opened, whole = "response.output_text", "response.content_part", {"text": text}
            place = {**place, "content_index": 0}
            empty: dict[str, Any] | None = {"type": "output_text", "text": "", "annotations": []}
            full: dict[str, Any] | None = item["content"][0]
        case Thought(text=text):
            name, opened, whole = "response.reasoning_summary_text", "response.reasoning_summary_part", {"text": text}
            place = {**place, "summary_index": 0}
            empty, full = {"type": "summary_text", "text": ""}, item["summary"][0]
        case Call(arguments=text):
            free = isinstance(block.input, str)
            name = "response.custom_tool_call_input" if free else "response.function_call_arguments"
            opened, whole, empty, full = "", {"input" if free else "arguments": text}, None, None
    if empty:
        yield event(f"{opened}.added", **place, part=empty)
    parts = pieces(text)
    for piece in parts:
        yield event(f"{name}.delta", pause_s=pause_s(block, len(parts)), **place, delta=piece)
    yield event(f"{name}.done", closing=last, **place, **whole)
    if full:
        yield event(f"{opened}.done", closing=last, **place, part=full)
