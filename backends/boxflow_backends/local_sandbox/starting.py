"""How is a process started in a local box: where, with which environment, and through what?

Nothing of ours ever runs between fork and exec: that would copy the page tables of a large engine for each command.
What has to be done there is done by a shell that becomes the command.
"""

# No pathlib: descriptors.
# ruff: noqa: PTH115, PTH118

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress

from boxflow.errors import BoxNotFoundError, BoxStateError, SandboxError
from boxflow.ports import Egress, ProcessSpec, TerminalSize
from boxflow_backends.egress_gate import box_environment
from boxflow_backends.local_sandbox.entrance import Entrance
from boxflow_backends.local_sandbox.layout import HOME, JOBS, TMP, Layout
from boxflow_backends.local_sandbox.limits import ProcessLimits
from boxflow_backends.local_sandbox.paths import located, translated
from boxflow_backends.local_sandbox.proc import MARK_VARIABLE, status_of
from boxflow_backends.local_sandbox.process import Started
from boxflow_backends.local_sandbox.profile import GATE_DIRECTORY
from boxflow_backends.local_sandbox.records import Record, Records
from boxflow_backends.local_sandbox.terminal import CONTROLLED, open_terminal
from boxflow_backends.local_sandbox.users import BoxUser, check_user, current_user, isolated_user


class Starter:
    """Starts processes in boxes. Blocking: called in threads.

    :param limits: of each process that it starts
    """

    def __init__(self, layout: Layout, records: Records, limits: ProcessLimits | None) -> None:
        self._layout = layout
        self._records = records
        self._limits = limits

    def start(self, record: Record, spec: ProcessSpec, mark: str, entrance: Entrance | None) -> Started:
        """Start it, marked as that exec.

        :param entrance: into the namespaces of an isolated box
        :raises SandboxError: the program or its directory is not there
        """
        box_id = record.box_id
        user = isolated_user() if record.isolation == "bubblewrap" else current_user()
        check_user(spec.user, user)
        self.check_state(box_id)
        if not spec.argv:
            raise SandboxError(f"nothing to start in box {box_id!r}: `argv` is empty")
        with located(self._layout, box_id, spec.cwd or ".") as spot:
            directory = _path_of(spot.directory, spot.name, spec.cwd or ".")
        env = {**self._environment(record, user, spec.tty), **record.env, **spec.env, "PWD": directory}
        marks = f"{os.environ.get(MARK_VARIABLE, '')} {self._layout.mark(box_id)} {mark}".strip()
        with _Streams(spec) as streams:
            if entrance is not None:
                script = "" if self._limits is None else self._limits.shell()
                popen = entrance.start(
                    spec.argv, directory, env, marks, script, streams.theirs, tty=spec.tty is not None
                )
            else:
                argv = self._wrapped(spec.argv, directory, env, streams.terminal)
                popen = _started(argv, directory, {**env, MARK_VARIABLE: marks}, streams.theirs, box_id)
            started = streams.handed_over(popen)
        if spec.exec_id is not None:
            self._note_leader(box_id, mark, popen.pid)
        return started

    def check_state(self, box_id: str) -> None:
        """:raises BoxStateError: nothing may be started; :raises BoxNotFoundError: no such box."""
        if not self._layout.record(box_id).exists():
            raise BoxNotFoundError(box_id)
        if self._records.is_paused(box_id):
            raise BoxStateError(f"box {box_id!r} is paused; `await box.resume()` makes it go on")

    def leader(self, box_id: str, mark: str) -> tuple[int, int] | None:
        """The process that was started as that exec: process id and start time; None when nobody noted it."""
        try:
            pid, started = self._layout.leader(box_id, mark).read_text(encoding="utf-8").split()
            return int(pid), int(started)
        except (FileNotFoundError, ValueError):
            return None

    def _note_leader(self, box_id: str, mark: str, pid: int) -> None:
        status = status_of(pid) if sys.platform == "linux" else None
        # No directory: the box is being deleted, which is seen next.
        with suppress(FileNotFoundError):
            self._layout.leader(box_id, mark).write_text(f"{pid} {status.started if status else 0}", encoding="utf-8")

    def _wrapped(
        self, argv: Sequence[str], directory: str, env: Mapping[str, str], terminal: str | None
    ) -> Sequence[str]:
        """Through a shell where something has to be done first. It costs a millisecond."""
        if terminal is None and self._limits is None:
            return argv
        _check_program(argv[0], directory, env.get("PATH", os.defpath))
        script = "" if self._limits is None else self._limits.shell()
        return ("/bin/sh", "-c", script + (CONTROLLED if terminal else 'exec "$@"'), terminal or "sh", *argv)

    def _environment(self, record: Record, user: BoxUser, tty: TerminalSize | None) -> dict[str, str]:
        """What every command gets. Nothing of ours but PATH: an engine's environment is full of secrets."""
        box_id = record.box_id
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._layout.place(box_id, HOME)),
            "TMPDIR": str(self._layout.place(box_id, TMP)),
            "LANG": "C.UTF-8",
            "USER": user.name,
            "LOGNAME": user.name,
            "SHELL": "/bin/sh",
            "TERM": "dumb" if tty is None else "xterm-256color",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "BOXFLOW_BOX": box_id,
            "BOXFLOW_JOBS": str(self._layout.place(box_id, JOBS)),
            **(box_environment(GATE_DIRECTORY) if isinstance(record.network, Egress) else {}),
        }


class _Streams:
    """The streams of a process that is being started: the ends that it gets, and ours."""

    def __init__(self, spec: ProcessSpec) -> None:
        self._all = ExitStack()
        self._theirs = ExitStack()
        self._outputs: dict[str, io.FileIO] = {}
        self._stdin: io.FileIO | None = None
        #: The name of its terminal.
        self.terminal: str | None = None
        #: What become its descriptors 0, 1 and 2.
        self.theirs = (subprocess.DEVNULL, subprocess.DEVNULL, subprocess.DEVNULL)
        try:
            if spec.tty is not None:
                self._open_terminal(spec.tty)
            else:
                self._open_pipes(stdin=spec.stdin)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> _Streams:
        return self

    def __exit__(self, *error: object) -> None:
        self._theirs.close()
        self._all.close()

    def handed_over(self, popen: subprocess.Popen[bytes]) -> Started:
        """The process with our ends, which stay open now."""
        self._all.pop_all()
        return Started(popen=popen, outputs=self._outputs, stdin=self._stdin, is_terminal=self.terminal is not None)

    def _open_terminal(self, size: TerminalSize) -> None:
        ours, theirs = open_terminal(size)
        self._theirs.callback(os.close, theirs)
        self._outputs["stdout"] = self._own(ours, "rb")
        # A descriptor of its own, so that reading and writing are watched and closed apart.
        self._stdin = self._own(os.dup(ours), "wb")
        self.terminal = os.ttyname(theirs)
        # Open in the process from its first moment on: a terminal that nobody has open reads as ended.
        self.theirs = (theirs, theirs, theirs)

    def _open_pipes(self, *, stdin: bool) -> None:
        source = subprocess.DEVNULL
        if stdin:
            source, ours = os.pipe()
            self._theirs.callback(os.close, source)
            self._stdin = self._own(ours, "wb")
        sinks: list[int] = []
        for name in ("stdout", "stderr"):
            ours, sink = os.pipe()
            self._theirs.callback(os.close, sink)
            self._outputs[name] = self._own(ours, "rb")
            sinks.append(sink)
        self.theirs = (source, sinks[0], sinks[1])

    def _own(self, fd: int, mode: str) -> io.FileIO:
        return self._all.enter_context(io.FileIO(fd, mode))


def _started(
    argv: Sequence[str], directory: str, env: Mapping[str, str], theirs: tuple[int, int, int], box_id: str
) -> subprocess.Popen[bytes]:
    stdin, stdout, stderr = theirs
    try:
        return subprocess.Popen(  # noqa: S603  # starting what it is told is what a sandbox is for
            argv, cwd=directory, env=env, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
        )
    except (OSError, ValueError) as exc:
        raise SandboxError(f"cannot start {argv[0]!r} in box {box_id!r}: {exc}") from exc


def _check_program(program: str, directory: str, path: str) -> None:
    """Where a shell starts it, what the kernel would have said is only an exit status.

    :raises SandboxError: no such program
    """
    there = os.path.join(directory, program) if "/" in program else None
    if there is None:
        # Relative entries of PATH are looked up from the directory of the process.
        path = os.pathsep.join(os.path.join(directory, entry) for entry in path.split(os.pathsep))
    if shutil.which(there or program, path=path) is None:
        raise SandboxError(f"cannot start {program!r}: there is no such program, or it may not be run")


def _path_of(directory: int, name: str, shown: str) -> str:
    """The path of a directory that was walked to safely; for a program that is started there."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError as exc:
        raise translated(exc, shown) from exc
    try:
        if sys.platform == "darwin":
            # 50 is F_GETPATH of <sys/fcntl.h>, 1024 is MAXPATHLEN.
            return os.fsdecode(fcntl.fcntl(fd, 50, bytes(1024)).rstrip(b"\0"))
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
