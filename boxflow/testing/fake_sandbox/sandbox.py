"""What makes boxes that are only in memory? `FakeSandbox`, whose commands a test answers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import attrs

from boxflow.errors import (
    BoxNotFoundError,
    ConfigurationError,
    NotSupportedError,
    SandboxError,
    SnapshotNotFoundError,
)
from boxflow.model import Duration
from boxflow.ports import BoxInfo, BoxSpec, Capability, FileInfo, Process, ProcessSpec, SnapshotInfo
from boxflow.testing.fake_sandbox.box_time import BoxTime
from boxflow.testing.fake_sandbox.boxes import FakeBox
from boxflow.testing.fake_sandbox.commands import Answer, CommandRule, FakeCommand, Pattern, Reply
from boxflow.testing.fake_sandbox.copying import copy_in, copy_out
from boxflow.testing.fake_sandbox.file_tree import FileTree
from boxflow.testing.fake_sandbox.git import FakeGit
from boxflow.testing.fake_sandbox.spawning import Spawning
from boxflow.testing.virtual_clock import VirtualClock

_CAPABILITIES: Final = frozenset(Capability) - {Capability.IMAGES}
"""All but images: whether there is one of a name, a script does not know."""

_PORTS: Final = range(20000, 60000)


@attrs.frozen(kw_only=True)
class SandboxCall:
    """One call of the sandbox, as the engine made it.

    :param operation: as `boxflow.ports.Sandbox` names it: `"create"`, `"write_file"`
    :param arguments: what it was called with, besides the box
    """

    operation: str
    box_id: str
    arguments: tuple[Any, ...] = ()


@attrs.define
class _Failure:
    operation: str
    error: Exception
    left: int


@attrs.frozen(kw_only=True)
class _Snapshot:
    info: SnapshotInfo
    files: FileTree
    commits: Mapping[str, list[dict[str, bytes]]]


class FakeSandbox:
    """A `Sandbox` in memory: real files, scripted commands, nothing of the machine.

        sandbox = FakeSandbox()
        sandbox.on("pytest *", exit_code=1, stdout="1 failed")
        sandbox.on("make", lambda command: Reply(files={"out.txt": "built"}, delay="10m"))
        sandbox.fail_next("create", SandboxUnavailableError("the daemon is down"))

    A command that no rule answers is an error. `git` works by itself on what `repository` has given it.

    :param capabilities: what it says that it can do, all but `IMAGES` unless given; what it lacks it refuses, as any
        sandbox. Images are ignored
    :ivar calls: every call, in order
    :ivar commands: every command that was started, in order, boxflow's own plumbing left out
    :ivar boxes: the boxes that there are, by id
    """

    def __init__(self, *, capabilities: Collection[Capability] = _CAPABILITIES) -> None:
        self.capabilities = frozenset(capabilities)
        self.calls: list[SandboxCall] = []
        self.commands: list[FakeCommand] = []
        self.boxes: dict[str, FakeBox] = {}
        self.time = BoxTime()
        self._git = FakeGit()
        self._rules: list[CommandRule] = []
        self._programs: dict[str, object] = {"git": self._git}
        self._failures: list[_Failure] = []
        self._snapshots: dict[str, _Snapshot] = {}
        self._spawning = Spawning(self.commands, self.answer_to, self._programs.__contains__)

    # --- the script ---------------------------------------------------------------------------------------------------

    def on(
        self,
        pattern: Pattern,
        answer: Answer | Reply | Exception | None = None,
        *,
        exit_code: int = 0,
        stdout: str | bytes = "",
        stderr: str | bytes = "",
        delay: Duration = 0.0,
        files: Mapping[str, str | bytes] | None = None,
        times: int | None = None,
    ) -> CommandRule:
        """Answer every command that *pattern* matches; of several rules the one that was added last.

        :param pattern: the command as people read it, a pattern of it as of `fnmatch`, a compiled regular expression
            that is searched in it, or a function that is asked
        :param answer: a function that gets the command, and may be a coroutine function; a `Reply`; an exception, with
            which the command cannot be started. What else is given here says the reply in its place
        :param times: how many commands it answers, all unless given
        """
        if answer is not None and (exit_code or stdout or stderr or delay or files):
            raise ConfigurationError("say the reply as `answer` or by its parts, not both")
        if answer is None:
            answer = Reply(exit_code=exit_code, stdout=stdout, stderr=stderr, delay=delay, files=dict(files or {}))
        rule = CommandRule(pattern, answer, times)
        self._rules.append(rule)
        return rule

    def program(self, name: str, answer: Answer) -> None:
        """Have the boxes a program of that name: *answer* is called for each command that begins with it."""
        self._programs[name] = answer

    def repository(self, url: str, files: Mapping[str, str | bytes]) -> None:
        """Have something to clone: `box.git.clone(url)` gives these files, `diff` and `status` what changed since."""
        self._git.repositories[url] = {
            path: content.encode() if isinstance(content, str) else content for path, content in files.items()
        }

    def fail_next(self, operation: str, error: Exception, *, times: int = 1) -> None:
        """Have the next calls of *operation*, such as `"create"` or `"spawn"`, raise *error*.

        :raises ConfigurationError: a sandbox has no such operation
        """
        if operation.startswith("_") or not callable(getattr(self, operation, None)) or operation in _SCRIPT:
            raise ConfigurationError(f"a sandbox has no operation {operation!r}; name one as 'create' or 'write_file'")
        self._failures.append(_Failure(operation, error, times))

    def ran(self, pattern: str = "*") -> list[FakeCommand]:
        """The commands that were started and match *pattern*, in order."""
        return [each for each in self.commands if each.command == pattern or fnmatchcase(each.command, pattern)]

    def answer_to(self, command: FakeCommand) -> object:
        """What answers *command*: a rule, a program; None when nothing does."""
        for rule in reversed(self._rules):
            if rule.matches(command):
                return rule.use()
        return self._programs.get(command.command.split(" ")[0])

    def box(self, name: str) -> FakeBox:
        """The newest box of that name, as its maker called it.

        :raises LookupError: there is none
        """
        for box in reversed(self.boxes.values()):
            if name in (box.name, box.id):
                return box
        known = ", ".join(repr(box.name) for box in self.boxes.values()) or "none"
        raise LookupError(f"no box {name!r}; there are: {known}")

    def use_clock(self, clock: VirtualClock) -> None:
        """Have commands take their time by *clock*."""
        self.time.use(clock)

    def stop(self) -> None:
        """End everything that runs in its boxes."""
        for box in self.boxes.values():
            box.stop()

    # --- boxflow.ports.Sandbox ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing: boxes stay, and what runs in them, for who enters it again."""

    async def create(self, box_id: str, spec: BoxSpec, labels: Mapping[str, str]) -> BoxInfo:
        await self._called("create", box_id, spec, dict(labels))
        if box_id in self.boxes:
            return self.boxes[box_id].info()
        self._refuse(spec)
        files, commits = None, dict[str, list[dict[str, bytes]]]()
        if spec.snapshot is not None:
            if spec.snapshot not in self._snapshots:
                raise SnapshotNotFoundError(spec.snapshot)
            kept = self._snapshots[spec.snapshot]
            files, commits = kept.files.copy(), {key: list(each) for key, each in kept.commits.items()}
        box = self.boxes[box_id] = FakeBox(box_id, spec, labels, self.time, files)
        box.commits = commits
        return box.info()

    def _refuse(self, spec: BoxSpec) -> None:
        limits = (spec.cpus, spec.memory_bytes, spec.disk_bytes, spec.max_processes)
        asked = {
            Capability.SNAPSHOT: spec.snapshot is not None,
            Capability.NETWORK_POLICY: spec.network not in (None, "open"),
            Capability.RESOURCE_LIMITS: any(limit is not None for limit in limits),
            Capability.USERS: spec.user is not None,
        }
        for capability, is_asked in asked.items():
            if is_asked:
                self._need(capability)

    def _need(self, capability: Capability) -> None:
        if capability not in self.capabilities:
            what = "a network policy" if capability is Capability.NETWORK_POLICY else capability.value
            raise NotSupportedError(f"this FakeSandbox cannot do {what}: its capabilities lack {capability.value!r}")

    async def get(self, box_id: str) -> BoxInfo:
        return (await self._box("get", box_id)).info()

    async def attach(self, box_id: str) -> BoxInfo:
        return (await self._box("attach", box_id)).info()

    async def list(self, labels: Mapping[str, str]) -> Sequence[BoxInfo]:
        await self._called("list", "", dict(labels))
        return [box.info() for box in self.boxes.values() if labels.items() <= box.labels.items()]

    async def pause(self, box_id: str) -> None:
        self._need(Capability.PAUSE)
        (await self._box("pause", box_id)).pause()

    async def resume(self, box_id: str) -> None:
        self._need(Capability.PAUSE)
        (await self._box("resume", box_id)).resume()

    async def delete(self, box_id: str) -> None:
        await self._called("delete", box_id)
        box = self.boxes.pop(box_id, None)
        if box is not None:
            box.stop()

    async def url(self, box_id: str, port: int) -> str:
        await self._box("url", box_id, port)
        # Nothing listens there, and nothing is asked to: the same address for the same box and port.
        place = sum(f"{box_id}:{port}".encode()) * 7919 % len(_PORTS)
        return f"http://127.0.0.1:{_PORTS[place]}"

    # --- processes

    async def spawn(self, box_id: str, spec: ProcessSpec) -> Process:
        box = await self._box("spawn", box_id, spec)
        box.check_running()
        if spec.user is not None:
            self._need(Capability.USERS)
        if spec.tty is not None:
            self._need(Capability.TTY)
        self._check_directory(box, spec)
        return self._spawning.spawn(box, spec)

    def _check_directory(self, box: FakeBox, spec: ProcessSpec) -> None:
        if spec.cwd is None:
            return
        try:
            box.files.list(spec.cwd)
        except SandboxError as exc:
            raise SandboxError(f"cannot start a command in {spec.cwd!r}: {exc}") from exc

    async def signal(self, box_id: str, exec_id: str, number: int, *, user: str | None = None) -> None:
        for process in (await self._box("signal", box_id, exec_id, number)).named(exec_id):
            await process.signal(number)

    async def end(self, box_id: str, exec_id: str, *, user: str | None = None) -> None:
        for process in (await self._box("end", box_id, exec_id)).named(exec_id):
            await process.kill()

    # --- files

    async def read_file(self, box_id: str, path: str, *, offset: int = 0, limit: int | None = None) -> bytes:
        return (await self._box("read_file", box_id, path)).files.read(path, offset=offset, limit=limit)

    async def write_file(self, box_id: str, path: str, data: bytes, *, mode: int | None = None) -> None:
        (await self._box("write_file", box_id, path, data)).files.write(path, data, mode=mode)

    async def list_files(self, box_id: str, path: str, *, recursive: bool = False) -> Sequence[FileInfo]:
        return (await self._box("list_files", box_id, path)).files.list(path, recursive=recursive)

    async def stat_file(self, box_id: str, path: str) -> FileInfo:
        return (await self._box("stat_file", box_id, path)).files.stat(path)

    async def make_directory(self, box_id: str, path: str) -> None:
        (await self._box("make_directory", box_id, path)).files.make_directory(path)

    async def rename_file(self, box_id: str, path: str, to: str) -> None:
        (await self._box("rename_file", box_id, path, to)).files.rename(path, to)

    async def remove_file(self, box_id: str, path: str) -> None:
        (await self._box("remove_file", box_id, path)).files.remove(path)

    async def upload(self, box_id: str, source: Path, path: str) -> None:
        # On the loop: what tests send is small, and a world has no threads.
        copy_in((await self._box("upload", box_id, source, path)).files, source, path)

    async def download(self, box_id: str, path: str, target: Path) -> None:
        copy_out((await self._box("download", box_id, path, target)).files, path, target)

    # --- snapshots

    async def snapshot(self, box_id: str, snapshot_id: str, labels: Mapping[str, str]) -> SnapshotInfo:
        self._need(Capability.SNAPSHOT)
        box = await self._box("snapshot", box_id, snapshot_id, dict(labels))
        if snapshot_id not in self._snapshots:
            info = SnapshotInfo(snapshot_id=snapshot_id, box_id=box_id, labels=dict(labels), created_at=self.time.now())
            commits = {key: list(each) for key, each in box.commits.items()}
            self._snapshots[snapshot_id] = _Snapshot(info=info, files=box.files.copy(), commits=commits)
        return self._snapshots[snapshot_id].info

    async def list_snapshots(self, labels: Mapping[str, str]) -> Sequence[SnapshotInfo]:
        await self._called("list_snapshots", "", dict(labels))
        return [kept.info for kept in self._snapshots.values() if labels.items() <= kept.info.labels.items()]

    async def delete_snapshot(self, snapshot_id: str) -> None:
        await self._called("delete_snapshot", "", snapshot_id)
        self._snapshots.pop(snapshot_id, None)

    # --- every call ---------------------------------------------------------------------------------------------------

    async def _called(self, operation: str, box_id: str, *arguments: object) -> None:
        # As with any sandbox, everybody else has a turn meanwhile.
        await asyncio.sleep(0)
        self.calls.append(SandboxCall(operation=operation, box_id=box_id, arguments=arguments))
        for failure in self._failures:
            if failure.operation == operation and failure.left:
                failure.left -= 1
                raise failure.error

    async def _box(self, operation: str, box_id: str, *arguments: object) -> FakeBox:
        await self._called(operation, box_id, *arguments)
        if box_id not in self.boxes:
            raise BoxNotFoundError(box_id)
        return self.boxes[box_id]


_SCRIPT: Final = frozenset({"on", "program", "repository", "fail_next", "ran", "answer_to", "box", "use_clock", "stop"})
