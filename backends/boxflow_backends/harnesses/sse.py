"""How is a program run that speaks the field's protocol for custom harnesses: arguments in, server-sent events out?

`PROGRAM -p PROMPT --model M --stream [--session ID]`, and on stdout the events `text`, `thinking`, `tool`,
`tool_result`, and at the end `done` or `error`, with JSON as their data (as in the helper `custom_harness` of PyPI
upstash-box 0.4.0; the framing is that of html.spec.whatwg.org, chapter 9.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from boxflow.harness import (
    AgentEvent,
    AgentFailure,
    AgentRequest,
    EventReader,
    Finished,
    Installation,
    Launch,
    Limit,
    ModelApi,
    Notice,
    Reasoning,
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from boxflow_backends.harnesses.answers import asking, with_answer
from boxflow_backends.harnesses.endings import COMMON, ended, failure_of_words
from boxflow_backends.harnesses.json_values import Value, parsed, shortened
from boxflow_backends.harnesses.options import Options, argument, options_of, session_argument, verbatim
from boxflow_backends.harnesses.own_programs import given_argv, program_variables

_NAME: Final = "sse"
_NO_MODEL: Final = "custom"
"""What the protocol's helper takes when it is given none."""

_FRAME_LIMIT: Final = 16 * 1024**2
"""Characters of one event's data. Without a bound, a program that never ends an event fills the engine's memory."""


class SseOptions(Options, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What such a program needs.

    :param argv: the program and its first arguments; those of the protocol follow
    """

    argv: tuple[str, ...] = ()


class Sse:
    """A program that speaks the protocol of custom harnesses.

    The protocol wants the prompt among the arguments: other users of the machine can read it there, and it is bounded
    to what Linux takes as one argument. A schema is asked for in the prompt.

    :param api: which model interface the program speaks, when the gateway is to stand between
    """

    name = _NAME
    program = ""
    installation = Installation()
    own_limits: frozenset[Limit] = frozenset()

    def __init__(self, *, api: ModelApi = ModelApi.NONE) -> None:
        self.api = api

    def launch(self, request: AgentRequest) -> Launch:
        """How the program is started.

        :raises ConfigurationError: no `argv`, another option that there is not, or a prompt that is too long
        """
        options = options_of(_NAME, SseOptions, request.options)
        prompt = argument(_NAME, "the prompt", verbatim(_NAME, "the prompt", asking(request.prompt, request.schema)))
        argv = [*given_argv(_NAME, options.argv), "-p", prompt, "--model", request.model or _NO_MODEL, "--stream"]
        if request.session is not None:
            argv += ["--session", session_argument(_NAME, request.session)]
        return Launch(argv=argv, env={**program_variables(_NAME, request, self.api), **options.env})

    def reader(self, request: AgentRequest) -> EventReader:
        """A reader for one run's output."""
        return SseReader(session=request.session, schema=request.schema)


class SseReader:
    """Reads the server-sent events of one run."""

    def __init__(self, *, session: str | None, schema: Mapping[str, Any] | None) -> None:
        self._session = session
        self._schema = schema
        self._event = ""
        self._data: list[str] = []
        self._data_size = 0
        self._words: list[str] = []
        self._finished: Finished | None = None

    def feed(self, line: str) -> Sequence[AgentEvent]:
        """The events that *line* means: none before the empty line that ends a frame."""
        line = line.removesuffix("\r").removeprefix("\ufeff")
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "event":
                self._event = value
            case "data" if self._data_size + len(value) <= _FRAME_LIMIT:
                self._data.append(value)
                self._data_size += len(value)
            case "data":
                return (Notice(message=f"an event has more than {_FRAME_LIMIT} characters; its end is passed over"),)
            case "" | "id" | "retry":  # a comment, and what is about connections
                pass
            case _:
                return (Notice(message=shortened(line)),)
        return ()

    def end(self, exit_code: int, stderr: str) -> Finished:
        """How the run ended."""
        self._dispatch()  # of a last frame that no empty line ends
        so_far = Finished(text="".join(self._words), session_id=self._session)
        return ended("the program", self._finished, so_far, exit_code, stderr, COMMON)

    def _dispatch(self) -> Sequence[AgentEvent]:
        name, data = self._event or "message", "\n".join(self._data)
        self._event, self._data, self._data_size = "", [], 0
        if not data:
            return ()
        value = Value(parsed(data))
        if not value.is_object:
            return (Notice(message=shortened(f"{name}: {data}")),)
        return self._events(name, value)

    def _events(self, name: str, data: Value) -> Sequence[AgentEvent]:
        text = data["text"].text
        call_id = data["toolCallId"].text
        match name:
            case "text" if text:
                self._words.append(text)
                return (TextDelta(text=text),)
            case "thinking" if text:
                return (Reasoning(text=text),)
            case "tool":
                return (ToolCall(call_id=call_id, name=data["name"].text, input=data["input"].plain),)
            case "tool_result":
                return (ToolResult(call_id=call_id, output=data["output"].shown),)
            case "done" | "error" if self._finished is None:
                self._finished = self._read(name, data)
                return (self._finished,)
            case _:
                return ()

    def _read(self, name: str, data: Value) -> Finished:
        finished = Finished(
            text=data["output"].text or "".join(self._words),
            session_id=data["session_id"].text or self._session,
            usage=Usage(
                input_tokens=data["input_tokens"].count,
                cached_input_tokens=data["cached_input_tokens"].count,
                output_tokens=data["output_tokens"].count,
            ),
            cost_usd=data["total_cost_usd"].amount or None,  # the protocol's helper says 0 where it does not know
        )
        if name == "done":
            return with_answer(finished, self._schema)
        message = data["error"].text or "the program tells of an error without saying which"
        failure = failure_of_words(message, COMMON) or AgentFailure.CRASHED
        return attrs.evolve(finished, failure=failure, message=message)
