"""How many tokens did a request take? Read from the answer, while it passes by.

Anthropic tells the input at the beginning of a stream and the output at its end (each count for all of the stream so
far); OpenAI tells both at the end. When that does not come - the stream was cut, the agent went away - what is missing
is estimated: the output from the length of what was streamed, the input from the length of the request.
"""

from __future__ import annotations

import attrs
import msgspec

from boxflow.gateway.events import EventSplitter, Piece
from boxflow.gateway.json_objects import list_of, object_of
from boxflow.gateway.spending import Tokens
from boxflow.harness import ModelApi

# Of an answer, or of an event, to find the usage in it. The largest are those with images in them.
_READ_BYTES = 4_194_304
_CHARACTERS_PER_TOKEN = 4


class _Details(msgspec.Struct):
    cached_tokens: float | None = None


class _Usage(msgspec.Struct):
    input_tokens: float | None = None
    output_tokens: float | None = None
    cache_read_input_tokens: float | None = None
    cache_creation_input_tokens: float | None = None
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None


class _Holder(msgspec.Struct):
    usage: _Usage | None = None


class _Said(msgspec.Struct):
    """One event, or a whole answer, of any of the interfaces: what matters here, and nothing else is decoded."""

    usage: _Usage | None = None
    message: _Holder | str | None = None  # Anthropic: message_start; OpenAI: the text of an error
    response: _Holder | None = None
    choices: list[msgspec.Raw] | None = None
    delta: msgspec.Raw = msgspec.Raw()  # Anthropic: an object; OpenAI Responses: a string


@attrs.define(eq=False)
class Meter:
    """Of one request.

    :param input_estimate: for when its answer tells nothing
    :param hides_usage: the event with the usage of a chat is not for the agent
    """

    api: ModelApi
    input_estimate: int
    hides_usage: bool = False
    began: bool = attrs.field(default=False, init=False)
    _length: int | None = attrs.field(default=None, init=False)
    _events: EventSplitter | None = attrs.field(default=None, init=False)
    _whole: bytearray = attrs.field(factory=bytearray, init=False)
    _answer_bytes: int = attrs.field(default=0, init=False)
    _characters: int = attrs.field(default=0, init=False)
    _input: int | None = attrs.field(default=None, init=False)
    _cached: int = attrs.field(default=0, init=False)
    _written: int = attrs.field(default=0, init=False)
    _output: int = attrs.field(default=0, init=False)
    _output_is_final: bool = attrs.field(default=False, init=False)

    def begin(self, content_type: str, length: int | None = None) -> None:
        """The answer begins.

        :param length: of all of it, where that is known
        """
        self.began = True
        self._length = length
        if content_type.lower().startswith("text/event-stream"):
            self._events = EventSplitter(_READ_BYTES)

    def feed(self, chunk: bytes) -> bytes:
        """Read the next bytes of the answer; what of the answer is to be passed on now."""
        if self._events is None:
            self._feed_whole(chunk)
            return chunk
        pieces = self._events.feed(chunk)
        shown = [piece.data for piece in pieces if not self._read_piece(piece)]
        return b"".join(shown) if self.hides_usage else chunk

    def _feed_whole(self, chunk: bytes) -> None:
        self._answer_bytes += len(chunk)
        # Beyond that it is not read, and so estimated.
        if self._answer_bytes > _READ_BYTES:
            self._whole.clear()
            return
        self._whole += chunk
        if self._answer_bytes == self._length:
            # Not later: with these bytes the agent has all of it, and somebody may ask at once what it cost.
            self.end()

    def end(self) -> bytes:
        """The answer has ended; what of it is still to be passed on."""
        if self._events is None:
            self._read(bytes(self._whole))
            self._whole.clear()
            return b""
        left = self._events.end()
        self._read_piece(Piece(left, whole=True))
        return left if self.hides_usage else b""

    def seen(self) -> Tokens:
        """What the answer has told up to now."""
        output = self._output if self._output_is_final else max(self._output, self._characters // _CHARACTERS_PER_TOKEN)
        return Tokens(input=self._input or 0, cached_input=self._cached, written_input=self._written, output=output)

    def total(self) -> Tokens:
        """What to charge, now that nothing more comes."""
        if self._input is not None and self._output_is_final:
            return self.seen()
        characters = self._characters if self._events is not None else self._answer_bytes
        return attrs.evolve(
            self.seen(),
            input=self.input_estimate if self._input is None else self._input,
            output=max(self._output, characters // _CHARACTERS_PER_TOKEN),
            estimated=True,
        )

    def _read_piece(self, piece: Piece) -> bool:
        """Whether an event is nothing but the usage."""
        text = piece.text()
        if not text.startswith(b"{"):
            return False
        return self._read(text)

    def _read(self, text: bytes) -> bool:
        try:
            said = msgspec.json.decode(text, type=_Said)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False  # An event of a kind that is not known: it tells no usage.
        self._count(said)
        if isinstance(said.message, _Holder) and said.message.usage is not None:
            self._take(said.message.usage, final=False)
        for usage in (said.usage, said.response.usage if said.response is not None else None):
            if usage is not None:
                self._take(usage, final=True)
        return said.usage is not None and said.choices == []

    def _count(self, said: _Said) -> None:
        if bytes(said.delta):
            self._characters += _length(msgspec.json.decode(said.delta))
        for choice in said.choices or ():
            self._characters += _length(object_of(msgspec.json.decode(choice)).get("delta"))

    def _take(self, usage: _Usage, *, final: bool) -> None:
        # Later counts contain earlier ones; the larger is the later.
        if self.api is ModelApi.ANTHROPIC:
            told = usage.input_tokens
            self._cached = max(self._cached, _whole_number(usage.cache_read_input_tokens))
            self._written = max(self._written, _whole_number(usage.cache_creation_input_tokens))
            output = usage.output_tokens
        else:
            told = usage.prompt_tokens if usage.input_tokens is None else usage.input_tokens
            details = usage.prompt_tokens_details or usage.input_tokens_details
            cached = _whole_number(details.cached_tokens) if details is not None else 0
            self._cached = max(self._cached, cached)
            # Here the input contains what came from the cache.
            told = None if told is None else told - self._cached
            output = usage.completion_tokens if usage.output_tokens is None else usage.output_tokens
        if told is not None:
            self._input = max(self._input or 0, _whole_number(told))
        if output is not None or (final and self._input is not None and self.api is ModelApi.OPENAI):
            self._output = max(self._output, _whole_number(output))
            self._output_is_final = self._output_is_final or final


def _whole_number(value: float | None) -> int:
    return max(0, int(value or 0))


# What the fields that hold something the model has written are called, in the deltas of all interfaces.
_WRITTEN = frozenset(
    {"text", "thinking", "partial_json", "content", "reasoning", "reasoning_content", "refusal", "arguments"}
)


def _length(delta: object) -> int:
    """How many letters the model has written in *delta*."""
    if isinstance(delta, str):
        return len(delta)
    fields = object_of(delta)
    written = [value for name, value in fields.items() if name in _WRITTEN]
    around = [fields.get("tool_calls"), fields.get("function"), *list_of(delta)]
    return sum(_length(one) for one in written + around if one is not None)
