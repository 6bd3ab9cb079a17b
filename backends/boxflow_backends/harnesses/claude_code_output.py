"""What does Claude Code's stream of JSON lines mean?

Its exit status says little: 0 after an interrupt, 1 with the subtype "success" after an error of the model's service.
What counts is the `result` line.
"""

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
from boxflow_backends.harnesses.endings import COMMON, ended, failure_of_status, failure_of_words, wordings
from boxflow_backends.harnesses.json_values import Value, parsed, shortened
from boxflow_backends.harnesses.schemas import is_wrapped, unwrapped

_ENDINGS: Final = {
    "error_max_turns": AgentFailure.TURNS,
    "error_max_budget_usd": AgentFailure.BUDGET,
    "error_max_structured_output_retries": AgentFailure.BAD_OUTPUT,
}
"""By `subtype`."""

_API_ERRORS: Final = {
    "authentication_failed": AgentFailure.AUTHENTICATION,
    "billing_error": AgentFailure.BUDGET,
    "invalid_request": AgentFailure.BAD_REQUEST,
    "model_not_found": AgentFailure.BAD_REQUEST,
    "rate_limit": AgentFailure.RATE_LIMITED,
}
"""By `error` of the last message."""

_WORDINGS: Final = wordings(
    (r"no conversation found|requires a valid session", AgentFailure.SESSION_NOT_FOUND),
    (r"json-schema is not a valid|unknown option|invalid value", AgentFailure.BAD_REQUEST),
    (r"not logged in|api key", AgentFailure.AUTHENTICATION),
)


class ClaudeCodeReader:
    """Reads the output of one `claude -p --output-format stream-json --include-partial-messages`."""

    def __init__(self, schema: Mapping[str, Any] | None) -> None:
        self._schema = schema
        self._session_id: str | None = None
        self._finished: Finished | None = None
        self._message_id = ""
        self._streamed: set[str] = set()  # messages whose text came in deltas
        self._words: list[str] = []  # of the message that is being said
        self._usages: dict[str, Usage] = {}  # by message; one message is one model call
        self._api_error = ""

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
        so_far = Finished(text="".join(self._words), session_id=self._session_id, usage=self._counted())
        return ended("claude", self._finished, so_far, exit_code, stderr, _WORDINGS, COMMON)

    def _events(self, event: Value) -> Iterator[AgentEvent]:
        # A sub-agent's words are not the agent's; its tools are used all the same.
        from_subagent = bool(event["parent_tool_use_id"].text)
        match event["type"].text:
            case "system":
                yield from self._of_system(event)
            case "stream_event" if not from_subagent:
                yield from self._of_stream(event["event"])
            case "assistant":
                yield from self._of_assistant(event, from_subagent)
            case "user":
                yield from _of_user(event)
            case "result":
                yield from self._of_result(event)
            case _:
                pass

    # --- what goes on ------------------------------------------------------------------------------------------------

    def _of_system(self, event: Value) -> Iterator[AgentEvent]:
        match event["subtype"].text:
            case "init":
                if self._session_id is None and (session_id := event["session_id"].text):
                    self._session_id = session_id
                    yield SessionStarted(session_id=session_id, model=event["model"].text or None)
                for server in event["mcp_servers"]:
                    if (status := server["status"].text) and status != "connected":
                        yield Notice(message=f"MCP server {server['name'].text!r} is {status}")
            case "api_retry":
                reason = " ".join(filter(None, (str(event["error_status"].count or ""), event["error"].text)))
                attempt = f"retry {event['attempt'].count} of {event['max_retries'].count}"
                wait_s = event["retry_delay_ms"].count / 1000
                yield Notice(message=f"a model call failed ({reason or 'unknown'}); {attempt} in {wait_s:.1f} s")
            case "permission_denied":
                yield Notice(message=shortened(f"{event['tool_name'].text} was denied: {event['message'].text}"))
            case _:
                pass

    def _of_stream(self, event: Value) -> Iterator[AgentEvent]:
        match event["type"].text:
            case "message_start":
                self._begin(event["message"])
            case "message_delta" if self._message_id in self._usages:
                known = self._usages[self._message_id]
                output_tokens = event["usage"]["output_tokens"].count
                self._usages[self._message_id] = attrs.evolve(known, output_tokens=output_tokens)
            case "content_block_delta":
                for told in self._told(event["delta"]):
                    self._streamed.add(self._message_id)
                    yield told
            case _:
                pass

    def _told(self, piece: Value) -> Iterator[AgentEvent]:
        """What a delta, or a block that came whole, says to people."""
        if text := piece["text"].text:
            self._words.append(text)
            yield TextDelta(text=text)
        elif thought := piece["thinking"].text:
            yield Reasoning(text=thought)

    def _of_assistant(self, event: Value, from_subagent: bool) -> Iterator[AgentEvent]:
        message = event["message"]
        if event["is_api_error_message"].flag:
            self._api_error = event["error"].text
            yield Notice(message=shortened(_text_of(message["content"])))
            return
        message_id = message["id"].text
        if message_id not in self._usages:
            self._begin(message, current=not from_subagent)
        for block in message["content"]:
            if block["type"].text == "tool_use":
                yield ToolCall(call_id=block["id"].text, name=block["name"].text, input=block["input"].plain)
            elif not from_subagent and message_id not in self._streamed:  # else it was told piece by piece
                yield from self._told(block)

    def _begin(self, message: Value, *, current: bool = True) -> None:
        message_id = message["id"].text
        self._usages[message_id] = _usage_of(message["usage"])
        if current:
            self._message_id = message_id
            self._words.clear()

    # --- the end -----------------------------------------------------------------------------------------------------

    def _of_result(self, event: Value) -> Iterator[AgentEvent]:
        before = self._finished
        self._session_id = event["session_id"].text or self._session_id
        finished = self._read(event)
        if before is not None:
            # It went on after a result, as when something that ran in the background was done: one run all the same.
            costs = [cost for cost in (before.cost_usd, finished.cost_usd) if cost is not None]
            turns = (before.turns or 0) + (finished.turns or 0)
            finished = attrs.evolve(
                finished,
                usage=attrs.evolve(before.usage + finished.usage, requests=len(self._usages)),
                cost_usd=sum(costs) if costs else None,
                turns=turns,
            )
        self._finished = finished
        if before is None and not event["queued_turn_count"].count:
            yield finished

    def _read(self, event: Value) -> Finished:
        finished = Finished(
            text=event["result"].text or "".join(self._words),
            session_id=self._session_id,
            usage=self._reported(event),
            cost_usd=_cost_of(event),
            turns=event["num_turns"].count,
        )
        subtype = event["subtype"].text
        if event["is_error"].flag or subtype != "success":
            errors = "; ".join(filter(None, (error.text for error in event["errors"])))
            message = errors or event["result"].text or event["terminal_reason"].text or subtype
            failure = _ENDINGS.get(subtype) or self._failure(event, message)
            said = "".join(self._words)  # what stands in `result` is the error, not the agent's words
            return attrs.evolve(finished, text=said, failure=failure, message=message)
        if self._schema is not None and "structured_output" in event:
            answer = event["structured_output"].plain
            return attrs.evolve(finished, structured=unwrapped(answer) if is_wrapped(self._schema) else answer)
        return with_answer(finished, self._schema)

    def _failure(self, event: Value, message: str) -> AgentFailure:
        reason = event["terminal_reason"].text
        if reason.startswith("aborted"):
            return AgentFailure.INTERRUPTED
        if by_status := failure_of_status(event["api_error_status"].count):
            return by_status
        if reason == "api_error":
            by_words = failure_of_words(message, _WORDINGS, COMMON)
            return _API_ERRORS.get(self._api_error) or by_words or AgentFailure.MODEL_UNAVAILABLE
        return failure_of_words(message, _WORDINGS) or AgentFailure.CRASHED

    def _reported(self, event: Value) -> Usage:
        """What this run used. `modelUsage` is of the whole session, and `usage` leaves out the last call of a run that
        failed; versions older than 2.1.330 have nothing better.
        """
        models = event["model_usage_since_last_result"]
        if not models:
            return attrs.evolve(_usage_of(event["usage"]), requests=len(self._usages))
        usage = Usage(requests=len(self._usages))
        for model in models.values():
            usage += Usage(
                input_tokens=model["inputTokens"].count + model["cacheCreationInputTokens"].count,
                cached_input_tokens=model["cacheReadInputTokens"].count,
                output_tokens=model["outputTokens"].count,
            )
        return usage

    def _counted(self) -> Usage:
        return sum(self._usages.values(), start=Usage())


def _of_user(event: Value) -> Iterator[AgentEvent]:
    for block in event["message"]["content"]:
        if block["type"].text == "tool_result":
            yield ToolResult(
                call_id=block["tool_use_id"].text,
                output=block["content"].text or _text_of(block["content"]),
                is_error=block["is_error"].flag,
            )


def _text_of(blocks: Value) -> str:
    return "\n".join(block["text"].text or f"[{block['type'].text}]" for block in blocks if block.is_object)


def _usage_of(usage: Value) -> Usage:
    return Usage(
        input_tokens=usage["input_tokens"].count + usage["cache_creation_input_tokens"].count,
        cached_input_tokens=usage["cache_read_input_tokens"].count,
        output_tokens=usage["output_tokens"].count,
        requests=1,
    )


def _cost_of(event: Value) -> float | None:
    """`total_cost_usd` is of the whole session in 2.1.330 and newer, which is when the other one is there, too."""
    models = event["model_usage_since_last_result"]
    if not models:
        return event["total_cost_usd"].amount
    return sum(model["costUSD"].amount or 0.0 for model in models.values())
