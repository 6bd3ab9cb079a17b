"""An engine that starts something in a box and then hangs, until it is killed: `engine_child.py ROOT BOX ISOLATION`."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

from boxflow.ports import BoxSpec, ProcessSpec
from boxflow_backends.local_sandbox import LocalSandbox
from boxflow_backends.local_sandbox.records import Isolation

_TREE = """
(setsid sh -c 'echo up > daemon; while :; do sleep 0.2; done' daemon-{0} &)
trap 'echo got > got' USR1
echo up > up
while :; do sleep 0.05; done
"""


async def main(root: str, box_id: str, isolation: str) -> None:
    async with LocalSandbox(root, isolation=cast("Isolation", isolation)) as sandbox:
        await sandbox.create(box_id, BoxSpec(), {})
        script = _TREE.format(box_id)
        process = await sandbox.spawn(box_id, ProcessSpec(argv=("sh", "-c", script, f"tree-{box_id}"), exec_id="tree"))
        await sandbox.spawn(
            box_id, ProcessSpec(argv=("sh", "-c", "while :; do sleep 0.2; done", f"other-{box_id}"), exec_id="other")
        )
        print("ready", flush=True)
        await process.wait()


asyncio.run(main(*sys.argv[1:4]))
