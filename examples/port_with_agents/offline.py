"""What is needed offline: a repository with a change, and a script in the place of a model."""

from __future__ import annotations

import asyncio
from pathlib import Path

from boxflow.testing.model_server import Decision, ModelRequest, ReadFile, Reply, Say, WriteFile, prompts

SUMMARY = "`delay(n)` now doubles with each try, and stops at 60 seconds.\n"

PORTS = {
    "go": ("retry.go", "package retry\n\nfunc Delay(n int) int { return min(1<<n, 60) }\n"),
    "ruby": ("retry.rb", "def delay(n) = [2**n, 60].min\n"),
    "typescript": ("retry.ts", "export const delay = (n: number): number => Math.min(2 ** n, 60);\n"),
}

GIT = ("git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org")


async def make_repository(directory: Path) -> str:
    """A repository of two commits, as a bundle: one file, which a box needs no network for."""
    work, bundle = directory / "repository", directory / "change.bundle"
    work.mkdir(parents=True)
    await run(*GIT, "init", "-q", "-b", "main", str(work))
    for message, text in (("one second", "return 1"), ("double, up to a minute", "return min(2**n, 60)")):
        (work / "retry.py").write_text(f"def delay(n: int) -> int:\n    {text}\n")
        await run(*GIT, "-C", str(work), "add", ".")
        await run(*GIT, "-C", str(work), "commit", "-q", "-m", message)
    await run("git", "-C", str(work), "bundle", "create", "-q", str(bundle), "main", "HEAD")
    return str(bundle)


async def run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    if await process.wait() != 0:
        raise SystemExit(f"{' '.join(command)} failed")


def script() -> Decision:
    """The model's part: an explanation, three ports, and three better ones when the reviewer is not content."""
    turns: dict[str, list[Reply]] = {
        "Look at the newest commit": [
            ReadFile("repository/retry.py"), WriteFile("SUMMARY.md", SUMMARY), Say("The summary is written."),
        ],
    }  # fmt: skip
    by_language = {
        language: prompts({"": [WriteFile(f"repository/{language}/{name}", text), Say(f"Ported to {language}.")]})
        for language, (name, text) in PORTS.items()
    }
    explain = prompts(turns)

    def answer(request: ModelRequest) -> Reply:
        asked = " ".join(request.user_texts)
        for language, decide in by_language.items():
            if f"Port this change to {language}" in asked:
                reply = decide(request)
                if isinstance(reply, WriteFile) and "A reviewer says" in asked:
                    comment = "//" if language != "ruby" else "#"
                    return WriteFile(reply.path, f"{comment} Reviewed: {asked.rpartition('says: ')[2]}\n{reply.text}")
                assert not asyncio.iscoroutine(reply)
                return reply  # type: ignore[return-value] # `prompts` decides at once
        return explain(request)  # type: ignore[return-value] # as above

    return answer
