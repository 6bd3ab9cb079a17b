"""How do the tests talk to a scripted model? As a small agent does, in each of the three languages, over plain HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from boxflow.testing.model_server import ScriptedModel

APIS = ["messages", "responses", "chat"]
PATHS = {"messages": "/v1/messages", "responses": "/v1/responses", "chat": "/v1/chat/completions"}
COUNTS = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}


def http(**options: Any) -> httpx.AsyncClient:
    """A client that loads no certificates: that would take longer than a test."""
    return httpx.AsyncClient(trust_env=False, verify=False, timeout=30, **options)


@dataclass
class Told:
    """What came back, in one form for all."""

    text: str = ""
    thought: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list)  # id, name, input
    stop: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    raw: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Agent:
    """One conversation with a model."""

    model: ScriptedModel
    api: str
    stream: bool = True
    key: str = "sk-test"
    prefix: str = ""
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    async def ask(self, text: str) -> Told:
        """The user says *text*."""
        self.history.append({"role": "user", "content": text})
        return await self.go_on()

    async def give(self, told: Told, output: str = "ok") -> Told:
        """Hand back the same output for each use of a tool."""
        for call_id, _name, _input in told.calls:
            self._add_output(call_id, output)
        return await self.go_on()

    async def go_on(self) -> Told:
        """Send the conversation; what the model says becomes part of it."""
        async with http() as client:
            answer = await client.post(self.url, json=self.body(), headers=self._headers())
        answer.raise_for_status()
        told = (_streamed if self.stream else _whole)(self.api, answer)
        self._add(told)
        return told

    @property
    def url(self) -> str:
        return self.model.url + self.prefix + PATHS[self.api]

    def body(self) -> dict[str, Any]:
        key = "input" if self.api == "responses" else "messages"
        body = {"model": "m-1", key: self.history, "stream": self.stream, "tools": self._tools(), **self.options}
        if self.api == "messages":
            body["max_tokens"] = 1000
        if self.api == "chat" and self.stream:
            body["stream_options"] = {"include_usage": True}
        return body

    def _headers(self) -> dict[str, str]:
        key = {"x-api-key": self.key} if self.api == "messages" else {"authorization": f"Bearer {self.key}"}
        return {**key, **self.headers}

    def _tools(self) -> list[dict[str, Any]]:
        def tool(name: str, schema: dict[str, Any]) -> dict[str, Any]:
            match self.api:
                case "messages":
                    return {"name": name, "input_schema": schema}
                case "responses" if not schema:
                    return {"type": "custom", "name": name}
                case "responses":
                    return {"type": "function", "name": name, "parameters": schema}
                case _:
                    return {"type": "function", "function": {"name": name, "parameters": schema}}

        return [tool(name, schema) for name, schema in self.tools.items()]

    def _add(self, told: Told) -> None:
        match self.api:
            case "messages":
                content: list[dict[str, Any]] = [{"type": "text", "text": told.text}] if told.text else []
                content += [{"type": "tool_use", "id": one, "name": name, "input": it} for one, name, it in told.calls]
                self.history.append({"role": "assistant", "content": content})
            case "responses":
                if told.text:
                    part = {"type": "output_text", "text": told.text}
                    self.history.append({"type": "message", "role": "assistant", "content": [part]})
                for one, name, it in told.calls:
                    how = {"type": "custom_tool_call", "input": it}
                    if not isinstance(it, str):
                        how = {"type": "function_call", "arguments": json.dumps(it)}
                    self.history.append({**how, "call_id": one, "name": name})
            case _:
                calls = [
                    {"id": one, "type": "function", "function": {"name": name, "arguments": json.dumps(it)}}
                    for one, name, it in told.calls
                ]
                self.history.append({"role": "assistant", "content": told.text, "tool_calls": calls})

    def _add_output(self, call_id: str, output: str) -> None:
        match self.api:
            case "messages":
                result = {"type": "tool_result", "tool_use_id": call_id, "content": output}
                self.history.append({"role": "user", "content": [result]})
            case "responses":
                self.history.append({"type": "function_call_output", "call_id": call_id, "output": output})
            case _:
                self.history.append({"role": "tool", "tool_call_id": call_id, "content": output})


# --- reading answers -------------------------------------------------------------------------------------------------


def events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    assert answer.headers["content-type"] == "text/event-stream"
    for block in answer.text.split("\n\n"):
        data = [line.removeprefix("data: ") for line in block.splitlines() if line.startswith("data: ")]
        if data and data != ["[DONE]"]:
            yield json.loads(data[0])


def _whole(api: str, answer: httpx.Response) -> Told:
    body = answer.json()
    told = Told(usage=body["usage"], raw=[body])
    if api == "messages":
        told.stop = body["stop_reason"]
        for block in body["content"]:
            told.text += block.get("text", "")
            told.thought += block.get("thinking", "")
            if block["type"] == "tool_use":
                told.calls.append((block["id"], block["name"], block["input"]))
    elif api == "responses":
        _read_output(body, told)
    else:
        choice = body["choices"][0]
        told.stop = choice["finish_reason"]
        told.text = choice["message"]["content"] or ""
        told.thought = choice["message"].get("reasoning_content", "")
        for call in choice["message"].get("tool_calls", []):
            told.calls.append((call["id"], call["function"]["name"], json.loads(call["function"]["arguments"])))
    return told


def _read_output(body: dict[str, Any], told: Told) -> None:
    told.stop = body["status"]
    for item in body["output"]:
        match item["type"]:
            case "message":
                told.text += item["content"][0]["text"]
            case "reasoning":
                told.thought += item["summary"][0]["text"]
            case "custom_tool_call":
                told.calls.append((item["call_id"], item["name"], item["input"]))
            case _:
                told.calls.append((item["call_id"], item["name"], json.loads(item["arguments"])))


def _streamed(api: str, answer: httpx.Response) -> Told:
    told = Told(raw=list(events(answer)))
    {"messages": _messages, "responses": _responses, "chat": _chat}[api](told)
    return told


def _messages(told: Told) -> None:
    blocks: dict[int, dict[str, Any]] = {}
    inputs: dict[int, str] = {}
    for event in told.raw:
        match event["type"]:
            case "message_start":
                told.usage |= event["message"]["usage"]
            case "content_block_start":
                blocks[event["index"]] = event["content_block"]
                inputs[event["index"]] = ""
            case "content_block_delta":
                delta = event["delta"]
                told.text += delta.get("text", "")
                told.thought += delta.get("thinking", "")
                inputs[event["index"]] += delta.get("partial_json", "")
            case "message_delta":
                told.stop = event["delta"]["stop_reason"]
                told.usage |= event["usage"]
            case "message_stop" | "ping" | "content_block_stop" | "error":
                pass
            case other:
                raise AssertionError(other)
    for index, block in blocks.items():
        if block["type"] == "tool_use":
            told.calls.append((block["id"], block["name"], json.loads(inputs[index])))


def _responses(told: Told) -> None:
    deltas = ""
    assert [event["sequence_number"] for event in told.raw] == list(range(len(told.raw)))
    for event in told.raw:
        deltas += event["delta"] if event["type"] == "response.output_text.delta" else ""
    last = told.raw[-1]["response"]
    told.usage = last["usage"]
    _read_output(last, told)
    assert deltas == told.text


def _chat(told: Told) -> None:
    calls: dict[int, dict[str, Any]] = {}
    for chunk in told.raw:
        told.usage = chunk.get("usage") or told.usage
        for choice in chunk["choices"]:
            told.stop = choice["finish_reason"] or told.stop
            delta = choice["delta"]
            told.text += delta.get("content") or ""
            told.thought += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls", []):
                known = calls.setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
                known["id"] += call.get("id", "")
                known["name"] += call["function"].get("name", "")
                known["arguments"] += call["function"]["arguments"]
    told.calls = [(call["id"], call["name"], json.loads(call["arguments"])) for call in calls.values()]
