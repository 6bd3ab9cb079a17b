"""What does a coding agent do that follows a script? `ScriptedAgent`: edits, an answer, a failure, by its prompt.

It is a harness like that of any agent program, and the program, which boxes of a `FakeSandbox` have: what it does
travels from the box as lines of output, as a real agent's does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, TypeAlias, cast

import attrs

from boxflow.codec import encode_loose
from boxflow.errors import ConfigurationError
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
    Usage,
)
from boxflow.model import Duration
from boxflow.testing.agent_lines import LineReader, line_of
from boxflow.testing.errors import UnansweredError
from boxflow.testing.fake_sandbox import FakeBox, FakeCommand
from boxflow.testing.rules import answered

PROGRAM: Final = "scripted-agent"
"""What `command -v` finds in a box that has such an agent."""

_SESSION: Final = "SCRIPTED_SESSION"
_MODEL: Final = "SCRIPTED_MODEL"
_BASE_URL: Final = "SCRIPTED_BASE_URL"
_TOKEN: Final = "SCRIPTED_API_KEY"  # noqa: S105 - the name of a variable
_SCHEMA: Final = "SCRIPTED_SCHEMA"


@attrs.frozen(kw_only=True)
class AgentReply:
    """What an agent does for one prompt.

    :param text: its last words
    :param result: its answer to `schema=`, as an object of that type or as plain data
    :param edits: files that it writes, relative to the box's working directory; None removes one
    :param events: what it is seen to do before that
    :param failure: why it ends without a result
    :param message: what went wrong, in the program's words
    :param delay: how long it takes
    :param exit_code: of the program; 1 for a failure unless given
    """

    text: str = ""
    result: object = None
    edits: Mapping[str, str | bytes | None] = attrs.field(factory=dict[str, "str | bytes | None"])
    events: Sequence[AgentEvent] = ()
    failure: AgentFailure | None = None
    message: str = ""
    usage: Usage = attrs.field(factory=Usage)
    cost_usd: float | None = None
    turns: int | None = None
    delay: Duration = 0.0
    exit_code: int | None = None


@attrs.frozen(kw_only=True)
class AgentTask:
    """What an agent was asked for; functions of a script get it, `ScriptedAgent.tasks` keeps it.

    :param box: the box that it works in, to look at and to change
    :param session: what it is to continue
    :param schema: the JSON schema of its answer
    """

    prompt: str
    box: FakeBox
    model: str | None = None
    session: str | None = None
    schema: Mapping[str, Any] | None = None


Replying: TypeAlias = Callable[[AgentTask], "AgentReply | str | Awaitable[AgentReply | str]"]
PromptPattern: TypeAlias = "str | re.Pattern[str] | Callable[[AgentTask], bool]"


@attrs.define
class _Rule:
    pattern: PromptPattern
    replies: list[object]
    uses: int = 0

    def matches(self, task: AgentTask) -> bool:
        match self.pattern:
            case str() as text:
                return text == task.prompt or fnmatchcase(task.prompt, text)
            case re.Pattern() as expression:
                return expression.search(task.prompt) is not None
            case function:
                return function(task)

    def next(self) -> object:
        self.uses += 1
        return self.replies[min(self.uses, len(self.replies)) - 1]


class ScriptedAgent:
    """An agent whose work is scripted.

        agent = ScriptedAgent()
        agent.on("Port *", edits={"go/main.go": "package main"}, result=Patch(title="ported"), delay="20m")

    :ivar tasks: what it was asked for, in order
    """

    program = PROGRAM
    installation = Installation()
    api = ModelApi.ANTHROPIC
    own_limits: frozenset[Limit] = frozenset({"max_turns", "max_cost_usd"})

    def __init__(self) -> None:
        self.tasks: list[AgentTask] = []
        self.name = "scripted"
        self._rules: list[_Rule] = []
        self._sessions: dict[str, _Rule] = {}

    # --- the script ---------------------------------------------------------------------------------------------------

    def on(
        self,
        prompt: PromptPattern,
        *replies: AgentReply | Replying | str | Exception,
        text: str = "",
        result: object = None,
        edits: Mapping[str, str | bytes | None] | None = None,
        events: Sequence[AgentEvent] = (),
        failure: AgentFailure | None = None,
        message: str = "",
        usage: Usage | None = None,
        cost_usd: float | None = None,
        turns: int | None = None,
        delay: Duration = 0.0,
    ) -> None:
        """Say what the agent does for every prompt that matches; of several rules the one that was added last.

        :param prompt: the prompt, a pattern of it as of `fnmatch`, a compiled regular expression that is searched in
            it, or a function that is asked
        :param replies: one after the other, the last again and again: an `AgentReply`, its text, a function that gets
            the `AgentTask` (it may be a coroutine function), or an exception that the program cannot be run with.
            Without any, what else is given here is the reply
        """
        if not replies:
            replies = (
                AgentReply(
                    text=text,
                    result=result,
                    edits=dict(edits or {}),
                    events=tuple(events),
                    failure=failure,
                    message=message,
                    usage=usage or Usage(),
                    cost_usd=cost_usd,
                    turns=turns,
                    delay=delay,
                ),
            )
        self._rules.append(_Rule(prompt, list(replies)))

    def called(self, name: str) -> _Named:
        """This agent in the place of the harness *name*."""
        return _Named(self, name)

    # --- boxflow.harness.Harness --------------------------------------------------------------------------------------

    def launch(self, request: AgentRequest) -> Launch:
        """How the program is started.

        :raises ConfigurationError: an option that there is not
        """
        return _launch(self.name, request)

    def reader(self, request: AgentRequest) -> EventReader:
        """A reader for one run's output."""
        return LineReader()

    # --- the program --------------------------------------------------------------------------------------------------

    async def work(self, command: FakeCommand) -> int:
        """What the program does; for `FakeSandbox.program`.

        :raises UnansweredError: the script has no reply to the prompt
        """
        task = await _task(command)
        self.tasks.append(task)
        rule = self._rule(task)
        session = task.session or f"session-{len(self._sessions) + 1}"
        self._sessions[session] = rule
        found = await answered(rule.next(), task)
        reply = found if isinstance(found, AgentReply) else AgentReply(text=str(found))
        return await _carry_out(command, reply, session)

    def _rule(self, task: AgentTask) -> _Rule:
        for rule in reversed(self._rules):
            if rule.matches(task):
                return rule
        if task.session in self._sessions:
            # A session goes on by the rule that it began with: `box.agent` asks again there for an answer that fits.
            return self._sessions[task.session]
        raise UnansweredError(
            f"the script has no reply to the prompt {task.prompt[:200]!r} in box {task.box.name!r}; "
            f"answer it: world.agent.on({task.prompt[:40]!r}, result=...)"
        )


class _Named:
    """A scripted agent under the name of another harness."""

    program = ScriptedAgent.program
    installation = ScriptedAgent.installation
    api = ScriptedAgent.api
    own_limits = ScriptedAgent.own_limits

    def __init__(self, agent: ScriptedAgent, name: str) -> None:
        self.agent = agent
        self.name = name

    def launch(self, request: AgentRequest) -> Launch:
        """As of the agent, but that the options of the other harness are let through."""
        env = request.options.get("env", {})
        return _launch(self.name, attrs.evolve(request, options={"env": env}))

    def reader(self, request: AgentRequest) -> EventReader:
        """As of the agent."""
        return self.agent.reader(request)


def _launch(name: str, request: AgentRequest) -> Launch:
    for option in request.options:
        if option != "env":
            raise ConfigurationError(f"agent {name!r} has no option {option!r}; it knows 'env'")
    env = request.options.get("env", {})
    if not isinstance(env, Mapping):
        raise ConfigurationError(f"agent {name!r}: env={env!r} must be a mapping of names to values")
    given = {_MODEL: request.model, _SESSION: request.session, _BASE_URL: request.base_url, _TOKEN: request.api_key}
    variables = {key: value for key, value in given.items() if value is not None}
    files: dict[str, str] = {}
    if request.schema is not None:
        # What stands in braces would be taken for a place.
        text = json.dumps(request.schema).replace("{dir}", r"\u007bdir}").replace("{home}", r"\u007bhome}")
        files["schema.json"] = text
        variables[_SCHEMA] = "{dir}/schema.json"
    return Launch(
        argv=(PROGRAM,),
        env={**variables, **cast("Mapping[str, str]", env)},
        stdin=request.prompt.encode(errors="replace"),
        files=files,
    )


async def _task(command: FakeCommand) -> AgentTask:
    schema = command.env.get(_SCHEMA)
    return AgentTask(
        prompt=(await command.read()).decode(),
        box=command.box,
        model=command.env.get(_MODEL),
        session=command.env.get(_SESSION),
        schema=None if schema is None else json.loads(command.box.files.read(schema)),
    )


async def _carry_out(command: FakeCommand, reply: AgentReply, session: str) -> int:
    for event in reply.events:
        command.write(line_of(event))
    await command.sleep(reply.delay)
    for path, content in reply.edits.items():
        if content is None:
            command.box.files.remove(command.path(path))
        else:
            command.box.write(command.path(path), content)
    failure = reply.failure or (AgentFailure.CRASHED if reply.exit_code else None)
    finished = Finished(
        text=reply.text,
        structured=None if reply.result is None else json.loads(encode_loose(reply.result)),
        failure=failure,
        message=reply.message or (f"scripted: {failure}" if failure else ""),
        session_id=session,
        usage=reply.usage,
        cost_usd=reply.cost_usd,
        turns=reply.turns,
    )
    command.write(line_of(finished))
    return reply.exit_code if reply.exit_code is not None else int(failure is not None)
