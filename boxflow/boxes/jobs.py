"""`box.jobs`: processes of a box that have an id, and outlive the connection and the engine."""

from __future__ import annotations

import asyncio
import secrets
import signal as signals
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import attrs

from boxflow.boxes.calls import call, durable_call, refuse_in_body
from boxflow.boxes.command import (
    DEFAULT_OUTPUT_BYTES,
    DEFAULT_TIMEOUT_S,
    Command,
    ExecResult,
    described,
    raise_for,
    shell_argv,
)
from boxflow.boxes.job_commands import end_job, hundredths, input_and, job_spec, patiently, result_of
from boxflow.boxes.watched import (
    GRACE_S,
    ROUND_S,
    About,
    Answer,
    Asking,
    JobStatus,
    State,
    about_bytes,
    found,
    job_id_of,
    name_of,
)
from boxflow.errors import JobNotFoundError
from boxflow.model import Duration, seconds
from boxflow.ports import ProcessSpec, Sandbox

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class JobInfo:
    """A job as it stands.

    :param command: what it runs, as people read it
    :param exit_code: once it has exited; `128 + n` when signal *n* ended it
    :param started_at: seconds since the epoch, by the box's clock; None before it has begun
    :param duration_s: how long it has run, or did
    :param timed_out: it was ended because its time was up
    """

    job_id: str
    command: str
    status: JobStatus
    exit_code: int | None = None
    started_at: float | None = None
    duration_s: float | None = None
    timed_out: bool = False


@attrs.frozen
class JobOutput:
    """A piece of what a job wrote.

    :param stream: `"stdout"` or `"stderr"`
    :param offset: where in that stream it begins; a gap to the piece before is what was not kept
    """

    stream: str
    offset: int
    data: bytes

    @property
    def text(self) -> str:
        """Decoded as UTF-8; bytes that are none, as where a piece ends within a character, become U+FFFD."""
        return self.data.decode(errors="replace")


class Job:
    """One job of a box: a handle, which holds no connection.

    :ivar id: unique in its box
    """

    def __init__(self, jobs: Jobs, job_id: str) -> None:
        self.id = job_id
        self._jobs = jobs

    def __repr__(self) -> str:
        return f"<Job {self.id!r}>"

    async def info(self) -> JobInfo:
        """How it stands. :raises JobNotFoundError: it is not there any more"""
        return await self._jobs.get(self.id)

    async def wait(self, *, timeout: Duration | None = None, check: bool = False) -> ExecResult:
        """Its result, as `Jobs.wait` gives it."""
        return await self._jobs.wait(self.id, timeout=timeout, check=check)

    def logs(self, *, follow: bool = False, offset: int = 0, stderr_offset: int = 0) -> AsyncGenerator[JobOutput, None]:
        """What it wrote, as `Jobs.logs` gives it."""
        return self._jobs.logs(self.id, follow=follow, offset=offset, stderr_offset=stderr_offset)

    async def signal(self, number: int | str) -> None:
        """Send a signal to its process: `"INT"`, `"SIGTERM"` or a number."""
        await self._jobs.signal(self.id, number)

    async def kill(self) -> None:
        """End it and everything it started."""
        await self._jobs.kill(self.id)


class Jobs:
    """The jobs of one box.

    A job is a process with an id of its own. It keeps its output and its exit status in the box, where any engine finds
    them by that id: after a crash, or from another machine. Each stream keeps its first 16 and its newest 64 MiB.
    """

    def __init__(self, sandbox: Sandbox, *, box_id: str, name: str) -> None:
        self._sandbox = sandbox
        self._box_id = box_id
        self._name = name

    async def start(
        self,
        cmd: str | Sequence[str],
        *,
        job_id: str | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
    ) -> Job:
        """Start *cmd* and return at once. The same *job_id* again is the same job: it is not started twice.

        :param cmd: a string for the box's shell, or a program and its arguments, as for `box.exec.command`
        :param job_id: up to 200 characters; one is made unless given
        :raises SandboxError: the program of a sequence is not in the box
        """
        command = _command(cmd, cwd=cwd, env=env, user=user, stdin=stdin)
        about = About(command=described(cmd), user=user)

        async def start() -> str:
            durable = durable_call.get()
            chosen = job_id or (f"job-{secrets.token_hex(8)}" if durable is None else job_id_of(durable.key))
            answer = await patiently(
                lambda: self._asking().ask(
                    "start", name_of(chosen), about_bytes(about), *input_and(command), spec=job_spec(command, chosen),
                    stdin=command.stdin,
                )
            )  # fmt: skip
            found(answer.state, chosen)
            return chosen

        return Job(self, await self._call("start", start, type=str))

    async def get(self, job_id: str) -> JobInfo:
        """How a job stands. :raises JobNotFoundError: no such job"""

        async def look() -> JobInfo:
            infos = [info for info in await self._infos() if info.job_id == job_id]
            if not infos:
                raise JobNotFoundError(job_id)
            return infos[0]

        return await self._call("get", look, type=JobInfo)

    async def list(self) -> _JobInfos:
        """The jobs of the box, in the order in which they began."""
        return await self._call("list", self._infos, type=_JobInfos)

    async def wait(
        self,
        job_id: str,
        *,
        timeout: Duration | None = None,
        check: bool = False,
        max_output_bytes: int = DEFAULT_OUTPUT_BYTES,
    ) -> ExecResult:
        """Wait until a job has ended, and return how, with the head and the tail of what it wrote.

        Giving up the wait, by *timeout* or by cancelling, does not end the job.

        :raises TimeoutError: it goes on after *timeout* (an hour unless given)
        :raises CommandFailedError: with *check*, and its exit status is not 0
        :raises JobNotFoundError: no such job
        :raises JobLostError: it went away without an exit status
        """
        timeout_s = DEFAULT_TIMEOUT_S if timeout is None else seconds(timeout)

        async def end() -> ExecResult:
            arguments = (_NEVER, hundredths(ROUND_S), str(max_output_bytes))
            while True:
                answer = await patiently(lambda: self._asking().ask("wait", name_of(job_id), *arguments))
                if found(answer.state, job_id).over:
                    return result_of(answer, job_id, max_output_bytes)

        async def wait() -> ExecResult:
            deadline = asyncio.timeout(timeout_s)
            try:
                async with deadline:
                    return await end()
            except TimeoutError:
                if not deadline.expired():
                    raise
                raise TimeoutError(f"job {job_id!r} goes on after {timeout_s:g} s; wait again, or kill it") from None

        result = await self._call("wait", wait, type=ExecResult)
        return raise_for(result, f"job {job_id}", timeout_s=timeout_s, check=check)

    async def logs(
        self, job_id: str, *, follow: bool = False, offset: int = 0, stderr_offset: int = 0
    ) -> AsyncGenerator[JobOutput, None]:
        """What a job wrote, both streams, in pieces as they come.

        Leaving the loop detaches, and the job goes on. To go on reading later, from here or from another engine, pass
        the offset behind the last piece of each stream.

        :param follow: until the job has ended; else what is there now
        :param offset: of stdout, in bytes; what is not kept any more is passed over
        :raises JobNotFoundError: no such job
        :raises NotDurableError: in a workflow body; read it in a step, or `wait` for the job there
        """
        refuse_in_body("box.jobs.logs", "read it in a step, or `await box.jobs.wait(...)` for its result")
        at = {"stdout": offset, "stderr": stderr_offset}
        while True:
            asking = self._asking()
            state: State | None = None
            frames = asking.frames(
                "follow", name_of(job_id), str(at["stdout"]), str(at["stderr"]), hundredths(ROUND_S),
                "yes" if follow else "no",
            )  # fmt: skip
            try:
                async for frame in frames:
                    if frame.letter == "s":
                        answer = Answer()
                        answer.take(frame)
                        state = answer.state
                    elif frame.data:
                        stream = "stdout" if frame.letter == "o" else "stderr"
                        begins = int(frame.words[0])
                        at[stream] = begins + len(frame.data)
                        yield JobOutput(stream, begins, frame.data)
            finally:
                await frames.aclose()
            if not follow or found(state, job_id).over:
                found(state, job_id)
                return

    async def signal(self, job_id: str, number: int | str) -> None:
        """Send a signal to a job's process: `"INT"`, `"SIGTERM"` or a number. Nothing happens when it has ended.

        :raises JobNotFoundError: no such job
        :raises ValueError: no such signal
        """
        wanted = signal_number(number)

        async def send() -> None:
            spec = ProcessSpec(argv=(), user=(await self._about(job_id)).user)
            await patiently(lambda: self._asking().ask("signal", name_of(job_id), str(wanted), spec=spec))

        await self._call("signal", send, type=type(None))

    async def kill(self, job_id: str) -> None:
        """End a job and everything it started; its exit code is 137 then. No error when it has ended.

        :raises JobNotFoundError: no such job
        """

        async def kill() -> None:
            about = await self._about(job_id)
            await end_job(self._sandbox, self._box_id, job_id, "killed", user=about.user)

        await self._call("kill", kill, type=type(None))

    async def _infos(self) -> _JobInfos:
        answer = await patiently(lambda: self._asking().ask("list", "j"))
        return [
            JobInfo(
                job_id=job_id,
                command=about.command,
                status=state.status,
                exit_code=state.exit_code,
                started_at=state.started_at,
                duration_s=state.elapsed_s,
                timed_out=state.reason == "timeout",
            )
            for job_id, state, about in sorted(answer.jobs, key=lambda job: (job[1].since or _NOT_YET, job[0]))
            if state.status is not None
        ]

    async def _about(self, job_id: str) -> About:
        answer = await patiently(lambda: self._asking().ask("list", "j"))
        for known, _, about in answer.jobs:
            if known == job_id:
                return about
        raise JobNotFoundError(job_id)

    def _asking(self) -> Asking:
        return Asking(self._sandbox, self._box_id, deadline_s=ROUND_S + GRACE_S)

    async def _call(self, verb: str, fn: Callable[[], Awaitable[T]], *, type: object) -> T:
        return await call(f"{self._name}.jobs.{verb}", fn, type=type)


# Named outside the class, where `list` is still the builtin.
_JobInfos = list[JobInfo]

# Behind every job that has begun.
_NOT_YET = 10**18

# As a timeout in hundredths of a second: longer than any box lives.
_NEVER = str(10**12)


def signal_number(signal: int | str) -> int:
    """The number of a signal: of `"INT"`, `"SIGINT"` or `2`.

    :raises ValueError: there is none
    """
    try:
        if isinstance(signal, str):
            return int(signals.Signals["SIG" + signal.upper().removeprefix("SIG")])
        return int(signals.Signals(signal))
    except (KeyError, ValueError):
        raise ValueError(f"{signal!r} is no signal; write its name, as in 'INT' or 'SIGTERM', or its number") from None


def _command(
    cmd: str | Sequence[str],
    *,
    cwd: str | None,
    env: Mapping[str, str] | None,
    user: str | None,
    stdin: str | bytes | None,
) -> Command:
    return Command(
        argv=shell_argv(cmd),
        cwd=cwd,
        env=dict(env or {}),
        user=user,
        stdin=stdin.encode() if isinstance(stdin, str) else stdin,
    )
