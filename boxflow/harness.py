"""What boxflow asks of an adapter for one coding-agent program: the Protocol `Harness`, and the data they exchange.

A harness is pure: it turns a request into a command, lines of output into events, and an ending into a result. It does
no I/O, reads no clock and no environment. Who runs the command, where, and for how long, is not its business.

An adapter imports this module and `boxflow.errors`, and nothing else of boxflow. Packages add theirs by the entry-point
group `boxflow.harnesses`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import attrs

# For users: what they say of an agent, beside what it is made of.
from boxflow.agent_config import AgentConfig, ModelPrices


class ModelApi(enum.StrEnum):
    """Which model interface a program speaks: decides where the gateway forwards to, and how it reads usage."""

    ANTHROPIC = "anthropic"
    """Messages (docs.anthropic.com/en/api/messages)."""

    OPENAI = "openai"
    """Responses and Chat Completions (platform.openai.com/docs/api-reference)."""

    NONE = "none"
    """None that boxflow knows of: the program sees to its model itself."""


@attrs.frozen(kw_only=True)
class AgentRequest:
    """What an agent is to do.

    :param model: the program's default when None
    :param session: the id of an earlier run's session, to continue
    :param schema: a JSON schema that the answer must fit
    :param base_url: where the program finds its model, as the SDKs of that interface take it (Anthropic's without
        `/v1`, OpenAI's with it), without a slash at the end; its own default when None
    :param api_key: what it shows there: a token of the gateway, or the key itself
    :param max_turns: how many model calls it may make, for a program that counts them (`Harness.own_limits`)
    :param max_cost_usd: likewise
    :param options: of this harness alone; it refuses those that it does not know
    """

    prompt: str
    model: str | None = None
    session: str | None = None
    schema: Mapping[str, Any] | None = None
    base_url: str | None = None
    api_key: str | None = attrs.field(default=None, repr=False)
    max_turns: int | None = None
    max_cost_usd: float | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


Limit = Literal["max_turns", "max_cost_usd"]
"""What a program may be able to count by itself."""


@attrs.frozen(kw_only=True)
class Launch:
    """How the program is started for one request.

    :param argv: the program and its arguments. In arguments, variables and files, `{dir}` (braces included) stands for
        a directory of this run in the box, which is there for *files*; `{home}` for one that all runs of this harness
        in the box share, for its sessions
    :param env: variables on top of the box's
    :param stdin: the whole input: the prompt, since arguments are bounded (128 KiB each on Linux)
    :param files: contents by path below `{dir}`, readable by the box's user alone
    """

    argv: Sequence[str]
    env: Mapping[str, str] = attrs.field(factory=dict[str, str])
    stdin: bytes = b""
    files: Mapping[str, str] = attrs.field(factory=dict[str, str])


@attrs.frozen(kw_only=True)
class Usage:
    """Tokens of one run, not of a session before it.

    :param input_tokens: not from a cache
    :param cached_input_tokens: read from a cache
    :param output_tokens: reasoning included
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            requests=self.requests + other.requests,
        )


# --- events --------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class SessionStarted:
    """The program runs, and this is its session."""

    session_id: str
    model: str | None = None


@attrs.frozen(kw_only=True)
class TextDelta:
    """A piece of what the agent says. A program without deltas gives each message as one piece."""

    text: str


@attrs.frozen(kw_only=True)
class Reasoning:
    """What the agent thinks aloud."""

    text: str


@attrs.frozen(kw_only=True)
class ToolCall:
    """The agent uses a tool."""

    call_id: str
    name: str
    input: Any = None


@attrs.frozen(kw_only=True)
class ToolResult:
    """What the tool gave back."""

    call_id: str
    output: str = ""
    is_error: bool = False


@attrs.frozen(kw_only=True)
class Notice:
    """Something worth a line in a log: a warning, a retry, a permission that was denied, a line nobody understands."""

    message: str


class AgentFailure(enum.StrEnum):
    """Why an agent ended without a result; decides the error that its caller gets."""

    NOT_INSTALLED = "not-installed"
    AUTHENTICATION = "authentication"
    RATE_LIMITED = "rate-limited"
    MODEL_UNAVAILABLE = "model-unavailable"
    BAD_REQUEST = "bad-request"
    BUDGET = "budget"
    TURNS = "turns"
    PERMISSION = "permission"
    SESSION_NOT_FOUND = "session-not-found"
    BAD_OUTPUT = "bad-output"
    """Its answer does not fit the schema, or its output ends without a result."""

    INTERRUPTED = "interrupted"
    CRASHED = "crashed"


@attrs.frozen(kw_only=True)
class Finished:
    """How the run ended.

    :param text: the agent's last words
    :param structured: its answer to `AgentRequest.schema`, as plain JSON data; not validated yet
    :param failure: None when it succeeded
    :param message: what went wrong, in the program's words
    :param cost_usd: as the program reports it for this run; None where it does not
    :param usage: as the program reports it for this run
    """

    text: str = ""
    structured: Any = None
    failure: AgentFailure | None = None
    message: str = ""
    session_id: str | None = None
    usage: Usage = attrs.field(factory=Usage)
    cost_usd: float | None = None
    turns: int | None = None


AgentEvent = SessionStarted | TextDelta | Reasoning | ToolCall | ToolResult | Notice | Finished


# --- the Protocols -------------------------------------------------------------------------------------------------


class EventReader(Protocol):
    """Reads the output of one run. Fed the same lines again, it gives the same events again."""

    def feed(self, line: str) -> Sequence[AgentEvent]:
        """The events that a line of the program's output means, without its newline.

        Never raises: a line that makes no sense is a `Notice`, and what is not known is passed over. At most one
        `Finished` comes of a whole output.
        """
        ...

    def end(self, exit_code: int, stderr: str) -> Finished:
        """How the run ended, now that the program has.

        That is the `Finished` that was read, corrected by what the exit status and the last words on stderr tell; or a
        failure when none was read. Success needs a terminal event.
        """
        ...


@attrs.frozen(kw_only=True)
class Installation:
    """What brings the program.

    :param manager: `"npm"` or `"pypi"`; empty when the user brings it
    :param package: with its version, as in `"@openai/codex@0.169.0"`
    """

    manager: str = ""
    package: str = ""


class Harness(Protocol):
    """The adapter for one coding-agent program."""

    @property
    def name(self) -> str:
        """As users choose it: `"claude-code"`."""
        ...

    @property
    def program(self) -> str:
        """What must be in the box; empty when that depends on the request."""
        ...

    @property
    def installation(self) -> Installation:
        """What brings the program, for errors and for whoever installs it."""
        ...

    @property
    def api(self) -> ModelApi:
        """Which model interface the program speaks."""
        ...

    @property
    def own_limits(self) -> frozenset[Limit]:
        """Which limits the program keeps by itself; the gateway, where there is one, keeps the others."""
        ...

    def launch(self, request: AgentRequest) -> Launch:
        """How the program is started.

        :raises ConfigurationError: an option that the harness does not know, or a request that it cannot serve
        """
        ...

    def reader(self, request: AgentRequest) -> EventReader:
        """A reader for one run's output."""
        ...


__all__ = [
    "AgentConfig",
    "AgentEvent",
    "AgentFailure",
    "AgentRequest",
    "EventReader",
    "Finished",
    "Harness",
    "Installation",
    "Launch",
    "Limit",
    "ModelApi",
    "ModelPrices",
    "Notice",
    "Reasoning",
    "SessionStarted",
    "TextDelta",
    "ToolCall",
    "ToolResult",
    "Usage",
]
