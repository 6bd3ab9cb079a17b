"""The newest commits of a repository are tested in parallel, each in a box of its own; it goes on after a crash.

python examples/commit_checks.py REPOSITORY "COMMAND" [SANDBOX]      by default, this one's own files are compiled
"""

import asyncio
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from boxflow import ChildFailedError, Context, Engine, workflow


@dataclass(frozen=True)
class Check:
    repository: str
    command: str
    commit: str = ""


@workflow
async def check_commit(ctx: Context, check: Check) -> str:
    async with ctx.box(check.commit[:8]) as box:
        # A bundle is a repository in one file: the box needs no way to where the repository is.
        await box.files.upload(check.repository, "repository.bundle")
        await box.git.clone("repository.bundle", "work")
        await box.git.checkout(check.commit, path="work")
        done = await box.exec.command(check.command, cwd="work", timeout="10m")
    return "ok" if done.ok else f"exit {done.exit_code}: {(done.stderr or done.stdout).strip()[-200:]}"


@workflow
async def check_all(ctx: Context, check: Check) -> dict[str, str]:
    async with ctx.box("history") as box:
        await box.files.upload(check.repository, "repository.bundle")
        await box.git.clone("repository.bundle", "work")
        log = await box.git.exec("log", "--format=%H", "--max-count=4", path="work")

    async def one(commit: str) -> str:
        try:
            return await ctx.invoke(commit[:8], check_commit, Check(check.repository, check.command, commit))
        except ChildFailedError as error:
            return str(error)

    commits = log.stdout.split()
    return dict(zip(commits, await asyncio.gather(*map(one, commits)), strict=True))


async def bundled(repository: str, directory: str) -> str:
    bundle = str(Path(directory, "repository.bundle"))
    git = await asyncio.create_subprocess_exec("git", "-C", repository, "bundle", "create", "-q", bundle, "HEAD")
    if await git.wait() != 0:
        sys.exit(f"{repository!r} is no git repository with a commit")
    return bundle


async def main(repository: str = ".", command: str = "python3 -m compileall -q .", sandbox: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        check = Check(await bundled(repository, directory), command)
        async with Engine([check_all, check_commit], sandbox=sandbox or f"local:{directory}/boxes") as engine:
            for commit, verdict in (await engine.run(check_all, check)).items():
                print(commit[:8], verdict)
            print("boxes left:", len(await engine.boxes.list()))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
