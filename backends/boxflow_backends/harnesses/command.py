"""How is any program run as an agent that reads its task on stdin and prints its answer?"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from boxflow.harness import (
    AgentEvent,
    AgentRequest,
    EventReader,
    Finished,
    Installation,
    Launch,
    Limit,
    ModelApi,
    Notice,
    TextDelta,
)
from boxflow_backends.harnesses.answers import asking, with_answer
from boxflow_backends.harnesses.endings import COMMON, ended
from boxflow_backends.harnesses.json_values import clean, object_text
from boxflow_backends.harnesses.options import Options, options_of, verbatim
from boxflow_backends.harnesses.own_programs import given_argv, program_variables

_NAME: Final = "command"
_KEPT: Final = 4 * 1024**2
"""Characters of the output. The last ones are kept: the result stands at the end."""


class CommandOptions(Options, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a command needs.

    :param argv: the program and its arguments. `{dir}/prompt.txt` in them makes a file of the prompt, for programs that
        do not read it on stdin; `{home}` is a directory that all runs in the box share
    """

    argv: tuple[str, ...] = ()


class Command:
    """Any program: the prompt is on its stdin, what it prints is the answer, and exit status 0 is success.

    A schema stands in the prompt and in the file that `BOXFLOW_SCHEMA` names; the last JSON document that the program
    prints is the answer to it. There are no sessions of its own and no counts of tokens.

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

        :raises ConfigurationError: no `argv`, or another option that there is not
        """
        options = options_of(_NAME, CommandOptions, request.options)
        argv = given_argv(_NAME, options.argv)
        prompt = asking(request.prompt, request.schema)
        files: dict[str, str] = {}
        variables = program_variables(_NAME, request, self.api)
        if any("{dir}/prompt.txt" in one for one in argv):
            files["prompt.txt"] = verbatim(_NAME, "the prompt", clean(prompt))
        if request.schema is not None:
            files["schema.json"] = object_text(request.schema)
            variables["BOXFLOW_SCHEMA"] = "{dir}/schema.json"
        return Launch(argv=argv, env={**variables, **options.env}, stdin=prompt.encode(errors="replace"), files=files)

    def reader(self, request: AgentRequest) -> EventReader:
        """A reader for one run's output."""
        return CommandReader(session=request.session, schema=request.schema)


class CommandReader:
    """Reads the output of a program that says nothing but its answer.

    Its exit is the end, so `end` gives the `Finished`.
    """

    def __init__(self, *, session: str | None, schema: Mapping[str, Any] | None) -> None:
        self._session = session
        self._schema = schema
        self._lines: deque[str] = deque()
        self._kept = 0
        self._cut = False

    def feed(self, line: str) -> Sequence[AgentEvent]:
        """The events that *line* means: that it was said."""
        line = clean(line)
        events: list[AgentEvent] = [TextDelta(text=line + "\n")]
        if self._keep(line) and not self._cut:
            self._cut = True
            events.append(Notice(message=f"only the last {_KEPT} characters of the output are kept as its result"))
        return events

    def end(self, exit_code: int, stderr: str) -> Finished:
        """How the run ended."""
        so_far = Finished(text="\n".join(self._lines).strip("\n"), session_id=self._session)
        read = with_answer(so_far, self._schema) if exit_code == 0 else None
        return ended("the command", read, so_far, exit_code, stderr, COMMON)

    def _keep(self, line: str) -> bool:
        """Whether something had to go for it."""
        dropped = len(line) > _KEPT
        self._lines.append(line[-_KEPT:])
        self._kept += len(self._lines[-1]) + 1
        while self._kept > _KEPT + 1 and len(self._lines) > 1:
            self._kept -= len(self._lines.popleft()) + 1
            dropped = True
        return dropped
