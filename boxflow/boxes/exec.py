"""`box.exec`: running commands in a box."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from boxflow.boxes.calls import call
from boxflow.boxes.command import (
    DEFAULT_OUTPUT_BYTES,
    DEFAULT_TIMEOUT_S,
    Command,
    ExecResult,
    raise_for,
    run_command,
    shell_argv,
)
from boxflow.model import Duration, seconds
from boxflow.ports import Sandbox


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
        stdin: str | bytes | None = None,
        timeout: Duration | None = None,
        check: bool = False,
        max_output_bytes: int = DEFAULT_OUTPUT_BYTES,
    ) -> ExecResult:
        """Run *cmd* and wait for it.

        A string is run by the box's shell (bash where there is one, else sh); a sequence is started as it is, without a
        shell. It ends when its own process has ended: what it started in the background keeps running in the box, with
        the output it has not redirected closed.

        :param cwd: where; relative to the box's working directory, which is the default
        :param env: variables on top of the box's
        :param stdin: its whole input; none is an empty one, so that nothing waits for a keyboard
        :param timeout: one hour unless given; then the whole process tree is killed
        :param check: raise when it exits with another status than 0
        :param max_output_bytes: of each stream; beyond it head and tail are kept and `truncated` is set
        :raises CommandTimeoutError: the deadline passed; its `.stdout` and `.stderr` keep what was written
        :raises CommandFailedError: with *check*, and its exit status is not 0
        :raises BoxNotFoundError: the box is gone
        :raises SandboxError: the program of a sequence cannot be started

        Cancelling kills the whole process tree before the cancellation goes on.
        """
        timeout_s = DEFAULT_TIMEOUT_S if timeout is None else seconds(timeout)
        command = Command(
            argv=shell_argv(cmd),
            cwd=cwd,
            env=dict(env or {}),
            stdin=stdin.encode() if isinstance(stdin, str) else stdin,
            timeout_s=timeout_s,
            max_output_bytes=max_output_bytes,
        )
        result = await call(
            f"{self._name}.exec.command",
            lambda: run_command(self._sandbox, self._box_id, command),
            type=ExecResult,
        )
        described = cmd if isinstance(cmd, str) else shlex.join(cmd)
        return raise_for(result, described, timeout_s=timeout_s, check=check)
