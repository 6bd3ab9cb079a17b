"""What is known of a job? Its state as the watcher in its box tells it, and how that is asked.

`boxflow.boxes.job_script` is the other half: the shell program whose answers are read here.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
from collections.abc import AsyncGenerator, Sequence
from typing import Final
from urllib.parse import quote, unquote

import attrs
import msgspec

from boxflow.boxes.command import feed
from boxflow.boxes.job_script import EXIT_NO_INPUT, EXIT_NO_PLACE, EXIT_NO_PROGRAM, script_argv
from boxflow.boxes.output import CappedOutput
from boxflow.errors import JobNotFoundError, SandboxError, SandboxUnavailableError
from boxflow.ports import ProcessSpec, Sandbox

ROUND_S: Final = 50.0
"""How long one process asks about a job before another takes its place: a connection that is dead without saying so
costs that much, and not for ever."""

GRACE_S: Final = 60.0
"""How much longer than its round a process may take, before it counts as hanging."""

# File names have 255 bytes at most; "j" and the hash of a crowded name must fit.
_MAX_NAME_BYTES = 200


class JobStatus(enum.StrEnum):
    """Where a job stands."""

    STARTING = "starting"
    RUNNING = "running"
    EXITED = "exited"
    LOST = "lost"
    """It went away without an exit status: its box was stopped, or its watcher was killed."""


@attrs.frozen(kw_only=True)
class About:
    """What was asked for, kept with the job.

    :param command: as people read it
    :param user: as whom it runs, which is also who may end it
    """

    command: str
    user: str | None = None


@attrs.frozen(kw_only=True)
class State:
    """One answer of the watcher. `status` None: there is no such job.

    :param since: when it began, by a clock of the machine that nobody sets: for the order of jobs
    """

    status: JobStatus | None
    exit_code: int | None = None
    started_at: float | None = None
    elapsed_s: float | None = None
    reason: str = ""
    since: int = 0

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in (JobStatus.EXITED, JobStatus.LOST)


def exec_id_of(job_id: str) -> str:
    """The `exec_id` that a job's processes carry."""
    return f"job:{job_id}"


def name_of(job_id: str) -> str:
    """The name of a job's directory. Another id, another name.

    :raises ValueError: the id is empty or too long
    """
    name = "j" + quote(job_id, safe="")
    if not job_id or len(name) > _MAX_NAME_BYTES:
        raise ValueError(f"job id {job_id!r} must have 1 to {_MAX_NAME_BYTES} characters, fewer where they are unusual")
    return name


def job_id_of(key: str) -> str:
    """The id of the job that a step of this idempotency key starts: the key itself, or its hash where that is long."""
    return key if len(quote(key, safe="")) < _MAX_NAME_BYTES else f"step-{hashlib.sha256(key.encode()).hexdigest()}"


def id_of(name: str) -> str:
    """The id of the job that has this directory."""
    return unquote(name[1:])


class Asking:
    """One process that asks about jobs of a box, or starts one, and the answers it gives.

    :param deadline_s: after so long it counts as hanging
    """

    def __init__(self, sandbox: Sandbox, box_id: str, *, deadline_s: float = GRACE_S) -> None:
        self._sandbox = sandbox
        self._box_id = box_id
        self._deadline_s = deadline_s

    async def ask(
        self, verb: str, name: str, *arguments: str, spec: ProcessSpec | None = None, stdin: bytes | None = None
    ) -> Answer:
        """The whole answer.

        :param spec: with directory, environment and user; its `argv` is replaced
        """
        answer = Answer()
        async with asyncio.timeout(self._deadline_s):
            async for frame in self.frames(verb, name, *arguments, spec=spec, stdin=stdin):
                answer.take(frame)
        return answer

    async def frames(
        self, verb: str, name: str, *arguments: str, spec: ProcessSpec | None = None, stdin: bytes | None = None
    ) -> AsyncGenerator[Frame, None]:
        """What it answers, as it comes. Its own end is not the job's: leaving ends only the process that asks."""
        asked = attrs.evolve(
            spec or ProcessSpec(argv=()), argv=script_argv(verb, name, *arguments), stdin=stdin is not None
        )
        process = await self._sandbox.spawn(self._box_id, asked)
        reader = FrameReader()
        errors = CappedOutput(2000)
        finished = False
        feeding = asyncio.create_task(feed(process, stdin)) if stdin is not None else None
        try:
            async for stream, data in process.read():
                if stream == "stderr":
                    errors.add(data)
                    continue
                for frame in reader.feed(data):
                    yield frame
            code = await process.wait()
            finished = True
        finally:
            if feeding is not None:
                # A job that was there already does not read its input again.
                feeding.cancel()
                await asyncio.wait({feeding})
            # One that carries the job's mark is left alone: ending it would end the job. It goes within its round.
            if not finished and asked.exec_id is None:
                await process.kill()
        _check(code, name, verb, errors.text(), asked)


def _check(code: int, name: str, verb: str, errors: str, spec: ProcessSpec) -> None:
    match code:
        case 0:
            return
        case c if c == EXIT_NO_PROGRAM:
            raise SandboxError(f"cannot start the command of job {id_of(name)!r}: its program is not in the box")
        case c if c == EXIT_NO_INPUT:
            raise SandboxUnavailableError(f"the input of job {id_of(name)!r} did not arrive whole; start it again")
        case c if c == EXIT_NO_PLACE:
            place = "its jobs directory cannot be written to" + (f" by user {spec.user!r}" if spec.user else "")
            raise SandboxError(f"cannot keep job {id_of(name)!r} in the box: {place}")
        case c if c in (137, 143):
            # 143 is how a starting process leaves its watcher behind; 137: it was killed together with the job.
            return
        case _:
            raise SandboxError(f"cannot {verb} job {id_of(name)!r}: status {code}: {errors.strip()}")


@attrs.frozen
class Frame:
    """One piece of an answer: a head line, and the bytes that belong to it.

    :param letter: `s` state, `o` and `e` output, `t` total, `j` job, `r` retired
    """

    letter: str
    words: Sequence[str]
    data: bytes = b""


class FrameReader:
    """Cuts a stream of bytes into frames. Output comes in pieces as it arrives, everything else whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._pending: tuple[str, list[str], int] | None = None
        self._at = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that *data* completes."""
        self._buffer += data
        frames: list[Frame] = []
        while True:
            frame = self._next()
            if frame is None:
                return frames
            frames.append(frame)

    def _next(self) -> Frame | None:
        if self._pending is None:
            end = self._buffer.find(b"\n")
            if end < 0:
                return None
            letter, *words = self._buffer[:end].decode(errors="replace").split(" ")
            del self._buffer[: end + 1]
            if letter not in ("o", "e", "j"):
                return Frame(letter, words)
            self._pending = (letter, words, int(words[-1]))
            self._at = 0
        letter, words, size = self._pending
        left = size - self._at
        if letter == "j":
            if len(self._buffer) < size:
                return None
            piece = bytes(self._buffer[:size])
        else:
            piece = bytes(self._buffer[:left])
            if not piece and left:
                return None
        del self._buffer[: len(piece)]
        offset = self._at
        self._at += len(piece)
        if self._at >= size:
            self._pending = None
        if letter == "j":
            return Frame(letter, words, piece)
        return Frame(letter, [str(int(words[0]) + offset)], piece)


class Answer:
    """A whole answer: the last state, and what came with it."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.totals: dict[str, int] = {}
        self.pieces: dict[str, list[tuple[int, bytes]]] = {"o": [], "e": []}
        self.jobs: list[tuple[str, State, About]] = []
        self.retired_id: str | None = None

    def take(self, frame: Frame) -> None:
        """Take in the next frame."""
        match frame.letter:
            case "s":
                self.state = state_of(frame.words)
            case "t":
                self.totals[frame.words[0]] = int(frame.words[1])
            case "o" | "e":
                self.pieces[frame.letter].append((int(frame.words[0]), frame.data))
            case "r":
                self.retired_id = id_of(frame.words[0])
            case "j" if self.state is not None:
                self.jobs.append((id_of(frame.words[0]), self.state, about_of(frame.data)))
            case _:
                pass

    def output(self, letter: str, limit: int) -> CappedOutput:
        """One stream, with its gaps as gaps."""
        output = CappedOutput(limit)
        at = 0
        for offset, data in self.pieces[letter]:
            if offset > at:
                output.skip(offset - at)
            output.add(data)
            at = offset + len(data)
        return output


def state_of(words: Sequence[str]) -> State:
    """The state of an `s` line."""
    status, code, started, elapsed, reason, since = words
    return State(
        status=None if status == "missing" else JobStatus(status),
        exit_code=None if code == "-" else int(code),
        started_at=None if started == "-" else float(started),
        elapsed_s=None if elapsed == "-" else int(elapsed) / 100,
        reason="" if reason == "-" else reason,
        since=int(since),
    )


def about_bytes(about: About) -> str:
    """As it is kept with the job."""
    return msgspec.json.encode(about).decode()


def about_of(data: bytes) -> About:
    """Read it again; a job that was never whole tells nothing about itself."""
    try:
        return msgspec.json.decode(data, type=About)
    except msgspec.MsgspecError:
        return About(command="")


def found(state: State | None, job_id: str) -> State:
    """*state*, of a job that is there.

    :raises JobNotFoundError: it is not
    """
    if state is None or state.status is None:
        raise JobNotFoundError(job_id)
    return state
