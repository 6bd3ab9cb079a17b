"""The pipeline, as a user of boxflow writes it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from boxflow import AgentConfig, Context, workflow

LANGUAGES = ("go", "ruby", "typescript")


@dataclass(frozen=True)
class Change:
    """The newest commit of a repository, and who looks at it."""

    repository: str
    agent: AgentConfig


@dataclass(frozen=True)
class Port:
    change: Change
    language: str
    summary: str
    feedback: str = ""


@dataclass(frozen=True)
class Verdict:
    approved: bool
    feedback: str = ""


@workflow
async def explain(ctx: Context, change: Change) -> str:
    async with ctx.box("analyst", agent=change.agent) as box:
        await box.files.upload(change.repository, "change.bundle")
        await box.git.clone("change.bundle", "repository")
        await box.agent.run(
            "Look at the newest commit of ./repository. Write what it changes, for people who port it to other "
            "languages, to SUMMARY.md.",
            timeout="30m",
        )
        return await box.files.read("SUMMARY.md")


@workflow
async def port_to(ctx: Context, job: Port) -> str:
    async with ctx.box(job.language, agent=job.change.agent) as box:
        await box.files.upload(job.change.repository, "change.bundle")
        await box.git.clone("change.bundle", "repository")
        await box.agent.run(
            f"Port this change to {job.language}, in ./repository/{job.language}:\n\n{job.summary}\n\n{job.feedback}",
            timeout="2h",
        )
        return await box.git.diff(path="repository")


@workflow
async def port_everywhere(ctx: Context, change: Change) -> dict[str, str]:
    summary = await ctx.invoke("explain", explain, change)
    verdict = Verdict(approved=False)
    while not verdict.approved:
        jobs = [Port(change, language, summary, verdict.feedback) for language in LANGUAGES]
        diffs = await asyncio.gather(*(ctx.invoke(f"port-{job.language}", port_to, job) for job in jobs))
        verdict = await ctx.wait_for_event("review", f"review-{ctx.run_id}", type=Verdict, timeout="3d")
        verdict = replace(verdict, feedback=f"A reviewer says: {verdict.feedback}" if verdict.feedback else "")
    return dict(zip(LANGUAGES, diffs, strict=True))
