"""What do the tests of the sandbox contract stand on? A box to look at, and processes in it."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import attrs

from boxflow.boxes import Box, Boxes
from boxflow.ports import BoxSpec, Process, ProcessSpec, Sandbox, TerminalSize

FOREVER = "600"
"""Long enough that a process which is still there at the end of a test was left behind, and did not end by itself."""

HANG_S = 30.0
"""What takes longer hangs."""

TREES = {
    "child": f"sleep {FOREVER} & echo up; wait",
    "grandchild": f"sh -c 'sleep {FOREVER} & echo up; wait' & wait",
    "own session": f"setsid sh -c 'echo up; sleep {FOREVER}' & sleep {FOREVER}",
    "daemon": f"(setsid sh -c 'echo up; sleep {FOREVER}' &) ; sleep {FOREVER}",
    "deaf": f"trap '' TERM INT HUP; echo up; sleep {FOREVER}",
}
"""Each prints one line when it is up, and would then live on: what a killer has to find."""

# One line for each process in whose environment the mark stands. Its own shell has it in its arguments only.
_SURVIVORS = r"""
for process in /proc/[0-9]*; do
    case "$(tr '\0' '\n' 2>/dev/null <"$process/environ")" in *"$1"*) echo "$process" ;; esac
done
"""

ODD_NAMES = ("ü ä.txt", "-rf", "a'b\"c", "new\nline", "日本/語", "...", "~", " blank ", "back\\slash", "$HOME", "*?[a]")


def new_id(word: str = "box") -> str:
    """An id that no other test has."""
    return f"{word}-{secrets.token_hex(6)}"


@attrs.frozen
class Ran:
    """How a process ended, and all that it wrote."""

    status: int
    stdout: bytes
    stderr: bytes


@attrs.frozen
class Subject:
    """A box under test, and the sandbox that made it."""

    sandbox: Sandbox
    id: str

    def box(self) -> Box:
        """The same box, as users see it."""
        return Box(self.sandbox, box_id=self.id, name="contract", spec=BoxSpec())

    async def spawn(
        self,
        what: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: bool = False,
        tty: TerminalSize | None = None,
        exec_id: str | None = None,
    ) -> Process:
        """Start a shell command, or a program with its arguments."""
        spec = ProcessSpec(
            argv=("sh", "-c", what) if isinstance(what, str) else tuple(what),
            cwd=cwd,
            env=dict(env or {}),
            user=user,
            stdin=stdin,
            tty=tty,
            exec_id=exec_id,
        )
        return await self.sandbox.spawn(self.id, spec)

    async def run(
        self,
        what: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> Ran:
        """Run it to its end."""
        async with asyncio.timeout(HANG_S):
            return await ran(await self.spawn(what, cwd=cwd, env=env, user=user))

    async def out(
        self, what: str | Sequence[str], *, env: Mapping[str, str] | None = None, user: str | None = None
    ) -> str:
        """What it writes, as text; it must succeed and write no errors."""
        done = await self.run(what, env=env, user=user)
        assert (done.status, done.stderr) == (0, b""), done
        return done.stdout.decode()

    async def appears(self, path: str) -> None:
        """Wait for a file that is not empty."""
        await self.out(["sh", "-c", 'until [ -s "$1" ]; do sleep 0.01; done', "appears", path])

    async def survivors(self, mark: str) -> str:
        """The processes in whose environment *mark* stands, as the box sees them."""
        return await self.out(["sh", "-c", _SURVIVORS, "survivors", mark])


async def ran(process: Process) -> Ran:
    """Take all output of a process, and how it ended."""
    streams = {"stdout": bytearray(), "stderr": bytearray()}
    async for stream, data in process.read():
        streams[stream] += data
    return Ran(await process.wait(), bytes(streams["stdout"]), bytes(streams["stderr"]))


class Reader:
    """What a process writes, taken piece by piece."""

    def __init__(self, process: Process) -> None:
        self._chunks: AsyncIterator[tuple[str, bytes]] = process.read()
        self.seen = b""

    async def until(self, text: str) -> str:
        """All that came until *text* did; it is an error when the output ends before."""
        async with asyncio.timeout(HANG_S):
            while text.encode() not in self.seen:
                chunk = await anext(self._chunks, None)
                assert chunk is not None, f"the output ended before {text!r} came: {self.seen!r}"
                self.seen += chunk[1]
        taken, _, self.seen = self.seen.partition(text.encode())
        return taken.decode() + text

    async def rest(self) -> str:
        """What comes until the output ends."""
        async with asyncio.timeout(HANG_S):
            async for _, data in self._chunks:
                self.seen += data
        taken, self.seen = self.seen, b""
        return taken.decode()


class Contract:
    """What every part of the contract needs: a sandbox of the author's making."""

    def make_sandbox(self, directory: Path) -> Sandbox:
        """A sandbox, not yet entered, that keeps what it keeps in *directory*; a second one finds the same boxes."""
        raise NotImplementedError(f"{type(self).__name__} must say how its sandbox is made: override make_sandbox")

    @asynccontextmanager
    async def sandbox(self, directory: Path) -> AsyncGenerator[Sandbox, None]:
        """An entered sandbox."""
        async with self.make_sandbox(directory) as sandbox:
            yield sandbox

    @asynccontextmanager
    async def box(self, directory: Path) -> AsyncGenerator[Box, None]:
        """A box as users see it."""
        async with self.sandbox(directory) as sandbox, Boxes(sandbox).create("contract") as box:
            yield box

    @asynccontextmanager
    async def subject(self, directory: Path, spec: BoxSpec | None = None) -> AsyncGenerator[Subject, None]:
        """A box as the core sees it."""
        async with self.sandbox(directory) as sandbox, made(sandbox, spec) as subject:
            yield subject


@asynccontextmanager
async def made(sandbox: Sandbox, spec: BoxSpec | None = None) -> AsyncGenerator[Subject, None]:
    """A box that is deleted in the end."""
    box_id = new_id()
    try:
        await sandbox.create(box_id, spec or BoxSpec(), {})
        yield Subject(sandbox, box_id)
    finally:
        await sandbox.delete(box_id)


@contextmanager
def quick_directory(otherwise: Path) -> Generator[Path, None, None]:
    """A directory in memory, where there is enough of it: ten thousand files take seconds on a disk."""
    memory = Path("/dev/shm")  # noqa: S108 - a directory of its own is made there
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < 2 * 1024**3:
        yield otherwise
        return
    directory = Path(tempfile.mkdtemp(dir=memory))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def flat_memory(limit_bytes: int = 32 * 1024 * 1024) -> Generator[None, None, None]:
    """Fails a test in which this process takes more memory than that, in all its threads."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit_bytes, f"{peak} bytes of memory were taken at once"
