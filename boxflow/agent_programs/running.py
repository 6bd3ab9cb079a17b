"""How does a program of this machine run for a moment? With a deadline, and nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence

import attrs

from boxflow.boxes.shielded import finish

# Killed processes end at once; one that the kernel holds (in a dead network file system) may not.
_END_S = 5.0


@attrs.frozen(kw_only=True)
class Ran:
    """How a program ended.

    :param exit_code: negative for a signal; None when it was killed at its deadline
    :param output: both streams, as they came
    """

    exit_code: int | None
    output: str


async def run(argv: Sequence[str], *, env: Mapping[str, str], timeout_s: float) -> Ran:
    """Run a program of this machine to its end, or to its deadline.

    :raises OSError: it cannot be started
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=dict(env),
        # Agent programs wait for ever for an input that stays open.
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    output = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while chunk := await process.stdout.read(65536):
                output += chunk
            await process.wait()
    except TimeoutError:
        return Ran(exit_code=None, output=_text(output))
    finally:
        await finish(_end(process), timeout_s=_END_S)
    return Ran(exit_code=process.returncode, output=_text(output))


async def _end(process: asyncio.subprocess.Process) -> None:
    try:
        # What it started is in its group, unless it made another one: package managers do not.
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    await process.wait()


def _text(output: bytes | bytearray) -> str:
    return output.decode(errors="replace").strip()
