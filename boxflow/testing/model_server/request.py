"""What does a program ask a model? One view of it, whichever API it speaks."""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import attrs


class Api(enum.StrEnum):
    """In which of the three languages a program speaks to its model."""

    MESSAGES = "messages"
    """Anthropic's Messages."""

    RESPONSES = "responses"
    """OpenAI's Responses."""

    CHAT = "chat"
    """OpenAI's Chat Completions, and what is compatible with them."""


@attrs.frozen(kw_only=True)
class HttpRequest:
    """A request as it arrived.

    :param path: with its query
    :param headers: names in lower case
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def api_key(self) -> str | None:
        """What it shows to be let in: `x-api-key`, or the bearer token."""
        if (key := self.headers.get("x-api-key")) is not None:
            return key
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if kind.lower() == "bearer" else None


@attrs.frozen(kw_only=True)
class Tool:
    """A tool that the program offers.

    :param name: as the model uses it; with its namespace before a dot where there is one
    :param schema: of its arguments; empty where the request has none
    :param free_text: it takes a text instead of arguments
    """

    name: str
    schema: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    free_text: bool = False

    def first_of(self, names: Sequence[str]) -> str | None:
        """The first of *names* that is one of its arguments."""
        offered: Any = self.schema.get("properties") or ()
        return next((name for name in names if name in offered), None)


@attrs.frozen(kw_only=True)
class ToolUse:
    """A use of a tool, in the conversation so far."""

    call_id: str
    name: str
    input: Any = None


@attrs.frozen(kw_only=True)
class ToolOutput:
    """What a tool gave back, in the conversation so far."""

    call_id: str
    text: str
    is_error: bool = False


@attrs.frozen(kw_only=True)
class Message:
    """One message of the conversation.

    :param role: `"system"` is all that neither a person nor the model said: also the environment and the reminders
        that programs put among the user's messages
    """

    role: Literal["system", "user", "assistant", "tool"]
    text: str = ""
    uses: tuple[ToolUse, ...] = ()
    outputs: tuple[ToolOutput, ...] = ()


# What Claude Code 2.1 and Codex 0.169 add to the user's messages on their own; a user may well write other tags.
_ADDED = re.compile(
    r"\s*(?:<(?:system-reminder|environment_context|user_instructions|permissions instructions|skills_instructions|"
    r"apps_instructions|plugins_instructions|collaboration_mode|turn_aborted|tools)>|# AGENTS\.md instructions)"
)


def role_of_user_text(text: str) -> Literal["system", "user"]:
    """Who says a text that stands in a user's message: the program itself, or the user?"""
    return "system" if _ADDED.match(text) else "user"


@attrs.frozen(kw_only=True)
class Reading:
    """What the body of a request says.

    :param schema: the JSON schema that the answer must fit, when it is asked for in the API's own way
    :param forced_tool: the one tool that must be used
    """

    model: str
    stream: bool
    messages: Sequence[Message]
    tools: Mapping[str, Tool]
    schema: Mapping[str, Any] | None = None
    forced_tool: str | None = None
    max_tokens: int | None = None


# The tool by which Claude Code and opencode ask for structured output; its arguments are the data.
STRUCTURED_OUTPUT = ("StructuredOutput", "structured_output")

_DIRECTORY = re.compile(r"(?:[Ww]orking directory: |<cwd>)(/[^\n<]*)")


@attrs.frozen(kw_only=True, slots=False)  # slots and cached properties go together from attrs 23.3 on only
class ModelRequest:
    """One question to the model.

    :param body: the request's JSON, as it arrived
    """

    api: Api
    http: HttpRequest = attrs.field(repr=False)
    body: Mapping[str, Any] = attrs.field(repr=False)
    reading: Reading = attrs.field(repr=False)

    @property
    def path(self) -> str:
        """Where it was sent. What stands before `/v1` is free: it can tell one agent from another."""
        return self.http.path

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case."""
        return self.http.headers

    @property
    def api_key(self) -> str | None:
        """The key that arrived."""
        return self.http.api_key

    @property
    def model(self) -> str:
        """The name of the model that is asked."""
        return self.reading.model

    @property
    def stream(self) -> bool:
        """Whether the answer is to come in pieces."""
        return self.reading.stream

    @property
    def messages(self) -> Sequence[Message]:
        """The conversation so far, what the system says included."""
        return self.reading.messages

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The tools on offer, by name."""
        return self.reading.tools

    @cached_property
    def system(self) -> str:
        """All that neither a person nor the model said."""
        return "\n".join(one.text for one in self.messages if one.role == "system")

    @cached_property
    def user_texts(self) -> Sequence[str]:
        """What the user said, in order."""
        return [one.text for one in self.messages if one.role == "user"]

    @property
    def last_user_text(self) -> str:
        """What the user said last; empty when nothing."""
        return self.user_texts[-1] if self.user_texts else ""

    @cached_property
    def tool_outputs(self) -> Sequence[ToolOutput]:
        """What tools gave back so far, in order."""
        return [output for one in self.messages for output in one.outputs]

    @property
    def last_tool_output(self) -> str:
        """What a tool gave back last; empty when nothing."""
        return self.tool_outputs[-1].text if self.tool_outputs else ""

    @property
    def structured_output_tool(self) -> Tool | None:
        """The tool that takes the answer as its arguments, when that is how the program asks for structured output."""
        return next((self.tools[name] for name in STRUCTURED_OUTPUT if name in self.tools), None)

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON schema that the answer must fit; None when any text will do."""
        tool = self.structured_output_tool
        return tool.schema if tool else self.reading.schema

    @cached_property
    def working_directory(self) -> str | None:
        """Where the program works, as it tells its model; None when it does not."""
        found = _DIRECTORY.search("\n".join(one.text for one in self.messages if one.role in ("system", "user")))
        return found[1].strip() if found else None

    @cached_property
    def turn(self) -> int:
        """How often the model has answered in this conversation: 0 for its first answer."""
        return turns_in(self.messages)

    @cached_property
    def digest(self) -> str:
        """The same for the same conversation, whether it is asked again, streamed or not."""
        told = repr((self.api, self.model, self.messages, sorted(self.tools))).encode(errors="replace")
        return hashlib.sha256(told).hexdigest()[:12]


# --- which turn is it? -----------------------------------------------------------------------------------------------

_MARK = re.compile(r"_([ta])(\d+)n\d+_[0-9a-f]{12}$")


def call_id(prefix: str, request: ModelRequest, position: int, *, answer: bool = False) -> str:
    """An id for a use of a tool, from which its turn can be read when it comes back.

    :param answer: it is structured output, after which the model has nothing to say
    """
    return f"{prefix}_{'a' if answer else 't'}{request.turn}n{position}_{request.digest}"


def is_answer(call: str) -> bool:
    """Whether that is the id of a use by which structured output was given."""
    found = _MARK.search(call)
    return found is not None and found[1] == "a"


def turns_in(messages: Sequence[Message]) -> int:
    """How often the model has answered in *messages*.

    Programs may tear an answer apart, so the ids of our own making count where there are some.
    """
    turns = 0
    answered = False
    for message in messages:
        if message.role == "assistant":
            marks = [int(found[2]) for use in message.uses if (found := _MARK.search(use.call_id))]
            if marks:
                turns = max(turns, max(marks) + 1)
            elif not answered:
                turns += 1
        answered = hands_back_an_answer(message)
    return turns


def hands_back_an_answer(message: Message) -> bool:
    """Whether it tells the model that its structured output was taken."""
    return any(is_answer(output.call_id) and not output.is_error for output in message.outputs)
