"""What is asked of the engine about one exec: to make it, to connect to it, and how it ended?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from boxflow.errors import BoxNotFoundError, BoxStateError, SandboxError, SandboxUnavailableError
from boxflow.ports import ProcessSpec, TerminalSize
from boxflow_backends.docker_sandbox.client import Daemon, RefusedError
from boxflow_backends.docker_sandbox.record import BoxRecord
from boxflow_backends.docker_sandbox.stream import ExecStream, open_stream

# The engine notes the exit status before it closes the streams; this is for one that is slow to.
_STATUS_S: Final = 10.0

_CONNECT_S: Final = 60.0


@attrs.frozen(kw_only=True)
class Finished:
    """How one of our own small programs in a box ended."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def said(self) -> str:
        """Both streams, for an error."""
        return (self.stderr + self.stdout).decode(errors="replace").strip()


class ExecCalls:
    """The execs of one engine, and the connections to them."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        #: Those that are open, with the container and the mark of what they belong to.
        self._streams: dict[ExecStream, tuple[str, str]] = {}

    @property
    def engine(self) -> str:
        """Its URL."""
        return self._daemon.url

    def close(self) -> None:
        """Give up every connection. What runs goes on."""
        for stream in list(self._streams):
            stream.close()
        self._streams.clear()

    def abandon(self, container_id: str) -> None:
        """Give up what leads into a container that is gone: the engine may have forgotten to close it."""
        for stream, (container, _) in list(self._streams.items()):
            if container == container_id:
                stream.close()

    def release(self, container_id: str, mark: str | None = None) -> None:
        """Hold nothing up that is about to end: drop the output that nobody takes.

        While such output waits, the engine notices no end in that container, not even the container's own.
        """
        for stream, (container, of) in self._streams.items():
            if container == container_id and mark in (None, of):
                stream.drop()

    async def create(
        self, record: BoxRecord, argv: Sequence[str], environment: Mapping[str, str], spec: ProcessSpec
    ) -> str:
        """The engine's id of a new exec, which is not started yet.

        :raises BoxNotFoundError: the container is gone
        :raises BoxStateError: it is paused or stopped
        """
        try:
            made = await self._daemon.repeat(
                "exec_create",
                record.container_id,
                list(argv),
                stdout=True,
                stderr=True,
                stdin=spec.stdin or spec.tty is not None,
                tty=spec.tty is not None,
                environment=[f"{name}={value}" for name, value in environment.items()],
                user=spec.user or record.user.docker,
                workdir="/",
            )
        except RefusedError as exc:
            raise refused(record, exc) from exc
        return str(made["Id"])

    async def connect(self, exec_id: str, belongs: tuple[str, str], *, nonce: str, tty: bool) -> ExecStream:
        """Start an exec, and be connected to it. It is not started a second time, whatever happens.

        :param belongs: to which container and mark
        """
        try:
            stream = await open_stream(
                self._daemon.endpoint(), self._daemon.api, exec_id, nonce=nonce, tty=tty, timeout_s=_CONNECT_S
            )
        except (OSError, TimeoutError) as exc:
            raise SandboxUnavailableError(
                f"cannot start a command: the Docker engine at {self._daemon.url!r} does not answer ({exc})"
            ) from exc
        self._streams = {known: of for known, of in self._streams.items() if not known.ended.is_set()}
        self._streams[stream] = belongs
        return stream

    # --- afterwards --------------------------------------------------------------------------------------------

    async def exit_code(self, record: BoxRecord, exec_id: str) -> int:
        """The exit status as the engine knows it, of an exec whose connection has ended."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _STATUS_S
        while True:
            try:
                told: Mapping[str, Any] = await self._daemon.read("exec_inspect", exec_id)
            except RefusedError as exc:
                if exc.status != 404:
                    raise
                return await self._exit_code_of_lost(record)
            if not told["Running"] and told["ExitCode"] is not None:
                return int(told["ExitCode"])
            if loop.time() > until:
                return await self._exit_code_of_lost(record)
            await asyncio.sleep(0.05)

    async def _exit_code_of_lost(self, record: BoxRecord) -> int:
        """What is known of an exec that the engine does not know: it ended with its box, or nobody can say."""
        try:
            inspected = await self._daemon.read("inspect_container", record.container_id)
        except RefusedError as exc:
            if exc.status != 404:
                raise
            return 137
        state = inspected["State"]
        if state["Status"] in ("removing", "dead"):
            return 137
        raise SandboxUnavailableError(
            f"the connection to a command in box {record.box_id!r} was lost, and how it ended is not known: the Docker "
            f"engine at {self._daemon.url!r} was restarted, or does not answer for it. The box is {state['Status']}"
        )

    async def resize(self, exec_id: str, size: TerminalSize) -> None:
        """Give its terminal another size; nothing when it has ended."""
        # Right after the start the engine may not know of the terminal yet.
        for attempt in range(6):
            try:
                await self._daemon.once("exec_resize", exec_id, height=size.rows, width=size.columns)
            except RefusedError as exc:
                if exc.status == 404 or attempt == 5:
                    # It has ended meanwhile: nothing has a size any more.
                    return
                await asyncio.sleep(0.02 * 2**attempt)
            else:
                return

    async def is_paused(self, record: BoxRecord) -> bool:
        """Whether a box is paused now."""
        try:
            inspected = await self._daemon.read("inspect_container", record.container_id)
        except RefusedError:
            return False
        return bool(inspected["State"].get("Paused"))


async def collected(stream: ExecStream) -> Finished:
    """All that comes, until the end. Its status is for the caller to fill in."""
    streams: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    while (chunk := await stream.next_chunk()) is not None:
        streams[chunk[0]].append(chunk[1])
    return Finished(code=0, stdout=b"".join(streams["stdout"]), stderr=b"".join(streams["stderr"]))


def has_stopped(said: str) -> bool:
    """Whether the engine says that a box stopped while something was being started in it."""
    return "stopped state" in said or "container not running" in said.lower()


def refused(record: BoxRecord, refusal: RefusedError) -> SandboxError:
    """What a refusal to start something means for the box."""
    words = refusal.words.lower()
    if refusal.status == 404 and "exec" not in words:
        return BoxNotFoundError(record.box_id)
    if refusal.status == 409:
        state = "paused" if "paused" in words else "stopped"
        return BoxStateError(f"box {record.box_id!r} is {state}; `await box.resume()` makes it go on")
    return refusal
