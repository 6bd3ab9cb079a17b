"""What can a scripted model answer? Texts, uses of tools, structured data, and all that goes wrong with models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from boxflow.errors import ConfigurationError

StopReason = Literal["end", "length", "refusal"]
"""Why the model stops: it is done, it may not write more, or it will not."""


def _count(_instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    if value < 0:
        raise ConfigurationError(f"{attribute.name}={value!r} cannot be; give 0 or more")


def _seconds(_instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise ConfigurationError(f"{attribute.name}={value!r} cannot be; give seconds, 0 or more")


@attrs.frozen
class Tokens:
    """What an answer is said to have cost.

    :param input: not from a cache
    :param output: reasoning included
    :param cached_input: read from a cache
    :param cache_write: written to a cache, and not counted in *input*
    :param reasoning: the part of *output* that was thought
    """

    input: int = attrs.field(default=1200, validator=_count)
    output: int = attrs.field(default=34, validator=_count)
    cached_input: int = attrs.field(default=0, kw_only=True, validator=_count)
    cache_write: int = attrs.field(default=0, kw_only=True, validator=_count)
    reasoning: int = attrs.field(default=0, kw_only=True, validator=_count)


# --- what a model says and does --------------------------------------------------------------------------------------


@attrs.frozen
class Say:
    """The model says *text*, of any length.

    :param over_s: how long it takes to say it, in a streamed answer
    """

    text: str
    over_s: float = attrs.field(default=0.0, kw_only=True, validator=_seconds)
    stop: StopReason = attrs.field(default="end", kw_only=True)
    tokens: Tokens | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Think:
    """The model thinks aloud; with other things to do, put it first in a `Together`."""

    text: str
    tokens: Tokens | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Use:
    """The model uses a tool.

    :param tool: its name in the request; or the end of it, where that is enough to tell it from the others: `"add"` is
        `mcp__sums__add` in one program and `sums_add` in another. A name that is not offered is sent as it is
    :param input: arguments; a text for a tool that takes free text
    """

    tool: str
    input: Mapping[str, Any] | str = attrs.field(factory=dict[str, Any])
    tokens: Tokens | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class WriteFile:
    """The model writes a file, with whichever tool of the asking program does that, or with a shell command.

    Some programs refuse to write over a file that the model has not read in this conversation: `ReadFile` it first.

    :param path: relative to the directory in which the program works, or absolute
    """

    path: str
    text: str
    tokens: Tokens | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class EditFile:
    """The model replaces *old* in a file by *new*. Whole lines, with their newlines, suit the tools of every program.

    Most programs refuse to edit a file that the model has not read in this conversation: `ReadFile` it first.
    """

    path: str
    old: str
    new: str
    tokens: Tokens | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class ReadFile:
    """The model reads a file, with whichever tool of the asking program does that, or with `cat`."""

    path: str
    tokens: Tokens | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class RunCommand:
    """The model runs a shell command, with whichever tool of the asking program does that."""

    command: str
    tokens: Tokens | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Answer:
    """The model gives structured data, in the way in which it was asked to.

    That is a tool made for it (Claude Code's `StructuredOutput`, a tool that must be used), or a text that is JSON.
    The data may break the schema: programs differ in what they do then.
    """

    data: Any
    tokens: Tokens | None = attrs.field(default=None, kw_only=True)


Block = Say | Think | Use | WriteFile | EditFile | ReadFile | RunCommand | Answer


def _some(_instance: object, attribute: attrs.Attribute[Any], value: Sequence[Block]) -> None:
    if not value:
        raise ConfigurationError(f"{attribute.name}={value!r} is no answer; give at least one")


@attrs.frozen
class Together:
    """Several of these in one answer, such as a text and two uses of tools at the same time."""

    blocks: Sequence[Block] = attrs.field(validator=_some)
    tokens: Tokens | None = attrs.field(default=None, kw_only=True)


# --- what goes wrong -------------------------------------------------------------------------------------------------


@attrs.frozen
class Fail:
    """The model's host answers with an error.

    Nothing of it is in the conversation, so a program that tries again gets it again; `First` makes it pass.

    :param status: an HTTP status
    :param type: the kind of error, in the words of the API; what belongs to *status* when empty
    :param retry_after: seconds, for the header of that name
    :param after: what is streamed before the error, with status 200 then
    """

    status: int
    type: str = ""
    message: str = "scripted error"
    retry_after: float | None = attrs.field(default=None, kw_only=True, validator=_seconds)
    after: str = attrs.field(default="", kw_only=True)


@attrs.frozen
class CutStream:
    """The connection ends in the middle of the answer, after this text; also when nothing is streamed."""

    after: str = "This sentence has no"


@attrs.frozen
class Hang:
    """Nothing comes for that long, and then the answer; or earlier nothing more, once the program has given up.

    :param after: what is streamed before the silence
    :param then: what comes when the silence is over and nothing was streamed before it
    """

    seconds: float = attrs.field(validator=_seconds)
    after: str = attrs.field(default="", kw_only=True)
    then: Reply = attrs.field(default=Say("That took a while."), kw_only=True)


@attrs.frozen
class Garbage:
    """Something comes that is no answer at all."""

    data: bytes = b"\x00\xff<html>busy</html>\ndata: {\n\n"
    status: int = attrs.field(default=200, kw_only=True)
    content_type: str = attrs.field(default="text/event-stream", kw_only=True)


@attrs.frozen
class First:
    """A request gets *reply* the first *times* times that it comes, and *then* afterwards.

    A request is the same if its conversation is. This is the one reply that the server must remember something for.
    """

    reply: Reply
    then: Reply = attrs.field(kw_only=True)
    times: int = attrs.field(default=1, kw_only=True, validator=_count)


Reply = Block | Together | Fail | CutStream | Hang | Garbage | First
"""What a script gives for one request."""
