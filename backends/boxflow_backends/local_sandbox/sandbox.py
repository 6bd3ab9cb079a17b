"""What makes boxes of directories and process groups of this machine?"""

# No pathlib: renames that must not replace, and descriptors.
# ruff: noqa: PTH104, PTH115, PTH123, PTH208

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pwd
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import anyio
import anyio.to_thread
import attrs

from boxflow.errors import BoxNotFoundError, SandboxError, SandboxUnavailableError
from boxflow.ports import BoxInfo, BoxSpec, BoxStatus, Capability, FileInfo
from boxflow_backends.local_sandbox.files import LocalFiles
from boxflow_backends.local_sandbox.layout import HOME, PLACES, TMP, Layout, default_root
from boxflow_backends.local_sandbox.paths import located, translated
from boxflow_backends.local_sandbox.process import LocalProcess
from boxflow_backends.local_sandbox.processes import MARK_VARIABLE, end_marked
from boxflow_backends.local_sandbox.removal import remove_tree
from boxflow_backends.local_sandbox.uninterrupted import uninterrupted

T = TypeVar("T")

# Threads of its own: an app whose steps keep all shared threads busy must still be able to kill a process.
_THREADS: Final = 16

# A box in the making is a few empty directories; one older than this belongs to a program that died.
_ABANDONED_S: Final = 3600.0


class LocalSandbox:
    """Boxes that are directories and process groups of this machine.

    **There is no isolation.** What runs in such a box is what you are: it can read your files, use your network and,
    through `/proc`, read your process's environment. The clean environment, the directories of its own and the killing
    of process trees are hygiene, for code you trust and for tests. Use `"docker:"` for anything else.

    What it does promise: commands get a clean environment with HOME and TMPDIR in the box; the files API does not leave
    the box; a timeout, a cancellation and `delete` end whole process trees, daemons too (on Linux; elsewhere process
    groups only); boxes of a killed engine are found, and deleted with what runs in them, by the next one.

    :param root: where the boxes are kept; `$XDG_STATE_HOME/boxflow/boxes` unless given, for this user alone
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self._layout = Layout(default_root() if root is None else Path(root))
        self._files = LocalFiles(self._layout)
        self._threads = anyio.CapacityLimiter(_THREADS)
        self._running: set[LocalProcess] = set()
        #: How many processes are being started, and are not among those that run yet.
        self._starting = 0

    def __repr__(self) -> str:
        return f"LocalSandbox({str(self._layout.root)!r})"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """None: what it makes is isolated from nothing."""
        return frozenset()

    async def __aenter__(self) -> Self:
        """Make the root; :raises SandboxUnavailableError: it cannot be made, or this system is not POSIX."""
        if os.name != "posix":
            raise SandboxUnavailableError(
                f"local boxes need a POSIX system, and this is {sys.platform!r}; use 'docker:'"
            )
        await self._in_thread(self._open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Boxes stay, and what runs in them."""

    # --- boxes -------------------------------------------------------------------------------------------------

    async def create(self, box_id: str, spec: BoxSpec, labels: Mapping[str, str]) -> BoxInfo:
        """Make the box, or return the one that has this id."""
        return (await self._in_thread(self._create, box_id, spec, dict(labels))).info()

    async def get(self, box_id: str) -> BoxInfo:
        """:raises BoxNotFoundError: no such box."""
        return (await self._in_thread(self._record, box_id)).info()

    async def list(self, labels: Mapping[str, str]) -> Sequence[BoxInfo]:
        """The boxes that carry all of *labels*, oldest first."""
        return await self._in_thread(self._list, dict(labels))

    async def delete(self, box_id: str) -> None:
        """End and remove the box. No error when there is none. Cancelling does not leave half of it running."""
        await uninterrupted(self._in_thread(self._delete, box_id))

    # --- processes ---------------------------------------------------------------------------------------------

    async def spawn(
        self, box_id: str, argv: Sequence[str], *, cwd: str | None, env: Mapping[str, str], stdin: bool
    ) -> LocalProcess:
        """Start *argv* in the box. Cancelling leaves no process behind."""
        mark = secrets.token_hex(16)
        started: list[LocalProcess] = []

        async def start() -> LocalProcess:
            self._starting += 1
            try:
                popen = await self._in_thread(self._start, box_id, tuple(argv), cwd, dict(env), stdin, mark)
                process = LocalProcess(popen, lambda: self._end(mark, popen.pid))
                self._running = {running for running in self._running if not running.ended} | {process}
            finally:
                self._starting -= 1
            started.append(process)
            return process

        try:
            return await uninterrupted(start())
        except asyncio.CancelledError:
            for process in started:
                await process.kill()
            raise

    # --- files -------------------------------------------------------------------------------------------------

    async def read_file(self, box_id: str, path: str, *, offset: int = 0, limit: int | None = None) -> bytes:
        """Bytes of a file."""
        return await self._in_thread(self._files.read, box_id, path, offset, limit)

    async def write_file(self, box_id: str, path: str, data: bytes, *, mode: int | None = None) -> None:
        """Write a file whole."""
        await self._in_thread(self._files.write, box_id, path, data, mode)

    async def list_files(self, box_id: str, path: str, *, recursive: bool = False) -> Sequence[FileInfo]:
        """Entries of a directory."""
        return await self._in_thread(self._files.list, box_id, path, recursive)

    async def stat_file(self, box_id: str, path: str) -> FileInfo:
        """What is at *path*; a link is described, not followed."""
        return await self._in_thread(self._files.stat, box_id, path)

    async def make_directory(self, box_id: str, path: str) -> None:
        """Make a directory and those above it."""
        await self._in_thread(self._files.make_directory, box_id, path)

    async def rename_file(self, box_id: str, path: str, to: str) -> None:
        """Move a file or directory."""
        await self._in_thread(self._files.rename, box_id, path, to)

    async def remove_file(self, box_id: str, path: str) -> None:
        """Remove a file, a link, or a whole directory."""
        await self._in_thread(self._files.remove, box_id, path)

    # --- in threads --------------------------------------------------------------------------------------------

    async def _in_thread(self, fn: Callable[..., T], *args: Any) -> T:
        return await anyio.to_thread.run_sync(fn, *args, limiter=self._threads)

    async def _end(self, mark: str, leader: int) -> None:
        await self._in_thread(self._end_marked, mark, leader)

    def _end_marked(self, mark: str, leader: int | None = None) -> None:
        end_marked(mark, children=self._children, is_starting=lambda: self._starting > 0, leader=leader)

    def _children(self) -> Collection[int]:
        return [process.pid for process in self._running if not process.ended]

    def _open(self) -> None:
        root = self._layout.root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for abandoned in root.glob(".new-*~*"):
                with suppress(FileNotFoundError):
                    if time.time() - abandoned.stat().st_mtime > _ABANDONED_S:
                        remove_tree(abandoned)
        except OSError as exc:
            if isinstance(exc, SandboxError):
                raise
            raise SandboxUnavailableError(f"local boxes cannot be kept in {str(root)!r}: {exc.strerror}") from exc

    def _create(self, box_id: str, spec: BoxSpec, labels: dict[str, str]) -> _Record:
        record = _Record(box_id=box_id, labels=labels, env=dict(spec.env), created_at=time.time())
        making = self._layout.making(box_id)
        try:
            return self._record(box_id)
        except BoxNotFoundError:
            making.mkdir(mode=0o700, parents=True)
        try:
            for place in PLACES:
                (making / place).mkdir()
            # Readable by this user only: `env` is where secrets are passed.
            fd = os.open(making / self._layout.record(box_id).name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(fd, "w", encoding="utf-8") as file:
                file.write(record.to_json())
            try:
                # The box appears whole or not at all; of two that make it at once, one finds the place taken.
                os.rename(making, self._layout.box(box_id))
            except OSError:
                record = self._record(box_id)
        finally:
            remove_tree(making)
        return record

    def _record(self, box_id: str) -> _Record:
        path = self._layout.record(box_id)
        try:
            return _Record.from_json(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise BoxNotFoundError(box_id) from exc
        except (ValueError, KeyError, TypeError) as exc:
            raise SandboxError(f"the record of box {box_id!r} is damaged; delete the box") from exc

    def _list(self, labels: dict[str, str]) -> Sequence[BoxInfo]:
        found: dict[str, BoxInfo] = {}
        if not self._layout.root.is_dir():
            return ()
        for name in os.listdir(self._layout.root):
            if name.startswith("."):
                continue
            with suppress(BoxNotFoundError):
                info = self._record(name).info()
                if labels.items() <= info.labels.items():
                    found[name] = info
        return sorted(found.values(), key=lambda info: (info.created_at, info.box_id))

    def _delete(self, box_id: str) -> None:
        mark = self._layout.mark(box_id)
        self._end_marked(mark)
        with suppress(FileNotFoundError):
            os.rename(self._layout.box(box_id), self._layout.going(box_id))
        # Again, for what was being started: from here on nothing can start, see `_start`.
        self._end_marked(mark)
        for leftover in self._layout.leftovers(box_id):
            remove_tree(leftover)

    def _start(
        self, box_id: str, argv: tuple[str, ...], cwd: str | None, env: dict[str, str], stdin: bool, mark: str
    ) -> subprocess.Popen[bytes]:
        record = self._record(box_id)
        with located(self._layout, box_id, cwd or ".") as spot:
            directory = _path_of(spot.directory, spot.name, cwd or ".")
        marks = f"{os.environ.get(MARK_VARIABLE, '')} {self._layout.mark(box_id)} {mark}"
        try:
            popen = subprocess.Popen(  # noqa: S603 - starting what it is told is what a sandbox is for
                argv,
                cwd=directory,
                env={
                    **self._clean_environment(box_id),
                    **record.env,
                    **env,
                    "PWD": directory,
                    MARK_VARIABLE: marks.strip(),
                },
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except (OSError, ValueError) as exc:
            raise SandboxError(f"cannot start {argv[0]!r} in box {box_id!r}: {exc}") from exc
        # The box may have been deleted while we started. Either its deleter saw the process and killed it, or it had
        # moved the box away before, and we see that here.
        if not self._layout.record(box_id).exists():
            end_marked(mark, children=lambda: [popen.pid], is_starting=lambda: True, leader=popen.pid)
            popen.communicate()
            raise BoxNotFoundError(box_id)
        return popen

    def _clean_environment(self, box_id: str) -> dict[str, str]:
        """What every command gets. Nothing of ours but PATH: an engine's environment is full of secrets."""
        user = _user_name()
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._layout.place(box_id, HOME)),
            "TMPDIR": str(self._layout.place(box_id, TMP)),
            "LANG": "C.UTF-8",
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/sh",
            "TERM": "dumb",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "BOXFLOW_BOX": box_id,
        }


@attrs.frozen(kw_only=True)
class _Record:
    """What `box.json` says."""

    box_id: str
    labels: dict[str, str]
    env: dict[str, str]
    created_at: float

    def info(self) -> BoxInfo:
        return BoxInfo(
            box_id=self.box_id, status=BoxStatus.RUNNING, labels=dict(self.labels), created_at=self.created_at
        )

    def to_json(self) -> str:
        return json.dumps({"format": 1, **attrs.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> _Record:
        data = json.loads(text)
        return cls(
            box_id=str(data["box_id"]),
            labels={str(key): str(value) for key, value in data["labels"].items()},
            env={str(key): str(value) for key, value in data["env"].items()},
            created_at=float(data["created_at"]),
        )


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


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        # Containers often run under an id that no account has.
        return str(os.getuid())
