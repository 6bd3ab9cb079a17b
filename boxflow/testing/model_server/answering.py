"""What does a dialect turn into bytes, and what is asked of one? An answer in no API's words, and the Protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import attrs

from boxflow.testing.model_server.replies import Fail, StopReason, Tokens
from boxflow.testing.model_server.request import Reading

# Enough pieces to be a stream, few enough that an answer of megabytes is quick: 24 characters, or 400 pieces.
_PIECE_CHARS = 24
_MOST_PIECES = 400


@attrs.frozen(kw_only=True)
class Text:
    """Something that the model says."""

    text: str
    over_s: float = 0.0


@attrs.frozen(kw_only=True)
class Thought:
    """Something that the model thinks."""

    text: str


@attrs.frozen(kw_only=True)
class Call:
    """A use of a tool.

    :param arguments: the input as text
    """

    call_id: str
    name: str
    input: Mapping[str, Any] | str
    arguments: str


@attrs.frozen(kw_only=True)
class ModelAnswer:
    """One whole answer of the model.

    :param id: the same for the same request
    :param created_at: seconds since the epoch
    """

    id: str
    created_at: int
    model: str
    blocks: Sequence[Text | Thought | Call]
    tokens: Tokens
    stop: StopReason = "end"

    @property
    def uses_tools(self) -> bool:
        """Whether the model waits for the output of a tool now."""
        return any(isinstance(block, Call) for block in self.blocks)


@attrs.frozen(kw_only=True)
class Event:
    """A piece of a streamed answer.

    :param pause_s: how long to wait before it is sent
    :param closing: it comes after the last of the content
    """

    data: bytes
    pause_s: float = 0.0
    closing: bool = False


class Dialect(Protocol):
    """One API: how requests are read, and answers written."""

    def read(self, body: Mapping[str, Any]) -> Reading:
        """What the body of a request says.

        :raises TypeError, ValueError, LookupError, AttributeError: it is none of this API
        """
        ...

    def whole(self, answer: ModelAnswer) -> Mapping[str, Any]:
        """The answer in one piece."""
        ...

    def events(self, answer: ModelAnswer, body: Mapping[str, Any]) -> Iterator[Event]:
        """The answer in pieces; *body* is the request's, which has options for the stream."""
        ...

    def error(self, fail: Fail) -> Mapping[str, Any]:
        """The body of an error."""
        ...

    def error_event(self, fail: Fail, answer: ModelAnswer) -> bytes:
        """An error in the middle of the stream of *answer*."""
        ...


def member(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object that *body* has under *key*; an empty one when it has none."""
    value: Any = body.get(key)
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def compact(value: Any) -> str:
    """*value* as JSON in one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def server_sent(data: Mapping[str, Any] | str, name: str = "") -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else compact(data)
    # A text may hold half a surrogate pair, as one that was cut; it arrives as a question mark.
    return (f"event: {name}\n" if name else "").encode() + b"data: " + text.encode(errors="replace") + b"\n\n"


def pieces(text: str) -> Sequence[str]:
    """*text* as it is streamed, at least one piece."""
    size = max(_PIECE_CHARS, math.ceil(len(text) / _MOST_PIECES))
    return [text[start : start + size] for start in range(0, len(text), size)] or [""]


def pause_s(block: Text | Thought | Call, count: int) -> float:
    """How long to wait before each of the *count* pieces of *block*."""
    return block.over_s / count if isinstance(block, Text) else 0.0
