"""How is a process tree of a box found and ended, or sent a signal, whoever started it?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs

from boxflow.errors import BoxNotFoundError, BoxStateError, SandboxError, SandboxUnavailableError
from boxflow.ports import ProcessSpec
from boxflow_backends.docker_sandbox.client import RefusedError
from boxflow_backends.docker_sandbox.exec_calls import ExecCalls, Finished, collected, has_stopped, refused
from boxflow_backends.docker_sandbox.killing import check_ended, ending_argv, signal_argv
from boxflow_backends.docker_sandbox.record import BoxRecord
from boxflow_backends.docker_sandbox.wrapper import new_nonce
from boxflow_backends.uninterrupted import uninterrupted

# A search through a full process table takes a second, thirty of them, and the pauses in between.
_END_S: Final = 60.0

# Ending needs a process of its own. A box that is full of them gives way now and then.
_END_ATTEMPTS: Final = 4
_FULL: Final = ("resource temporarily unavailable", "cannot fork", "can't fork", "newosproc", "read init-p")


class Endings:
    """Ends programs in the boxes of one engine.

    :param start_over: the last resort for a box that is so full of processes that nothing can look for them
    """

    def __init__(self, calls: ExecCalls, start_over: Callable[[BoxRecord], Awaitable[None]]) -> None:
        self._calls = calls
        self._start_over = start_over

    async def signal(self, record: BoxRecord, mark: str, number: int, user: str | None) -> None:
        """Send a signal to the program of *mark*; no error when it has ended."""
        nonce = new_nonce()
        finished = await self._search(record, signal_argv(mark, number, nonce), nonce, user)
        if finished.code != 0:
            raise SandboxError(f"cannot send signal {number} in box {record.box_id!r}: {finished.said}")

    async def end(self, record: BoxRecord, mark: str, user: str | None) -> None:
        """End the tree of *mark*. Cancelling does not stop it. :raises SandboxError: something is left"""
        self._calls.release(record.container_id, mark)
        await uninterrupted(self._end(record, mark, user))

    async def _end(self, record: BoxRecord, mark: str, user: str | None) -> None:
        for attempt in range(_END_ATTEMPTS):
            nonce = new_nonce()
            try:
                finished = await self._search(record, ending_argv(mark, nonce), nonce, user)
            except BoxNotFoundError:
                return
            except BoxStateError:
                # Stopped, with all that ran in it. What is paused only holds its breath.
                if await self._calls.is_paused(record):
                    raise
                return
            except SandboxUnavailableError:
                raise
            except SandboxError as exc:
                if not _is_full(str(exc)):
                    raise
                await asyncio.sleep(0.2 * 2**attempt)
            else:
                check_ended(record.box_id, finished.code, finished.stdout.decode(errors="replace"))
                return
        await self._start_over(record)

    async def _search(self, record: BoxRecord, argv: Sequence[str], nonce: str, user: str | None) -> Finished:
        """Run a search of `killing` to its end: not counted among the starts, and with nothing around it."""
        exec_id = await self._calls.create(record, argv, {"LC_ALL": "C"}, ProcessSpec(argv=argv, user=user))
        stream = await self._calls.connect(exec_id, (record.container_id, ""), nonce=nonce, tty=False)
        try:
            async with asyncio.timeout(_END_S):
                said = await collected(stream)
        except TimeoutError:
            raise SandboxError(f"a search through the processes of box {record.box_id!r} does not end") from None
        finally:
            stream.close()
        if stream.exit_code is not None:
            return attrs.evolve(said, code=stream.exit_code)
        if stream.status == 0:
            raise SandboxUnavailableError(
                f"the connection to the Docker engine at {self._calls.engine!r} was lost; try again"
            )
        if stream.status not in (101, 200):
            raise refused(record, RefusedError("start a command", stream.status, stream.words))
        if has_stopped(said.said):
            raise BoxStateError(f"box {record.box_id!r} was stopped meanwhile")
        # Not even started, or killed.
        code = await self._calls.exit_code(record, exec_id)
        raise SandboxError(f"cannot look at the processes of box {record.box_id!r}: status {code}: {said.said}")


def _is_full(words: str) -> bool:
    return any(sign in words.lower() for sign in _FULL)
