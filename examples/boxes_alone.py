"""Boxes without any workflow: make one, put files in, run commands, look at the diff; it is gone at the end."""

import asyncio
import tempfile

from boxflow import Boxes, BoxStatus


async def main() -> None:
    # "local:" is a directory and process groups of this machine: quick, and no isolation at all.
    with tempfile.TemporaryDirectory() as directory:
        async with Boxes(f"local:{directory}") as boxes:
            async with boxes.create("scratch", env={"GREETING": "hello"}) as box:
                await box.exec.command("git init --quiet --initial-branch=main .", check=True)
                await box.files.write("poem.txt", "roses are red\n")
                await box.git.commit("first line", author="Ada <ada@example.org>")
                result = await box.exec.command("echo $GREETING; echo 'violets are blue' >> poem.txt", timeout="30s")
                print(result.stdout.strip(), result.exit_code)
                print(await box.git.diff())
            assert await box.status() is BoxStatus.DELETED
            print("boxes left:", len(await boxes.list()))


if __name__ == "__main__":
    asyncio.run(main())
