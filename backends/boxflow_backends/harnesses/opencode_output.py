"""What does the output of `opencode run --format json` mean?"""

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
from boxflow_backends.harnesses.endings import COMMON, NO_CREDIT, ended, failure_of_status, failure_of_words, wordings
from boxflow_backends.harnesses.json_values import Value, parsed, shortened

_WORDINGS: Final = wordings(
    (r"session not found", AgentFailure.SESSION_NOT_FOUND),
    (r"model not found|config(uration)? (file )?.*(invalid|not valid)", AgentFailure.BAD_REQUEST),
    (r"rejected permission|permission requested", AgentFailure.PERMISSION),
)

_GOES_ON: Final = frozenset({"", "tool-calls", "unknown"})
"""Reasons for the end of a step after which another one comes."""

_CUT: Final = {
    "length": "the model's answer was cut at its limit of output tokens",
    "content-filter": "the model's answer was held back by its content filter",
    "error": "the model's answer ended with an error",
}


class OpenCodeReader:
    """Reads the output of one `opencode run --format json`.

    It says how each step ended, and not that no other one comes. Only its exit tells that, so `end` gives the
    `Finished`.
    """

    def __init__(self, *, model: str | None, schema: Mapping[str, Any] | None) -> None:
        self._model = model
        self._schema = schema
        self._session_id: str | None = None
        self._spoken: tuple[str, list[str]] = ("", [])  # the last message with words, and these
        self._usage = Usage()
        self._cost_usd: float | None = None
        self._ended_by = ""  # why the last step ended
        self._failed: Finished | None = None
        self._denied = ""

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
        return ended("opencode", self._read(), self._so_far(), exit_code, stderr, _WORDINGS, COMMON)

    def _events(self, event: Value) -> Iterator[AgentEvent]:
        if self._session_id is None and (session_id := event["sessionID"].text):
            self._session_id = session_id
            yield SessionStarted(session_id=session_id, model=self._model)
        part = event["part"]
        text = part["text"].text
        match event["type"].text:
            case "step_start":
                self._ended_by = ""
            case "text" if text:
                self._speak(part["messageID"].text, text)
                yield TextDelta(text=text)
            case "reasoning" if text:
                yield Reasoning(text=text)
            case "tool_use":
                yield from self._of_tool(part)
            case "step_finish":
                self._finish_step(part)
            case "error":
                yield self._fail(event["error"])
            case _:
                pass

    def _speak(self, message_id: str, text: str) -> None:
        spoken_by, words = self._spoken
        self._spoken = (message_id, [*words, text] if message_id and message_id == spoken_by else [text])

    def _of_tool(self, part: Value) -> Iterator[AgentEvent]:
        """One event tells of the whole use, when it is over."""
        call_id, state = part["callID"].text, part["state"]
        error = state["error"].text
        is_error = state["status"].text == "error"
        self._denied = error if is_error and failure_of_words(error, _WORDINGS) is AgentFailure.PERMISSION else ""
        yield ToolCall(call_id=call_id, name=part["tool"].text, input=state["input"].plain)
        # A command that exits with another status than 0 has "completed" all the same.
        failed = is_error or state["metadata"]["exit"].count != 0
        yield ToolResult(call_id=call_id, output=state["output"].text or error, is_error=failed)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _finish_step(self, part: Value) -> None:
        tokens = part["tokens"]
        self._usage += Usage(
            input_tokens=tokens["input"].count + tokens["cache"]["write"].count,
            cached_input_tokens=tokens["cache"]["read"].count,
            output_tokens=tokens["output"].count + tokens["reasoning"].count,
            requests=1,
        )
        cost_usd = part["cost"].amount
        if cost_usd:  # 0 is also what it says of a model without prices
            self._cost_usd = (self._cost_usd or 0.0) + cost_usd
        self._ended_by = part["reason"].text

    def _fail(self, error: Value) -> Notice:
        data = error["data"]
        message = data["message"].text or error["name"].text or "opencode tells of an error without saying which"
        failure = (
            failure_of_words(data["responseBody"].text, NO_CREDIT)
            or failure_of_status(data["statusCode"].count)
            or failure_of_words(f"{error['name'].text} {message}", _WORDINGS, COMMON)
            or AgentFailure.CRASHED
        )
        self._failed = Finished(failure=failure, message=message)
        return Notice(message=shortened(message))

    def _so_far(self) -> Finished:
        return Finished(
            text="\n".join(self._spoken[1]), session_id=self._session_id, usage=self._usage, cost_usd=self._cost_usd
        )

    def _read(self) -> Finished | None:
        so_far = self._so_far()
        if self._failed is not None:
            return attrs.evolve(so_far, failure=self._failed.failure, message=self._failed.message)
        if reason := _CUT.get(self._ended_by):
            return attrs.evolve(so_far, failure=AgentFailure.BAD_OUTPUT, message=reason)
        if self._ended_by not in _GOES_ON:
            return with_answer(attrs.evolve(so_far, turns=self._usage.requests), self._schema)
        if self._denied:  # after which it stops and exits with 0
            return attrs.evolve(so_far, failure=AgentFailure.PERMISSION, message=self._denied)
        return None
