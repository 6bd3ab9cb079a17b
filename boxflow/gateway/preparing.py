"""What is changed in the body of a request before the model's host gets it? Only what limits and metering need."""

from __future__ import annotations

import attrs
import msgspec

from boxflow.gateway.endpoints import Metering
from boxflow.gateway.json_objects import object_of
from boxflow.gateway.problems import Kind, Problem

# Below this no interface takes a limit, or no answer is of use (OpenAI: max_output_tokens >= 16).
_LEAST_OUTPUT = 16
# docs.anthropic.com/en/docs/build-with-claude/extended-thinking: at least so much, and less than max_tokens.
_LEAST_THINKING = 1024

# The first is added where a request has none of them and its output is limited.
_OUTPUT_FIELDS: dict[Metering, tuple[str, ...]] = {
    Metering.MESSAGES: ("max_tokens",),
    Metering.CHAT: ("max_completion_tokens", "max_tokens"),
    Metering.RESPONSES: ("max_output_tokens",),
}
_READ = frozenset({"stream", "stream_options", "background", "n", "thinking"}).union(*_OUTPUT_FIELDS.values())

# A string longer than this without a blank is an image or another file, which costs far less than its length says.
_LONGEST_WORD = 4096

_Fields = dict[str, msgspec.Raw]


@attrs.frozen(kw_only=True)
class Prepared:
    """A request's body as it goes out.

    :param input_estimate: how many tokens it may be, by the length of its text; for when nobody tells
    :param hides_usage: the agent has not asked for the usage at the end of its stream, which the gateway has
    """

    body: bytes
    input_estimate: int
    hides_usage: bool = False


def prepare(metering: Metering, body: bytes, output_left: int | None) -> Prepared:
    """*body* with what is left to spend as its limit. It takes a moment for each megabyte.

    It is always written anew, with each field once, so that the host reads the very fields that were checked here.

    :raises Problem: it is no JSON object, asks for what cannot be metered, or nothing useful is left
    """
    fields = _read(body)
    for name in fields:
        # Some servers do not mind capitals, and would find a second limit there.
        if name not in _READ and name.lower() in _READ:
            raise Problem(Kind.BAD_REQUEST, f"the field {name.lower()!r} of a request is written in lower case")
    if metering is Metering.RESPONSES and _value(fields, "background") not in {None, False}:
        raise Problem(
            Kind.BAD_REQUEST, "`background` is not possible behind the model gateway, which could not meter it"
        )
    if output_left is not None and metering in _OUTPUT_FIELDS:
        _limit_output(fields, metering, output_left)
    hides_usage = metering is Metering.CHAT and _ask_for_usage(fields)
    return Prepared(body=msgspec.json.encode(fields), input_estimate=_estimate(body), hides_usage=hides_usage)


def _read(body: bytes) -> _Fields:
    try:
        return msgspec.json.decode(body, type=_Fields)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Problem(Kind.BAD_REQUEST, "the body of the request is no JSON object") from None


def _value(fields: _Fields, name: str) -> object:
    if name not in fields:
        return None
    try:
        return msgspec.json.decode(fields[name])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Problem(Kind.BAD_REQUEST, f"the field {name!r} of the request is no JSON") from None


def _set(fields: _Fields, name: str, value: object) -> None:
    fields[name] = msgspec.Raw(msgspec.json.encode(value))


def _limit_output(fields: _Fields, metering: Metering, output_left: int) -> None:
    names = _OUTPUT_FIELDS[metering]
    answers = _value(fields, "n") if metering is Metering.CHAT else None
    left = output_left // answers if isinstance(answers, int) and answers > 1 else output_left
    if left < _LEAST_OUTPUT:
        raise Problem(
            Kind.NO_CREDIT, f"the limits of this run leave {output_left} output tokens, too few for an answer"
        )
    for name in [name for name in names if name in fields] or names[:1]:
        asked = _value(fields, name)
        # What is no number is not trusted to be none for the host either.
        _set(fields, name, min(asked, left) if isinstance(asked, int) and not isinstance(asked, bool) else left)
    if metering is Metering.MESSAGES:
        _limit_thinking(fields, left)


def _limit_thinking(fields: _Fields, left: int) -> None:
    """Thinking must stay below the limit of the answer, or the host refuses the request."""
    thinking = object_of(_value(fields, "thinking"))
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or budget < left:
        return
    if left < 2 * _LEAST_THINKING:
        raise Problem(Kind.NO_CREDIT, f"the limits of this run leave {left} output tokens, too few to think")
    _set(fields, "thinking", {**thinking, "budget_tokens": left // 2})


def _ask_for_usage(fields: _Fields) -> bool:
    """Whether a stream had to be asked for its usage."""
    if _value(fields, "stream") is not True:
        return False
    options = object_of(_value(fields, "stream_options"))
    if options.get("include_usage") is True:
        return False
    _set(fields, "stream_options", {**options, "include_usage": True})
    return True


def _estimate(body: bytes) -> int:
    # Four letters a token: the rule of thumb that both makers give for English.
    return sum(len(part) for part in body.split(b'"') if len(part) <= _LONGEST_WORD or b" " in part) // 4
