"""Three agents at once, each in a box of its own; the results combined, the boxes gone in every case."""

import asyncio
import tempfile
from dataclasses import dataclass

from boxflow import ChildFailedError, Context, Engine, workflow


@dataclass(frozen=True)
class Job:
    language: str
    text: str


@workflow
async def translate(ctx: Context, job: Job) -> str:
    async with ctx.box(job.language) as box:
        await box.files.write("input.txt", job.text)
        # A command in the place of an agent; one of the three fails.
        commands = {"loud": "tr a-z A-Z <input.txt", "backwards": "rev <input.txt", "martian": "exit 3"}
        result = await box.exec.command(commands[job.language], check=True, timeout="1m")
        return result.stdout.strip()


@workflow
async def translate_all(ctx: Context, text: str) -> dict[str, str]:
    async def one(language: str) -> str:
        try:
            return await ctx.invoke(language, translate, Job(language, text))
        except ChildFailedError as error:
            return f"({error.status})"

    languages = ["loud", "backwards", "martian"]
    return dict(zip(languages, await asyncio.gather(*map(one, languages)), strict=True))


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with Engine([translate, translate_all], sandbox=f"local:{directory}") as engine:
            print(await engine.run(translate_all, "stars"))
            print("boxes left:", len(await engine.boxes.list()))


if __name__ == "__main__":
    asyncio.run(main())
