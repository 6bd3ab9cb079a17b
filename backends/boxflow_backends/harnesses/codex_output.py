"""What does the output of `codex exec --json` mean?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from boxflow.harness import (
    AgentEvent,
    AgentFailure,
    Finished,
    Notice,
    Reasoning,
    SessionStarted,
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from boxflow_backends.harnesses.answers import with_answer
from boxflow_backends.harnesses.endings import COMMON, NO_CREDIT, ended, failure_of_words, wordings
from boxflow_backends.harnesses.json_values import Value, parsed, shortened

_WORDINGS: Final = wordings(
    (r"no rollout found|thread/resume failed|session not found", AgentFailure.SESSION_NOT_FOUND),
    (r"missing environment variable|not logged in", AgentFailure.AUTHENTICATION),
    (r"error loading config|unexpected argument|invalid value", AgentFailure.BAD_REQUEST),
)

_TOOLS: Final = frozenset({"command_execution", "file_change", "mcp_tool_call", "web_search"})


class CodexReader:
    """Reads the output of one `codex exec --json`."""

    def __init__(self, *, model: str | None, session: str | None, schema: Mapping[str, Any] | None) -> None:
        self._model = model
        self._session = session
        self._schema = schema
        self._session_id: str | None = None
        self._called: set[str] = set()  # tools of which a beginning was told
        self._text = ""
        self._finished: Finished | None = None

    def feed(self, line: str) -> Sequence[AgentEvent]:
        """The events that *line* means."""
        if not line.strip():
            return ()
        event = Value(parsed(line))
        if not event.is_object:
            return (Notice(message=shortened(line)),)
        return tuple(self._events(event))

    def end(self, exit_code: int, stderr: str) -> Finished:
        """How the run ended."""
        so_far = Finished(text=self._text, session_id=self._session_id)
        return ended("codex", self._finished, so_far, exit_code, stderr, _WORDINGS, COMMON)

    def _events(self, event: Value) -> Iterator[AgentEvent]:
        match event["type"].text:
            case "thread.started" if self._session_id is None and (thread_id := event["thread_id"].text):
                self._session_id = thread_id
                yield SessionStarted(session_id=thread_id, model=self._model)
            case "item.started":
                yield from self._of_call(event["item"])
            case "item.completed":
                yield from self._of_item(event["item"])
            case "error":
                yield Notice(message=shortened(event["message"].text))
            case "turn.completed":
                yield from self._finish(self._succeeded(event["usage"]))
            case "turn.failed":
                yield from self._finish(self._failed(event["error"]["message"].text))
            case _:
                pass

    def _of_item(self, item: Value) -> Iterator[AgentEvent]:
        text = item["text"].text
        match item["type"].text:
            case "agent_message" if text:
                self._text = text
                yield TextDelta(text=text)
            case "reasoning" if text:
                yield Reasoning(text=text)
            case "error":  # so it spells a warning
                yield Notice(message=shortened(item["message"].text))
            case kind if kind in _TOOLS:
                yield from self._of_call(item)
                yield _result_of(item)
            case _:
                pass

    def _of_call(self, item: Value) -> Iterator[AgentEvent]:
        call_id, kind = item["id"].text, item["type"].text
        if kind in _TOOLS and call_id not in self._called:
            self._called.add(call_id)
            yield ToolCall(call_id=call_id, name=_name_of(item), input=_input_of(item))

    # --- the end -----------------------------------------------------------------------------------------------------

    def _finish(self, finished: Finished) -> Iterator[AgentEvent]:
        if self._finished is None:
            self._finished = finished
            yield finished

    def _succeeded(self, usage: Value) -> Finished:
        finished = Finished(text=self._text, session_id=self._session_id, usage=self._reported(usage))
        # Not known when the reading began in the middle.
        if self._session is not None and self._session_id not in {None, self._session}:
            message = f"codex began a new session instead of continuing {self._session!r}, which it does not know"
            return attrs.evolve(finished, failure=AgentFailure.SESSION_NOT_FOUND, message=message)
        return with_answer(finished, self._schema)

    def _failed(self, message: str) -> Finished:
        # An answer that is not retried is given as it came, as the body of the HTTP response.
        if said := Value(parsed(message))["error"]["message"].text:
            failure = failure_of_words(message, NO_CREDIT) or AgentFailure.BAD_REQUEST
            message = said
        else:
            failure = failure_of_words(message, _WORDINGS, COMMON) or AgentFailure.CRASHED
        return Finished(
            text=self._text,
            session_id=self._session_id,
            failure=failure,
            message=message or "codex says only that its turn failed",
        )

    def _reported(self, usage: Value) -> Usage:
        """It counts over the whole session, and does not say what it counted before this run."""
        if self._session is not None:
            return Usage()
        cached_input_tokens = usage["cached_input_tokens"].count
        return Usage(
            input_tokens=max(usage["input_tokens"].count - cached_input_tokens, 0),
            cached_input_tokens=cached_input_tokens,
            output_tokens=usage["output_tokens"].count,
        )


def _name_of(item: Value) -> str:
    kind = item["type"].text
    return f"{item['server'].text}.{item['tool'].text}" if kind == "mcp_tool_call" else kind


def _input_of(item: Value) -> object:
    match item["type"].text:
        case "command_execution":
            return {"command": item["command"].text}
        case "file_change":
            return {"changes": item["changes"].plain}
        case "web_search":
            return {"query": item["query"].text}
        case _:
            return item["arguments"].plain


def _result_of(item: Value) -> ToolResult:
    match item["type"].text:
        case "command_execution":
            output = item["aggregated_output"].text
        case "file_change":
            output = "\n".join(f"{change['kind'].text} {change['path'].text}" for change in item["changes"])
        case _:
            parts = (part["text"].text for part in item["result"]["content"])
            output = "\n".join(filter(None, parts)) or item["error"]["message"].text
    is_error = item["status"].text == "failed" or item["exit_code"].count != 0
    return ToolResult(call_id=item["id"].text, output=output, is_error=is_error)
