"""How does a scripted agent tell what it does? One JSON object a line, with the name of the event and its fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, get_args

import attrs
import msgspec

from boxflow.harness import AgentEvent, AgentFailure, EventReader, Finished, Notice

_EVENTS: Final[dict[str, Any]] = {kind.__name__: kind for kind in get_args(AgentEvent)}

_SIGNALLED: Final = frozenset({130, 137, 143})
"""How a program ends that was interrupted, killed or asked to end."""

_NOT_FOUND: Final = 127
_SHOWN: Final = 200


class _Line(msgspec.Struct):
    event: str
    data: dict[str, Any]


def line_of(event: AgentEvent) -> str:
    """*event* as a line of output."""
    data = attrs.asdict(event)
    return msgspec.json.encode(_Line(type(event).__name__, data)).decode() + "\n"


class LineReader(EventReader):
    """An `EventReader` of such lines."""

    def __init__(self) -> None:
        self._finished: Finished | None = None

    def feed(self, line: str) -> Sequence[AgentEvent]:
        """The event that *line* means; a notice of it when it means none."""
        if not line.strip():
            return ()
        if self._finished is not None:
            return ()  # An end is the end.
        event = _read(line)
        if event is None:
            shown = line[:_SHOWN].encode(errors="replace").decode()
            return (Notice(message=f"a line that is no event: {shown}"),)
        if isinstance(event, Finished):
            self._finished = event
        return (event,)

    def end(self, exit_code: int, stderr: str) -> Finished:
        """How the run ended."""
        words = stderr.encode(errors="replace").decode().strip()
        read = self._finished
        if read is None:
            failure = AgentFailure.BAD_OUTPUT
            if exit_code in _SIGNALLED:
                failure = AgentFailure.INTERRUPTED
            elif exit_code == _NOT_FOUND:
                failure = AgentFailure.NOT_INSTALLED
            elif exit_code:
                failure = AgentFailure.CRASHED
            return Finished(failure=failure, message=words or f"it exited with {exit_code}, and told no result")
        if exit_code and read.failure is None:
            message = words or f"it told its result, and exited with {exit_code}"
            return attrs.evolve(read, failure=AgentFailure.CRASHED, message=message)
        return read


def _read(line: str) -> AgentEvent | None:
    try:
        found = msgspec.json.decode(line.encode(), type=_Line)
        event: AgentEvent = msgspec.convert(found.data, _EVENTS[found.event])
    except (msgspec.MsgspecError, KeyError, UnicodeEncodeError, RecursionError):
        return None
    return event if not isinstance(event, Finished) or _is_sound(event) else None


def _is_sound(finished: Finished) -> bool:
    """Whether it says what can be: a failure with its reason, and no negative counts."""
    counts = attrs.astuple(finished.usage)
    return bool(finished.message) == (finished.failure is not None) and all(count >= 0 for count in counts)
