"""How does an agent work in a box? As a job, whose output is read as events; found again by its id, whoever asks."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import attrs

from boxflow.boxes.agent_places import default_directory
from boxflow.boxes.agent_run import RunRecord
from boxflow.boxes.answers import problem_with
from boxflow.boxes.command import Command, run_command
from boxflow.boxes.job_commands import end_job
from boxflow.boxes.jobs import JobOutput, Jobs
from boxflow.boxes.kept_events import KeptEvents
from boxflow.boxes.models import Metered, Models
from boxflow.boxes.watched import name_of
from boxflow.errors import AgentNotInstalledError, ConfigurationError, SandboxError
from boxflow.harness import (
    AgentConfig,
    AgentEvent,
    AgentFailure,
    AgentRequest,
    EventReader,
    Finished,
    Harness,
    Launch,
    Notice,
)
from boxflow.ports import Capability, Network, Sandbox

GRACE_S: Final = 5.0
"""How long a program may go on after it has told its result: some never end by themselves."""

# How often it is looked whether a silent program may still spend.
_LOOK_S: Final = 2.0

_AGAIN: Final = "~again"

_MAX_LINE_BYTES: Final = 32 * 1024 * 1024
_STDERR_CHARS: Final = 4000

# $1 is the run's directory below the home, $2 the harness's, $3 the program, which may also be in $4. The home and the
# program are said on one line each.
_PREPARE: Final = """
umask 077
PATH=$PATH${4:+:$4}
mkdir -p "$HOME/$1" "$HOME/$2" && cd "$HOME" && pwd -P && command -v -- "$3"
"""


@attrs.frozen(kw_only=True)
class Ask:
    """One run of an agent, resolved: what is asked of which program, within which bounds.

    :param files: of this machine, copied into the working directory first
    :param schema: what the answer is checked against; None for plain text
    """

    config: AgentConfig
    harness: Harness
    request: AgentRequest
    files: Sequence[Path] = ()
    schema: object = None
    timeout_s: float
    max_output_tokens: int | None = None


class AgentWork:
    """The agents of one box, at work."""

    def __init__(self, sandbox: Sandbox, models: Models, *, box_id: str, name: str, network: Network | None) -> None:
        self._sandbox = sandbox
        self._models = models
        self._box_id = box_id
        self._name = name
        self._network: Network | None = network
        self._jobs = Jobs(sandbox, box_id=box_id, name=name)

    async def carry_out(self, job_id: str, ask: Ask) -> RunRecord:
        """Start the run or find it, and wait for its end. An answer that does not fit is asked for once more."""
        record = await self._with_second_try(job_id, ask)
        return settled(record, await self._models.settle(job_id))

    async def _with_second_try(self, job_id: str, ask: Ask) -> RunRecord:
        record = await self._once(job_id, job_id, ask)
        wrong = record.problem or (record.message if record.failure is AgentFailure.BAD_OUTPUT else "")
        if ask.schema is None or not wrong or record.session_id is None:
            return record
        again = attrs.evolve(
            ask.request,
            session=record.session_id,
            prompt=(
                f"Your answer does not fit what was asked for: {wrong}\n"
                "Give the whole answer again, corrected, and nothing else."
            ),
        )
        second = await self._once(f"{job_id}{_AGAIN}", job_id, attrs.evolve(ask, request=again, files=()))
        costs = [cost for cost in (record.cost_usd, second.cost_usd) if cost is not None]
        return attrs.evolve(
            second,
            id=job_id,
            usage=record.usage + second.usage,
            cost_usd=sum(costs) if costs else None,
            duration_s=record.duration_s + second.duration_s,
            events=record.events + second.events,
        )

    async def _once(self, job_id: str, run: str, ask: Ask) -> RunRecord:
        try:
            await self.start(job_id, ask, run=run)
        except AgentNotInstalledError as error:
            # Data like every other failure: the journal keeps it, and a body gets the error that it is.
            words = str(error).partition(": ")[2]
            return RunRecord(id=job_id, agent=ask.harness.name, failure=AgentFailure.NOT_INSTALLED, message=words)
        finished, kept = Finished(), KeptEvents()
        try:
            async with aclosing(self.events(job_id, ask)) as events:
                async for event in events:
                    kept.add(event)
                    if isinstance(event, Finished):
                        finished = event
        except TimeoutError:
            info = await self._jobs.get(job_id)
            return RunRecord(
                id=job_id,
                agent=ask.harness.name,
                timed_out_s=ask.timeout_s,
                duration_s=info.duration_s or 0.0,
                events=kept.all(),
            )
        info = await self._jobs.get(job_id)
        return record_of(job_id, ask, finished, info.duration_s or 0.0, kept.all())

    async def start(self, job_id: str, ask: Ask, *, run: str | None = None) -> None:
        """Start the run, unless it was: safe to repeat.

        :param run: whose way to the model it takes; its own unless given
        :raises AgentNotInstalledError: its program is not in the box
        """
        way = await self._models.way(
            ask.config,
            ask.harness.api,
            self._sandbox,
            self._network,
            run=run or job_id,
            name=f"{self._name}: {run or job_id}",
            max_turns=None if "max_turns" in ask.harness.own_limits else ask.request.max_turns,
            max_cost_usd=ask.request.max_cost_usd,
            max_output_tokens=ask.max_output_tokens,
        )
        _check_limits(ask, counted=way.token is not None)
        if any(info.job_id == job_id for info in await self._jobs.list()):
            return
        launch = ask.harness.launch(attrs.evolve(ask.request, base_url=way.base_url, api_key=way.api_key))
        home, program = await self._prepared(job_id, ask, launch)
        places = {"{dir}": f"{home}/{_run_directory(job_id)}", "{home}": f"{home}/{_home_directory(ask.harness)}"}
        for path, content in launch.files.items():
            text = _placed(content, places)
            await self._sandbox.write_file(self._box_id, f"{places['{dir}']}/{path}", text.encode(), mode=0o600)
        for source in ask.files:
            await self._sandbox.upload(self._box_id, source, source.name)
        await self._jobs.start(
            [program, *(_placed(word, places) for word in launch.argv[1:])],
            job_id=job_id,
            env={key: _placed(value, places) for key, value in launch.env.items()},
            stdin=launch.stdin,
        )

    async def _prepared(self, job_id: str, ask: Ask, launch: Launch) -> tuple[str, str]:
        """The home of the box's user, with the directories of the run in it, and the agent's program."""
        program = launch.argv[0]
        # The programs of this machine are those of a box without walls; those of other boxes are in their image.
        installed = "" if Capability.ISOLATION in self._sandbox.capabilities else str(default_directory() / "bin")
        words = (_run_directory(job_id), _home_directory(ask.harness), program, installed)
        argv = ("sh", "-c", _PREPARE, "prepare", *words)
        done = await run_command(self._sandbox, self._box_id, Command(argv=argv, timeout_s=60.0))
        lines = done.stdout.splitlines()
        if not lines:
            raise SandboxError(f"cannot prepare a run of agent {ask.harness.name!r}: {done.stderr.strip()}")
        if not done.ok:
            raise AgentNotInstalledError(ask.harness.name, f"cannot work: {_not_installed(ask.harness, program)}")
        return lines[0], lines[1] if installed and lines[1].startswith(f"{installed}/") else program

    async def events(self, job_id: str, ask: Ask, *, offset: int = 0) -> AsyncGenerator[AgentEvent, None]:
        """What the agent does, until its `Finished`. Leaving detaches, and the agent goes on.

        :raises TimeoutError: it passed its deadline, and was killed
        """
        reader = ask.harness.reader(ask.request)
        output = _Output(reader)
        until = await self._deadline(job_id, ask.timeout_s)
        try:
            async with aclosing(self._jobs.logs(job_id, follow=True, offset=offset)) as logs:
                while not output.finished:
                    piece = await self._next_piece(job_id, logs, until)
                    if piece is None:
                        break
                    for event in output.take(piece.stream, piece.data):
                        yield event
            async with asyncio.timeout_at(until):
                exit_code = await self._exit_code(job_id, output.finished)
        except TimeoutError:
            await end_job(self._sandbox, self._box_id, job_id, "timeout", user=None)
            raise
        for event in output.rest():
            yield event
        yield reader.end(exit_code, output.stderr)

    async def _next_piece(self, job_id: str, logs: AsyncGenerator[JobOutput, None], until: float) -> JobOutput | None:
        """What the program writes next; None when it has ended, or had to be ended, since it may spend no more.

        :raises TimeoutError: the deadline has passed
        """
        loop = asyncio.get_running_loop()
        # Where nothing counts what it spends, there is nothing to look at.
        look_s = _LOOK_S if self._models.has_gateway else math.inf
        reading = asyncio.ensure_future(anext(logs, None))
        refused_since: float | None = None
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=max(0.0, min(look_s, until - loop.time())))
                if reading.done():
                    break
                if loop.time() >= until:
                    raise TimeoutError
                if await self._models.refused(job_id.removesuffix(_AGAIN)):
                    refused_since = refused_since or loop.time()
                    # Most programs end by themselves then. Some go on asking for as long as they are let.
                    if loop.time() - refused_since > GRACE_S:
                        await end_job(self._sandbox, self._box_id, job_id, "budget", user=None)
                        return None
            return reading.result()
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.wait({reading})

    async def _deadline(self, job_id: str, timeout_s: float) -> float:
        info = await self._jobs.get(job_id)
        return asyncio.get_running_loop().time() + timeout_s - (info.duration_s or 0.0)

    async def _exit_code(self, job_id: str, has_result: bool) -> int:
        """How the program ended. One that has told its result, and does not end, is ended."""
        if has_result:
            try:
                return (await self._jobs.wait(job_id, timeout=GRACE_S, max_output_bytes=0)).exit_code
            except TimeoutError:
                await end_job(self._sandbox, self._box_id, job_id, "ended", user=None)
        return (await self._jobs.wait(job_id, max_output_bytes=0)).exit_code

    async def settle(self, job_id: str, record: RunRecord) -> RunRecord:
        """*record* with what the gateway has counted; the run's way to its model ends here."""
        return settled(record, await self._models.settle(job_id))

    async def kill(self, job_id: str) -> None:
        """End the run, and everything that it started."""
        await end_job(self._sandbox, self._box_id, job_id, "killed", user=None)
        await self._models.settle(job_id)


class _Output:
    """The output of one run, cut into lines and read."""

    def __init__(self, reader: EventReader) -> None:
        self.stderr = ""
        self.finished = False
        self._reader = reader
        self._line = bytearray()
        self._too_long = False

    def take(self, stream: str, data: bytes) -> list[AgentEvent]:
        """The events that the next bytes complete; `Finished` is kept for the end."""
        if stream == "stderr":
            self.stderr = (self.stderr + data.decode(errors="replace"))[-_STDERR_CHARS:]
            return []
        events: list[AgentEvent] = []
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._add(line)
            events += self._read()
        self._add(rest)
        return events

    def rest(self) -> list[AgentEvent]:
        """The events of a last line that has no end."""
        return self._read() if self._line else []

    def _add(self, part: bytes) -> None:
        if len(self._line) + len(part) > _MAX_LINE_BYTES:
            self._too_long = True
            self._line.clear()
        if not self._too_long:
            self._line += part

    def _read(self) -> list[AgentEvent]:
        if self._too_long:
            self._too_long = False
            self._line.clear()
            return [Notice(message=f"a line of more than {_MAX_LINE_BYTES} bytes was passed over")]
        line = self._line.decode(errors="replace").rstrip("\r")
        self._line.clear()
        events: list[AgentEvent] = []
        for event in self._reader.feed(line):
            if isinstance(event, Finished):
                self.finished = True
            else:
                events.append(event)
        return events


def settled(record: RunRecord, metered: Metered | None) -> RunRecord:
    """*record* with what the gateway has counted, which is more to be trusted than what the program says."""
    # Nothing counted: an engine died after it had settled, and before that was recorded. The program's count is left.
    if metered is None or not (metered.usage.requests or metered.refused):
        return record
    cost_usd = record.cost_usd if metered.cost_usd is None else metered.cost_usd
    # A program that was refused says all sorts of things; that it was refused, the gateway knows.
    failure = AgentFailure.BUDGET if metered.refused and record.failure is not None else record.failure
    return attrs.evolve(record, usage=metered.usage, cost_usd=cost_usd, failure=failure)


def record_of(
    job_id: str, ask: Ask, finished: Finished, duration_s: float, events: tuple[AgentEvent, ...] = ()
) -> RunRecord:
    """What is known of a run that has ended."""
    answer, problem = None, ""
    if ask.schema is not None and finished.failure is None:
        structured, problem = _structured(finished)
        if not problem:
            answer, problem = json.dumps(structured), problem_with(structured, ask.schema)
    return RunRecord(
        id=job_id,
        agent=ask.harness.name,
        text=finished.text,
        answer=answer,
        problem=problem,
        failure=finished.failure,
        message=finished.message,
        usage=finished.usage,
        cost_usd=finished.cost_usd,
        session_id=finished.session_id,
        duration_s=duration_s,
        turns=finished.turns,
        events=events,
    )


def _structured(finished: Finished) -> tuple[Any, str]:
    if finished.structured is not None:
        return finished.structured, ""
    text = finished.text.strip()
    if text.startswith("```"):
        text = text.partition("\n")[2].rpartition("```")[0]
    try:
        return json.loads(text), ""
    except ValueError as exc:
        return None, f"it is no JSON: {exc}"


def _check_limits(ask: Ask, *, counted: bool) -> None:
    """See that each limit has somebody who keeps it.

    :param counted: the gateway counts what the run uses
    :raises ConfigurationError: one has nobody
    """
    harness, request = ask.harness, ask.request
    if request.max_turns is not None and not counted and "max_turns" not in harness.own_limits:
        raise ConfigurationError(
            f"agent {harness.name!r} does not count its turns, and without the gateway nobody does; "
            "give its AgentConfig a key, and leave gateway=True"
        )
    priced = counted and ask.config.prices is not None
    if request.max_cost_usd is not None and not priced and "max_cost_usd" not in harness.own_limits:
        raise ConfigurationError(
            f"agent {harness.name!r} does not know what it costs; give AgentConfig(prices=ModelPrices(...)), by which "
            "the gateway counts, or limit max_output_tokens"
        )


def _run_directory(job_id: str) -> str:
    return f".boxflow/agents/{name_of(job_id)}"


def _home_directory(harness: Harness) -> str:
    return f".boxflow/{harness.name}"


def _placed(text: str, places: Mapping[str, str]) -> str:
    for word, place in places.items():
        text = text.replace(word, place)
    return text


def _not_installed(harness: Harness, program: str) -> str:
    installation = harness.installation
    how = {
        "npm": f"`boxflow agents install {harness.name}`, or `npm install -g {installation.package}`",
        "pypi": f"`boxflow agents install {harness.name}`, or `pip install {installation.package}`",
    }.get(installation.manager, "bring it in the image, or name another program")
    return f"{program!r} is not in the box, or not on its PATH; {how}"
