"""How is a program started in a container?"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Final

from boxflow.errors import BoxStateError, SandboxError, SandboxUnavailableError
from boxflow.ports import ProcessSpec
from boxflow_backends.docker_sandbox.client import RefusedError
from boxflow_backends.docker_sandbox.endings import Endings
from boxflow_backends.docker_sandbox.exec_calls import ExecCalls, collected, has_stopped, refused
from boxflow_backends.docker_sandbox.killing import MARK_VARIABLE, mark_of
from boxflow_backends.docker_sandbox.process import Controls, DockerProcess
from boxflow_backends.docker_sandbox.record import WORKSPACE, BoxRecord
from boxflow_backends.docker_sandbox.stream import ExecStream
from boxflow_backends.docker_sandbox.wrapper import NO_DIRECTORY, NO_PROGRAM, START, new_nonce, wrapped
from boxflow_backends.uninterrupted import uninterrupted

# Starting is the engine's work (runc), and saturates it at about this many: 31 a second with 4 to 8 at a time on two
# cores, 27 with 50 at a time, each of which then takes seconds.
_STARTS: Final = 8

# An exec starts within a tenth of a second on an idle machine, within seconds on one that is busy starting others.
_START_S: Final = 60.0


class Execs:
    """Starts programs in the boxes of one engine.

    :param endings: what ends those that are not to go on
    """

    def __init__(self, calls: ExecCalls, endings: Endings) -> None:
        self._calls = calls
        self._endings = endings
        self._starts = asyncio.Semaphore(_STARTS)

    async def spawn(self, record: BoxRecord, spec: ProcessSpec, extra_env: Mapping[str, str]) -> DockerProcess:
        """Start the program of *spec*. Cancelling leaves none behind.

        :param extra_env: between what every process finds and what the box says
        :raises BoxNotFoundError: the container is gone
        :raises BoxStateError: it is paused or stopped
        :raises SandboxError: the program, its directory or its user is not there
        """
        if not spec.argv:
            raise SandboxError(f"nothing to start in box {record.box_id!r}: argv is empty")
        mark = mark_of(record.box_id, spec.exec_id or secrets.token_hex(16))
        environment = {
            **record.environment(spec.user, terminal=spec.tty is not None),
            **extra_env,
            **record.env,
            **spec.env,
            MARK_VARIABLE: mark,
        }
        async with self._starts:
            exec_id = await self._create(record, spec, environment)
            started: list[DockerProcess] = []

            async def start() -> DockerProcess:
                started.append(await self._start(record, spec, exec_id, mark))
                return started[0]

            try:
                return await uninterrupted(start())
            except asyncio.CancelledError as cancelled:
                for process in started:
                    try:
                        await process.kill()
                    except SandboxError as exc:
                        cancelled.add_note(f"meanwhile: {exc}")
                raise

    # --- starting ----------------------------------------------------------------------------------------------

    async def _create(self, record: BoxRecord, spec: ProcessSpec, environment: Mapping[str, str]) -> tuple[str, str]:
        """The engine's id of a new exec, and the nonce of its marks."""
        nonce = new_nonce()
        argv = wrapped(spec.argv, _directory(spec.cwd), nonce, spec.tty)
        for text in (*argv, *environment, *environment.values()):
            if "\0" in text:
                raise SandboxError(f"cannot start {spec.argv[0]!r}: {text[:100]!r} has a zero byte in it")
        return await self._calls.create(record, argv, environment, spec), nonce

    async def _start(self, record: BoxRecord, spec: ProcessSpec, exec_id: tuple[str, str], mark: str) -> DockerProcess:
        docker_id, nonce = exec_id
        stream = await self._calls.connect(
            docker_id, (record.container_id, mark), nonce=nonce, tty=spec.tty is not None
        )
        try:
            async with asyncio.timeout(_START_S):
                await stream.started.wait()
        except TimeoutError:
            stream.close()
            await self._endings.end(record, mark, spec.user)
            raise SandboxUnavailableError(
                f"{spec.argv[0]!r} did not start in {record.box_id!r} for {_START_S:g} s: the engine is overloaded"
            ) from None
        if stream.announced != START:
            raise await self._why_not(record, spec, docker_id, stream)
        controls = Controls(
            exit_code=lambda: self._calls.exit_code(record, docker_id),
            resize=lambda size: self._calls.resize(docker_id, size),
            signal=lambda number: self._endings.signal(record, mark, number, spec.user),
            end=lambda: self._endings.end(record, mark, spec.user),
        )
        described = f"process {spec.argv[0]!r} in box {record.box_id!r}"
        process = DockerProcess(stream, controls, described=described, stdin=spec.stdin, tty=spec.tty is not None)
        if spec.tty is not None:
            await self._calls.resize(docker_id, spec.tty)
        return process

    async def _why_not(self, record: BoxRecord, spec: ProcessSpec, exec_id: str, stream: ExecStream) -> SandboxError:
        """Why the program of *spec* was not started."""
        program, where = spec.argv[0], f"in box {record.box_id!r}"
        match stream.announced:
            case str(said) if said == NO_DIRECTORY:
                stream.close()
                return SandboxError(
                    f"cannot start {program!r} {where}: {_directory(spec.cwd)!r} is no directory that it may enter; "
                    "make it first, or pass another `cwd`"
                )
            case str(said) if said == NO_PROGRAM:
                stream.close()
                return SandboxError(
                    f"cannot start {program!r} {where}: no such program, or it may not be executed; "
                    "its image must bring it"
                )
            case _:
                said = (await collected(stream)).said
        return await self._why_not_at_all(record, spec, exec_id, stream, said)

    async def _why_not_at_all(
        self, record: BoxRecord, spec: ProcessSpec, exec_id: str, stream: ExecStream, said: str
    ) -> SandboxError:
        """Why not even our own shell was started."""
        if stream.status not in (0, 101, 200):
            return refused(record, RefusedError("start a command", stream.status, stream.words))
        try:
            code = await self._calls.exit_code(record, exec_id)
        except SandboxError as exc:
            return exc
        if has_stopped(said):
            return BoxStateError(f"box {record.box_id!r} was stopped while {spec.argv[0]!r} was being started in it")
        lowered = said.lower()
        if spec.user is not None and ("unable to find user" in lowered or "no matching entries in passwd" in lowered):
            return SandboxError(f"cannot start {spec.argv[0]!r} in box {record.box_id!r}: no user {spec.user!r} there")
        if code == 137:
            return SandboxError(f"{spec.argv[0]!r} in box {record.box_id!r} was killed while it was being started")
        return SandboxError(
            f"cannot start {spec.argv[0]!r} in box {record.box_id!r}: {said or 'the engine says no more'} "
            f"(status {code}); a box needs /bin/sh in its image"
        )


def _directory(cwd: str | None) -> str:
    if not cwd:
        return WORKSPACE
    return cwd if cwd.startswith("/") else f"{WORKSPACE}/{cwd}"
