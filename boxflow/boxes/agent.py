"""`box.agent`: coding agents at work in a box."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypedDict, TypeVar, Unpack, overload, runtime_checkable

import attrs

from boxflow.boxes.agent_run import AgentRun, AgentStatus, RunRecord
from boxflow.boxes.agent_work import AgentWork, Ask, record_of
from boxflow.boxes.answers import json_schema, value_of
from boxflow.boxes.calls import call, durable_call, refuse_in_body
from boxflow.boxes.models import Models
from boxflow.boxes.watched import job_id_of
from boxflow.errors import AgentOutputError, ConfigurationError
from boxflow.harness import AgentConfig, AgentEvent, AgentRequest, Finished, Harness
from boxflow.model import Duration, seconds
from boxflow.ports import BoxSpec, Egress, Sandbox

T = TypeVar("T")

AGENT_STEP = ".agent.run"
"""How the names of steps end in which an agent has worked."""

DEFAULT_TIMEOUT_S = 2 * 3600.0
"""How long an agent may work when nothing else is said."""


class HasUrl(Protocol):
    """A webhook, as `ctx.create_webhook` gives it."""

    @property
    def url(self) -> str: ...


@attrs.frozen(kw_only=True)
class AgentDelivery:
    """A run whose result is told to a URL: all that is needed to find it again, and nothing secret."""

    box_id: str
    name: str
    job_id: str
    config: AgentConfig
    schema: Mapping[str, Any] | None
    session: str | None
    timeout_s: float
    network: Egress | None
    url: str


@runtime_checkable
class AgentKeeper(Protocol):
    """A sandbox that knows who tells results when nobody waits for them: that of an engine."""

    async def deliver_later(self, delivery: AgentDelivery) -> None:
        """Tell the result when there is one; durable on return."""
        ...


class RunOptions(TypedDict, total=False):
    """How a run goes; nothing of it must be given.

    files: of this machine, copied into the working directory first, under their own names.
    timeout: for the whole run; two hours unless given. Then everything that the agent started is killed.
    options: of the harness, on top of those of the box.
    session: `AgentRun.session_id` of an earlier run in this box, to continue.
    agent: another one than the box's.
    model: another one than the box's.
    max_turns: how many model calls it may make, as the program counts them (Claude Code), or by the gateway.
    max_cost_usd: how much it may cost: by the gateway where `AgentConfig.prices` are given, else as the program counts
        (Claude Code). Refused where nobody would.
    max_output_tokens: how many tokens its model may write, by the gateway.
    webhook: return at once, with status `running` and no result; the result is POSTed there when the agent has ended,
        tried again for a day, signed the way of Standard Webhooks. Of an engine's boxes only. A webhook of the engine
        itself (`ctx.create_webhook`) is served without a network.
    """

    files: Sequence[str | os.PathLike[str]]
    timeout: Duration | None
    options: Mapping[str, Any] | None
    session: str | None
    agent: str | AgentConfig | Harness | None
    model: str | None
    max_turns: int | None
    max_cost_usd: float | None
    max_output_tokens: int | None
    webhook: str | HasUrl | None


class Agent:
    """The agent of one box.

    :ivar config: which one, its model and its key; what `agent=` said when the box was made
    """

    def __init__(self, sandbox: Sandbox, models: Models, *, box_id: str, name: str, spec: BoxSpec) -> None:
        self.config = spec.agent or AgentConfig()
        self._sandbox = sandbox
        self._box_id = box_id
        self._name = name
        self._network = spec.network
        self._models = models
        self._work = AgentWork(sandbox, models, box_id=box_id, name=name, network=spec.network)

    @overload
    async def run(self, prompt: str, *, schema: type[T], **options: Unpack[RunOptions]) -> AgentRun[T]: ...

    @overload
    async def run(self, prompt: str, *, schema: None = None, **options: Unpack[RunOptions]) -> AgentRun[str]: ...

    @overload
    async def run(self, prompt: str, *, schema: Mapping[str, Any], **options: Unpack[RunOptions]) -> AgentRun[Any]: ...

    async def run(self, prompt: str, *, schema: object = None, **options: Unpack[RunOptions]) -> AgentRun[Any]:
        """Have the agent do *prompt* in the box's working directory, and wait until it is done.

        In a workflow body it is a job of the box: it goes on while the engine is down, and is never started twice.

        :param schema: what the answer must be: a pydantic model, an attrs class, a dataclass, a TypedDict, or a JSON
            schema. An answer that does not fit is asked for once more, with the reason
        :param options: see `RunOptions`
        :raises AgentNotInstalledError: its program is not in the box
        :raises AgentAuthenticationError: its model's host refused the key
        :raises AgentUnavailableError: its model gave no answer
        :raises AgentBudgetError: it came to its limit of cost, tokens or turns
        :raises AgentOutputError: its answer does not fit *schema*; `.text` has it
        :raises AgentTimeoutError: it passed its deadline
        :raises AgentError: it failed otherwise
        """
        webhook = options.get("webhook")
        if webhook is not None:
            url = webhook if isinstance(webhook, str) else webhook.url

            # The harness is looked up, and perhaps imported, in the step: a body must not be held up by that.
            async def start() -> tuple[str, str]:
                return await self._start(self._ask(prompt, schema, options), url)

            job_id, agent = await call(f"{self._name}.agent.start", start, type=tuple[str, str])
            return AgentRun(id=job_id, agent=agent, status=AgentStatus.RUNNING, result=None)

        async def carry_out() -> RunRecord:
            ask = self._ask(prompt, schema, options)
            durable = durable_call.get()
            job_id = _new_id() if durable is None else job_id_of(durable.key)
            try:
                return await self._work.carry_out(job_id, ask)
            except asyncio.CancelledError:
                if durable is None or not durable.leaving():
                    await self._end(job_id)
                raise

        record = await call(f"{self._name}{AGENT_STEP}", carry_out, type=RunRecord, is_job=True)
        return finished_run(record, schema)

    def stream(self, prompt: str, *, schema: object = None, **options: Unpack[RunOptions]) -> AgentStream:
        """Have the agent do *prompt*, and iterate over what it does: `async for event in box.agent.stream(...)`.

        Leaving the loop detaches, and the agent goes on: `attach(stream.id)` watches it again, from another process
        too. The last event is `Finished`; `stream.result()` is what `run` would have returned.

        :raises NotDurableError: in a workflow body; use `run` there, or stream in a step

        Parameters and errors are those of `run`.
        """
        refuse_in_body("box.agent.stream", "use `box.agent.run`, or stream in a step: `ctx.run(...)`")
        ask = self._ask(prompt, schema, options)
        return AgentStream(self._work, _new_id(), ask, start=True)

    def attach(
        self, run_id: str, *, after: int = 0, schema: object = None, **options: Unpack[RunOptions]
    ) -> AgentStream:
        """Watch a run again, from this process or another: `AgentStream.id` or `AgentRun.id` names it.

        :param after: how many events to pass over, which were seen already; the same run gives the same events again
        """
        refuse_in_body("box.agent.attach", "attach in a step: `ctx.run(...)`")
        return AgentStream(self._work, run_id, self._ask("", schema, options), start=False, after=after)

    async def finish(self, delivery: AgentDelivery) -> RunRecord:
        """Wait for a run that is under way; for who tells its result."""
        options = RunOptions(session=delivery.session, timeout=delivery.timeout_s)
        return await self._work.carry_out(delivery.job_id, self._ask("", delivery.schema, options))

    async def kill(self, run_id: str) -> None:
        """End a run, with everything that it started. No error when it has ended."""
        await call(f"{self._name}.agent.kill", lambda: self._work.kill(run_id), type=type(None))

    async def _start(self, ask: Ask, url: str) -> tuple[str, str]:
        if not isinstance(self._sandbox, AgentKeeper):
            raise ConfigurationError(
                "webhook= needs an engine, which tells the result when the agent has ended; use a box of `ctx.box` or "
                "`engine.boxes`, or `stream` and `attach`"
            )
        durable = durable_call.get()
        job_id = _new_id() if durable is None else job_id_of(durable.key)
        await self._work.start(job_id, ask)
        await self._sandbox.deliver_later(
            AgentDelivery(
                box_id=self._box_id,
                name=self._name,
                job_id=job_id,
                # Not the key itself, which is looked up again: only what the user wrote, with its `$NAME`.
                config=attrs.evolve(ask.config, model=ask.request.model, options=ask.request.options),
                schema=ask.request.schema,
                session=ask.request.session,
                timeout_s=ask.timeout_s,
                network=self._network if isinstance(self._network, Egress) else None,
                url=url,
            )
        )
        return job_id, ask.harness.name

    async def _end(self, job_id: str) -> None:
        for each in (job_id, f"{job_id}~again"):
            await self._work.kill(each)

    def _ask(self, prompt: str, schema: object, options: RunOptions) -> Ask:
        config, harness = _chosen(self.config, options.get("agent"), self._models)
        timeout = options.get("timeout")
        request = AgentRequest(
            prompt=prompt,
            model=options.get("model") or config.model,
            session=options.get("session"),
            schema=None if schema is None else json_schema(schema),
            max_turns=options.get("max_turns"),
            max_cost_usd=options.get("max_cost_usd"),
            options={**config.options, **(options.get("options") or {})},
        )
        return Ask(
            config=config,
            harness=harness,
            request=request,
            files=tuple(Path(path).absolute() for path in options.get("files", ())),
            schema=schema,
            timeout_s=DEFAULT_TIMEOUT_S if timeout is None else seconds(timeout),
            max_output_tokens=options.get("max_output_tokens"),
        )


async def finish_delivery(sandbox: Sandbox, models: Models, delivery: AgentDelivery) -> RunRecord:
    """The result of a run that was started with `webhook=`, once there is one."""
    spec = BoxSpec(agent=delivery.config, network=delivery.network)
    agent = Agent(sandbox, models, box_id=delivery.box_id, name=delivery.name, spec=spec)
    return await agent.finish(delivery)


class AgentStream:
    """What an agent does, as it does it.

    :ivar id: of the run; `box.agent.attach` takes it
    """

    def __init__(self, work: AgentWork, run_id: str, ask: Ask, *, start: bool, after: int = 0) -> None:
        self.id = run_id
        self._work = work
        self._ask = ask
        self._start = start
        self._after = after
        self._finished: Finished | None = None
        self._events = self._run()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Detach. The agent goes on."""
        await self._events.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AgentEvent:
        return await anext(self._events)

    async def result(self) -> AgentRun[Any]:
        """What `run` would have returned; reads on to the end first. Errors are those of `run`."""
        async for _ in self:
            pass
        finished = self._finished or Finished()
        record = await self._work.settle(self.id, record_of(self.id, self._ask, finished, 0.0))
        return finished_run(record, self._ask.schema)

    async def kill(self) -> None:
        """End the run, with everything that it started."""
        await self._work.kill(self.id)

    async def _run(self) -> AsyncGenerator[AgentEvent, None]:
        if self._start:
            await self._work.start(self.id, self._ask)
        seen = 0
        async for event in self._work.events(self.id, self._ask):
            if isinstance(event, Finished):
                self._finished = event
            seen += 1
            if seen > self._after:
                yield event


def finished_run(record: RunRecord, schema: object) -> AgentRun[Any]:
    """What the caller of a run gets.

    :raises AgentError: it failed
    """
    record.raise_failure()
    if schema is None:
        return record.as_run(record.text)
    if record.problem or record.answer is None:
        raise AgentOutputError(record.agent, f"gave no answer that fits its schema: {record.problem}", record)
    return record.as_run(value_of(record.answer, schema))


def _chosen(
    config: AgentConfig, agent: str | AgentConfig | Harness | None, models: Models
) -> tuple[AgentConfig, Harness]:
    match agent:
        case None:
            return config, models.harness(config.harness)
        case str():
            kept = config if agent == config.harness else AgentConfig(harness=agent)
            return kept, models.harness(agent)
        case AgentConfig():
            return agent, models.harness(agent.harness)
        case _:
            return attrs.evolve(config, harness=agent.name), agent


def _new_id() -> str:
    return f"agent-{secrets.token_hex(8)}"
