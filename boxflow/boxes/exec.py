"""`box.exec`: running commands, code and sessions in a box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from boxflow.boxes.calls import call, refuse_in_body
from boxflow.boxes.code import code_argv, missing_interpreter
from boxflow.boxes.command import (
    DEFAULT_OUTPUT_BYTES,
    DEFAULT_TIMEOUT_S,
    Command,
    ExecResult,
    described,
    raise_for,
    shell_argv,
)
from boxflow.boxes.job_commands import carry_out
from boxflow.boxes.session import PendingSession
from boxflow.boxes.stream import ExecStream
from boxflow.model import Duration, seconds
from boxflow.ports import Sandbox, TerminalSize


class Exec:
    """Commands in one box."""

    def __init__(self, sandbox: Sandbox, *, box_id: str, name: str) -> None:
        self._sandbox = sandbox
        self._box_id = box_id
        self._name = name

    async def command(
        self,
        cmd: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        timeout: Duration | None = None,
        check: bool = False,
        max_output_bytes: int = DEFAULT_OUTPUT_BYTES,
    ) -> ExecResult:
        """Run *cmd* and wait for it.

        A string is run by the box's shell (bash where there is one, else sh); a sequence is started as it is, without a
        shell. It ends when its own process has ended: what it started in the background keeps running in the box, with
        the output it has not redirected closed.

        In a workflow body it is a job of the box (see `box.jobs`): when the engine dies it goes on, and the next start
        takes its result instead of running it again.

        :param cwd: where; relative to the box's working directory, which is the default
        :param env: variables on top of the box's
        :param user: who runs it, where the sandbox has users; the box's user unless given, and never root by itself
        :param stdin: its whole input; none is an empty one, so that nothing waits for a keyboard
        :param timeout: one hour unless given; then the whole process tree is killed
        :param check: raise when it exits with another status than 0
        :param max_output_bytes: of each stream; beyond it head and tail are kept and `truncated` is set
        :raises CommandTimeoutError: the deadline passed; its `.stdout` and `.stderr` keep what was written
        :raises CommandFailedError: with *check*, and its exit status is not 0
        :raises BoxNotFoundError: the box is gone
        :raises BoxStateError: the box is paused or stopped
        :raises SandboxError: the program of a sequence cannot be started

        Cancelling kills the whole process tree before the cancellation goes on.
        """
        timeout_s = DEFAULT_TIMEOUT_S if timeout is None else seconds(timeout)
        command = Command(
            argv=shell_argv(cmd),
            cwd=cwd,
            env=dict(env or {}),
            user=user,
            stdin=stdin.encode() if isinstance(stdin, str) else stdin,
            timeout_s=timeout_s,
            max_output_bytes=max_output_bytes,
        )
        what = described(cmd)
        result = await call(
            f"{self._name}.exec.command",
            lambda: carry_out(self._sandbox, self._box_id, command, what),
            type=ExecResult,
        )
        return raise_for(result, what, timeout_s=timeout_s, check=check)

    async def code(
        self,
        code: str,
        lang: str = "python",
        *,
        args: Sequence[str] = (),
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        timeout: Duration | None = None,
        check: bool = False,
        max_output_bytes: int = DEFAULT_OUTPUT_BYTES,
    ) -> ExecResult:
        """Run a program text, in a file that is gone afterwards.

        :param lang: `"python"`, `"javascript"`, `"typescript"`, `"bash"`, `"sh"`, `"ruby"`, `"perl"`, `"php"`, `"go"`
        :param args: arguments of the program
        :raises ValueError: *lang* is none of these
        :raises SandboxError: the box has nothing to run *lang* with

        Everything else is as for `command`.
        """
        timeout_s = DEFAULT_TIMEOUT_S if timeout is None else seconds(timeout)
        command = Command(
            argv=code_argv(lang, args),
            cwd=cwd,
            env=dict(env or {}),
            user=user,
            stdin=code.encode(),
            timeout_s=timeout_s,
            max_output_bytes=max_output_bytes,
        )
        result = await call(
            f"{self._name}.exec.code",
            lambda: carry_out(self._sandbox, self._box_id, command, f"{lang} code"),
            type=ExecResult,
        )
        missing_interpreter(result, lang, self._name)
        return raise_for(result, f"{lang} code", timeout_s=timeout_s, check=check)

    def stream(
        self,
        cmd: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        timeout: Duration | None = None,
        check: bool = False,
    ) -> ExecStream:
        """Run *cmd* and iterate over what it writes, as it writes it: `async for chunk in box.exec.stream("make"):`.

        Leaving the loop early kills the command; enter the stream with `async with` to have that done at once, and not
        when Python gets round to it. To leave something running, use `box.jobs`.

        :param timeout: one hour unless given, for the command's whole life
        :param check: at the end, raise when it exits with another status than 0
        :raises NotDurableError: in a workflow body; use `command` there, or stream in a step

        Errors are those of `command`, raised by the loop.
        """
        refuse_in_body("box.exec.stream", "use `box.exec.command`, or stream in a step: `ctx.run(...)`")
        command = Command(
            argv=shell_argv(cmd),
            cwd=cwd,
            env=dict(env or {}),
            user=user,
            stdin=stdin.encode() if isinstance(stdin, str) else stdin,
            timeout_s=DEFAULT_TIMEOUT_S if timeout is None else seconds(timeout),
        )
        return ExecStream(self._sandbox, self._box_id, command, described(cmd), check=check)

    def session(
        self,
        cmd: str | Sequence[str] = "exec ${SHELL:-sh}",
        *,
        tty: bool | TerminalSize = False,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> PendingSession:
        """Start *cmd* to talk to it: `async with box.exec.session("python3 -i", tty=True) as session:`.

        The block's end kills it, with everything it started. `session = await box.exec.session(...)` leaves that to
        you: `await session.kill()`. It may run as long as you like: it is yours to end.

        :param cmd: a shell unless given
        :param tty: give it a terminal, of that size or of 80 by 24 characters
        :raises NotDurableError: in a workflow body; use a session in a step
        """
        refuse_in_body("box.exec.session", "use it in a step: `ctx.run(...)`")
        size = tty if isinstance(tty, TerminalSize) else TerminalSize() if tty else None
        command = Command(argv=shell_argv(cmd), cwd=cwd, env=dict(env or {}), user=user)
        return PendingSession(self._sandbox, self._box_id, command, size)
