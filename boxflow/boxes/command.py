"""How does one command run in a box: from its start to its result, its deadline, or its cancellation?"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Mapping, Sequence

import attrs

from boxflow.boxes.output import CappedOutput
from boxflow.errors import CommandFailedError, CommandTimeoutError, SandboxError
from boxflow.ports import Process, ProcessSpec, Sandbox, TerminalSize

DEFAULT_TIMEOUT_S = 3600.0
"""How long a command may take when nothing else is said. Long enough for a build; nothing waits for ever."""

DEFAULT_OUTPUT_BYTES = 1024 * 1024
"""How much of each stream is kept when nothing else is said."""

# Strings mean what they mean to most people: bash, where the box has it. "$0" is the command: nothing needs quoting.
_SHELL = ("sh", "-c", 'command -v bash >/dev/null 2>&1 && exec bash -c "$0" bash; exec sh -c "$0" sh')


@attrs.frozen(kw_only=True)
class ExecResult:
    """How a command ended.

    :param exit_code: its exit status; `128 + n` when signal *n* ended it
    :param stdout: what it wrote, decoded as UTF-8; bytes that are none become U+FFFD
    :param stderr: the same for the other stream
    :param duration_s: from its start to its end
    :param truncated: a stream wrote more than was kept; its head and its tail are there
    :param timed_out: its deadline passed (only seen in a run's history: the caller gets `CommandTimeoutError`)
    """

    exit_code: int
    stdout: str
    stderr: str
    duration_s: float
    truncated: bool = False
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        """Whether it exited with 0."""
        return self.exit_code == 0


@attrs.frozen(kw_only=True)
class Command:
    """A command as it is asked for, resolved: what to start, where, with which input and bounds."""

    argv: Sequence[str]
    cwd: str | None = None
    env: Mapping[str, str] = attrs.field(factory=dict[str, str])
    user: str | None = None
    stdin: bytes | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_output_bytes: int = DEFAULT_OUTPUT_BYTES


def shell_argv(command: str | Sequence[str]) -> tuple[str, ...]:
    """What to start for *command*: a string goes to the box's shell, a sequence is started as it is.

    :raises ValueError: nothing to start
    """
    if isinstance(command, str):
        return (*_SHELL, command)
    if not command:
        raise ValueError("the command is an empty sequence; give a program and its arguments")
    return tuple(command)


def raise_for(result: ExecResult, described: str, *, timeout_s: float, check: bool) -> ExecResult:
    """*result*, unless it stands for an error.

    Applied to what the journal gave back, so that a workflow body sees the same exceptions as any other code.
    """
    if result.timed_out:
        raise CommandTimeoutError(described, timeout_s, stdout=result.stdout, stderr=result.stderr)
    if check and not result.ok:
        raise CommandFailedError(described, result=result, exit_code=result.exit_code, stderr=result.stderr)
    return result


def described(cmd: str | Sequence[str]) -> str:
    """*cmd* as people read it, in errors and lists."""
    return cmd if isinstance(cmd, str) else shlex.join(cmd)


def process_spec(command: Command, *, stdin: bool = False, tty: TerminalSize | None = None) -> ProcessSpec:
    """What to start for *command*."""
    return ProcessSpec(
        argv=command.argv, cwd=command.cwd, env=command.env, user=command.user, stdin=stdin or tty is not None, tty=tty
    )


async def run_command(sandbox: Sandbox, box_id: str, command: Command) -> ExecResult:
    """Run *command* to its end.

    At the deadline its whole process tree is killed, and the result says `timed_out`. Cancelling kills the tree too,
    before the cancellation goes on.

    It ends when its own process has: what it left running in the background keeps running in the box.
    """
    started = time.monotonic()
    stdout, stderr = CappedOutput(command.max_output_bytes), CappedOutput(command.max_output_bytes)
    process: Process | None = None
    timed_out = False
    deadline = asyncio.timeout(command.timeout_s)
    try:
        async with deadline:
            process = await sandbox.spawn(box_id, process_spec(command, stdin=command.stdin is not None))
            await _converse(process, command.stdin, stdout, stderr)
            exit_code = await process.wait()
    except BaseException as exc:
        if process is not None:
            await _kill(process, exc)
        if not isinstance(exc, TimeoutError) or not deadline.expired():
            raise
        timed_out = True
        exit_code = await process.wait() if process is not None else -1
    return ExecResult(
        exit_code=exit_code,
        stdout=stdout.text(),
        stderr=stderr.text(),
        duration_s=time.monotonic() - started,
        truncated=stdout.truncated or stderr.truncated,
        timed_out=timed_out,
    )


async def _kill(process: Process, reason: BaseException) -> None:
    """Kill the tree because of *reason*. A cancellation stays one, even when something would not die."""
    try:
        await process.kill()
    except SandboxError as exc:
        if not isinstance(reason, asyncio.CancelledError):
            raise
        reason.add_note(f"meanwhile: {exc}")


async def _converse(process: Process, stdin: bytes | None, stdout: CappedOutput, stderr: CappedOutput) -> None:
    """Write all input while reading all output: doing one after the other could block both sides."""
    if stdin is None:
        await _collect(process, stdout, stderr)
        return
    feeding = asyncio.create_task(feed(process, stdin))
    try:
        await _collect(process, stdout, stderr)
    finally:
        # The output has ended, so nobody is left to read the rest of the input.
        feeding.cancel()
        await asyncio.wait({feeding})
    if not feeding.cancelled() and (error := feeding.exception()) is not None:
        raise error


async def _collect(process: Process, stdout: CappedOutput, stderr: CappedOutput) -> None:
    async for stream, data in process.read():
        (stdout if stream == "stdout" else stderr).add(data)


async def feed(process: Process, stdin: bytes) -> None:
    """Give a process its whole input. One that ends before it has read everything has not failed."""
    try:
        await process.write(stdin)
    except SandboxError:
        # Like a shell's pipe: a program that ends before it has read everything is no failure of ours.
        return
    await process.close_stdin()
