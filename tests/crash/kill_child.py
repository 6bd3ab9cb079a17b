"""The process that is killed: an engine on a `FileStore`, told what to do on its standard input.

    kill_child.py DIRECTORY MAX_RESIDENT_RUNS

It reads lines of JSON, `{"id", "do", "number"}`: start a run, send it its event, call its webhook. It writes `ready`,
then `ack <id>` when what was asked is durable, and `result <number> <value>`. Into `effects`, which it only ever
appends to, each attempt of a step writes `ran <key>`, and `acknowledged <key>` follows once the step's outcome is in
the journal.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from boxflow import Context, Engine, Retry, WebhookRequest, step, workflow
from boxflow.errors import RunEndedError, WebhookTokenError
from boxflow.mail import make_token
from boxflow.model import StepDone, StepFailed
from boxflow.runs import Run
from boxflow_backends.file_store import FileStore
from boxflow_backends.local_sandbox import LocalSandbox

SECRET = b"of a test"
PARTS = 3
WITH_BOX = 6
"""Every so manieth run has a box."""


class Command(msgspec.Struct):
    """What the parent asks for."""

    id: str
    do: str
    number: int


class Effects:
    """A file of lines that is only appended to. What was written to it outlives the process, though not the machine."""

    def __init__(self) -> None:
        self._file = -1

    def open(self, path: Path) -> None:
        """Append to *path* from now on."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, line: str) -> None:
        """One write, so that no line is torn."""
        os.write(self._file, f"{line}\n".encode())


EFFECTS = Effects()


async def part(value: int) -> int:
    """An effect, and a moment in which to be killed."""
    EFFECTS.add(f"ran {step().idempotency_key}")
    await asyncio.sleep(0.002)
    return value


async def flaky(value: int) -> int:
    """Fails the first time."""
    EFFECTS.add(f"ran {step().idempotency_key}")
    if step().attempt == 1:
        raise ConnectionError("try again")
    return value


def expected(number: int) -> int:
    """The result of run *number*."""
    return sum(number * 10 + each for each in range(PARTS)) + 2 * number


@workflow
async def job(ctx: Context, number: int) -> int:
    """Parallel steps of one name, an event, a timer, a webhook, a box, a step that is tried again."""
    found = await asyncio.gather(*(ctx.run("part", part, number * 10 + each) for each in range(PARTS)))
    hook = await ctx.create_webhook("done")
    await ctx.wait_for_event("go", f"go-{number}")
    await asyncio.gather(ctx.sleep("nap", 0.01), asyncio.sleep(0.01))
    first = await ctx.run("flaky", flaky, number, retry=Retry(attempts=3, delay=0.01))
    await ctx.wait_for_webhook("call", hook)
    if number % WITH_BOX == 0:
        async with ctx.box("box") as box:
            await box.exec.command("sleep 0.01; echo done")
    last = await ctx.run("part", part, number)
    return sum(found) + first + last


def say(line: str) -> None:
    """Tell the parent."""
    os.write(1, f"{line}\n".encode())


async def follow(run: Run[Any]) -> None:
    """Write down what is acknowledged, and tell the result."""
    async for outcome in run.watch():
        if isinstance(outcome, StepDone | StepFailed):
            EFFECTS.add(f"acknowledged {run.id}:{outcome.name}:{outcome.occurrence}")
    say(f"result {run.id} {await run.result()}")


async def obey(engine: Engine, command: Command, following: asyncio.TaskGroup) -> None:
    """Do what the parent asked, then acknowledge it."""
    run_id = str(command.number)
    match command.do:
        case "start":
            run = await engine.start(job, command.number, run_id=run_id)
            following.create_task(follow(run))
        case "event":
            await engine.notify(f"go-{run_id}", {"id": command.id})
        case _:
            body = msgspec.json.encode({"id": command.id})
            try:
                await engine.deliver_webhook(
                    make_token(SECRET, run_id, "done"), WebhookRequest(method="POST", body=body)
                )
            except (RunEndedError, WebhookTokenError):
                return  # An earlier call, whose answer nobody heard, has let it end; or it has not begun.
    say(f"ack {command.id}")


async def main(directory: Path, max_resident_runs: int) -> None:
    """Drive runs until the input ends."""
    EFFECTS.open(directory / "effects")
    store, sandbox = FileStore(directory / "store"), LocalSandbox(directory / "boxes")
    async with Engine(
        [job], store=store, sandbox=sandbox, secret=SECRET, max_resident_runs=max_resident_runs
    ) as engine:
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        async with asyncio.TaskGroup() as tasks:
            say("ready")
            async for line in commands:
                tasks.create_task(obey(engine, msgspec.json.decode(line, type=Command), tasks))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
