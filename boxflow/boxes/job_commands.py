"""How is one command carried out as a job: started or found, waited for, ended?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from boxflow.boxes.calls import durable_call
from boxflow.boxes.command import Command, ExecResult, run_command
from boxflow.boxes.watched import (
    GRACE_S,
    ROUND_S,
    About,
    Answer,
    Asking,
    JobStatus,
    about_bytes,
    exec_id_of,
    found,
    job_id_of,
    name_of,
)
from boxflow.errors import JobLostError, SandboxUnavailableError
from boxflow.ports import ProcessSpec, Sandbox

# How long a sandbox may be away, tried again in between, before whoever waits for a job is told. The job goes on.
_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)


async def carry_out(sandbox: Sandbox, box_id: str, command: Command, what: str) -> ExecResult:
    """Run *command* to its end: as a process of the engine's; but as a job where a workflow body asked for it.

    Such a job is named by its step, so that after a crash the step finds it again, and takes its result instead of
    running it a second time.

    :param what: the command as people read it
    """
    durable = durable_call.get()
    if durable is None:
        return await run_command(sandbox, box_id, command)
    try:
        return await _run_job(sandbox, box_id, job_id_of(durable.key), command, what)
    except asyncio.CancelledError as cancelled:
        if not durable.leaving():
            try:
                await end_job(sandbox, box_id, job_id_of(durable.key), "killed", user=command.user)
            except Exception as error:  # noqa: BLE001 - the cancellation goes on, whatever would not end
                cancelled.add_note(f"meanwhile: {error}")
        raise


async def _run_job(sandbox: Sandbox, box_id: str, job_id: str, command: Command, what: str) -> ExecResult:
    limit = str(command.max_output_bytes)
    timeout, turn = hundredths(command.timeout_s), hundredths(min(ROUND_S, command.timeout_s))
    about = about_bytes(About(command=what, user=command.user))
    name = name_of(job_id)

    def ask() -> Awaitable[Answer]:
        return Asking(sandbox, box_id, deadline_s=ROUND_S + GRACE_S).ask(
            "run", name, timeout, turn, limit, about, *input_and(command), spec=job_spec(command, job_id),
            stdin=command.stdin,
        )  # fmt: skip

    while True:
        answer = await patiently(ask)
        state = answer.state
        # No state: whoever asked was ended together with the job. Not there: its input was lost; it is started again.
        if state is None or state.status is None:
            continue
        if state.status is JobStatus.LOST:
            # Its name becomes free: another attempt, or a resumed run, starts it anew.
            retired = await Asking(sandbox, box_id).ask("retire", name, spec=ProcessSpec(argv=(), user=command.user))
            raise JobLostError(retired.retired_id or job_id)
        if state.reason == "late":
            await end_job(sandbox, box_id, job_id, "timeout", user=command.user)
        elif state.over:
            return result_of(answer, job_id, command.max_output_bytes)


async def end_job(sandbox: Sandbox, box_id: str, job_id: str, why: str, *, user: str | None) -> None:
    """End a job with everything it started, and note that it has ended, if nobody has."""
    await sandbox.end(box_id, exec_id_of(job_id), user=user)
    await Asking(sandbox, box_id).ask("ended", name_of(job_id), "137", why, spec=ProcessSpec(argv=(), user=user))


def result_of(answer: Answer, job_id: str, limit: int) -> ExecResult:
    """How a job that is over ended.

    :raises JobLostError: nobody knows
    """
    state = found(answer.state, job_id)
    if state.status is JobStatus.LOST or state.exit_code is None:
        raise JobLostError(job_id)
    stdout, stderr = answer.output("o", limit), answer.output("e", limit)
    return ExecResult(
        exit_code=state.exit_code,
        stdout=stdout.text(),
        stderr=stderr.text(),
        duration_s=state.elapsed_s or 0.0,
        truncated=stdout.truncated or stderr.truncated,
        timed_out=state.reason == "timeout",
    )


async def patiently(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """The answer, asked for again while the sandbox is away: every question here may be asked twice."""
    for pause_s in _PAUSES_S:
        try:
            return await ask()
        except (SandboxUnavailableError, TimeoutError):
            await asyncio.sleep(pause_s)
    return await ask()


def job_spec(command: Command, job_id: str) -> ProcessSpec:
    """How the job's watcher is started, which starts the command."""
    return ProcessSpec(argv=(), cwd=command.cwd, env=command.env, user=command.user, exec_id=exec_id_of(job_id))


def input_and(command: Command) -> tuple[str, ...]:
    """What the watcher is told of a command: how long its input is, and what to start."""
    return ("-" if command.stdin is None else str(len(command.stdin)), *command.argv)


def hundredths(duration_s: float) -> str:
    """A time as the watcher counts: in hundredths of a second."""
    return str(max(0, round(duration_s * 100)))
