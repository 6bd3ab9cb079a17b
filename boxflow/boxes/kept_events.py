"""What of an agent's events is kept with its result? All that it did, with long texts cut, up to a bound.

The whole of it is read again from the run's job: `box.agent.attach(run.id)`.
"""

from __future__ import annotations

from typing import Any, Final, cast

import attrs
import msgspec

from boxflow.harness import AgentEvent, Finished, Notice, Reasoning, TextDelta, ToolCall, ToolResult

MAX_TEXT_CHARS: Final = 2000
"""Of one text, or of one tool's input: enough to see what was done, not the file that was written."""

MAX_KEPT_CHARS: Final = 100_000
"""Of one run: its journal entry stays below the size from which values go to a blob (`max_payload_bytes`)."""


class KeptEvents:
    """The events of one run, as they come."""

    def __init__(self) -> None:
        self._events: list[AgentEvent] = []
        self._chars = 0
        self._left_out = 0

    def add(self, event: AgentEvent) -> None:
        """Keep *event*, if there is room; pieces of one text become one."""
        if isinstance(event, Finished):
            return  # The result itself.
        short = _shortened(event)
        last = self._events[-1] if self._events and not self._left_out else None
        if isinstance(event, TextDelta | Reasoning) and isinstance(last, type(event)):
            longer = _cut(last.text + event.text)
            self._chars += len(longer) - len(last.text)
            self._events[-1] = attrs.evolve(last, text=longer)
            return
        size = len(msgspec.json.encode(attrs.asdict(short)))
        if self._left_out or self._chars + size > MAX_KEPT_CHARS:
            self._left_out += 1
            return
        self._chars += size
        self._events.append(short)

    def all(self) -> tuple[AgentEvent, ...]:
        """Those that are kept, and how many are not."""
        if not self._left_out:
            return tuple(self._events)
        more = Notice(message=f"{self._left_out} more events; `box.agent.attach` of this run's id gives them all")
        return (*self._events, more)


def _shortened(event: AgentEvent) -> AgentEvent:
    match event:
        case TextDelta(text=text) | Reasoning(text=text):
            return attrs.evolve(event, text=_cut(text))
        case ToolCall(input=given):
            return attrs.evolve(event, input=_cut_within(given))
        case ToolResult(output=output):
            return attrs.evolve(event, output=_cut(output))
        case Notice(message=message):
            return attrs.evolve(event, message=_cut(message))
        case _:
            return event


def _cut(text: str) -> str:
    if len(text) <= MAX_TEXT_CHARS:
        return text
    return f"{text[: MAX_TEXT_CHARS - 1]}\N{HORIZONTAL ELLIPSIS}"


def _cut_within(data: Any) -> Any:
    """JSON *data* with its long texts cut; what is large in another way, as a cut text."""
    short: Any = data
    if isinstance(data, str):
        short = _cut(data)
    elif isinstance(data, dict):
        fields = cast("dict[str, Any]", data)
        short = {key: _cut(value) if isinstance(value, str) else value for key, value in fields.items()}
    text = msgspec.json.encode(short).decode()
    return short if len(text) <= 2 * MAX_TEXT_CHARS else _cut(text)
