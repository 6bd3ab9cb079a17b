"""The process that is killed while it has boxes: an engine on a `FileStore`, with the sandbox that it is told.

    box_child.py DIRECTORY SANDBOX WORKFLOW RUNS

It starts that many runs (or finds them again), writes `result <run> <value>` for each that is over, and ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from boxflow import Context, Engine, Run, workflow
from boxflow_backends.file_store import FileStore

PATIENT = "echo ran >> ran; until [ -e go ]; do sleep 0.02; done; cat ran; echo result"


@workflow
async def patient(ctx: Context, _: int) -> str:
    """One command that ends when somebody says so."""
    async with ctx.box("patient") as box:
        return (await box.exec.command(PATIENT)).stdout


@workflow
async def busy(ctx: Context, number: int) -> str:
    """Boxes made, used and deleted, in a block, until the end of the run, and by hand."""
    kept = await ctx.box("kept", labels={"number": str(number)})
    async with ctx.box("block", init="echo made > made") as box:
        await box.files.write("f", str(number))
        text = (await box.exec.command("cat made f; (setsid sleep 300 >/dev/null 2>&1 &); sleep 0.05")).stdout
    other = await ctx.boxes.create("by-hand")
    await other.exec.command("sleep 0.02", check=True)
    await other.delete()
    await kept.jobs.start("sleep 300")
    return f"{text} {(await kept.exec.command('echo kept')).stdout}"


def say(line: str) -> None:
    """Tell the parent."""
    os.write(1, f"{line}\n".encode())


async def main(directory: Path, sandbox: str, name: str, runs: int) -> None:
    """Start the runs or find them, and tell how they end."""
    async with Engine([patient, busy], store=FileStore(directory / "store"), sandbox=sandbox) as engine:
        say("ready")

        async def tell(run: Run[str]) -> None:
            say(f"result {run.id} {await run.result()!r}")

        async with asyncio.TaskGroup() as tasks:
            for number in range(runs):
                tasks.create_task(tell(await engine.start(name, number, run_id=f"{name}-{number}")))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
