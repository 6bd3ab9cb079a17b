"""The pipeline: three boxes in parallel, an agent in each, one person who approves, one branch in the end."""

import asyncio
import json
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from boxflow import Box, Context, workflow
from examples.port_change.repository import make_branch

LANGUAGES = ("go", "typescript", "ruby")
PYTHON = shlex.quote(sys.executable)
AGENT = Path(__file__).with_name("agent.py").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Change:
    repository: str  # what `git clone` takes
    commit: str
    work_s: float = 4.0  # how long each agent thinks


@dataclass(frozen=True)
class Port:
    change: Change
    language: str
    feedback: str = ""


@dataclass(frozen=True)
class Patch:
    language: str
    diff: str
    summary: str


@dataclass(frozen=True)
class Verdict:
    approved: bool
    feedback: str = ""


@dataclass(frozen=True)
class Ported:
    patches: list[Patch]
    branch: str
    rounds: int


@workflow
async def port_to(ctx: Context, job: Port) -> Patch:
    """Port the change to one language: an agent in a box of its own, which calls back when it is done."""
    async with ctx.box(job.language) as box:
        await box.git.clone(job.change.repository, "sdk")
        await box.files.write("agent.py", AGENT)
        done = await ctx.create_webhook("agent-done")
        await start_agent(box, job, done.url)
        # From here on nothing of ours runs: the agent works by itself, also while this process is dead.
        call = await ctx.wait_for_webhook("agent", done, timeout="10m")
        return Patch(job.language, await box.git.diff(path="sdk"), summary=call.json()["summary"])


@workflow
async def port_everywhere(ctx: Context, change: Change) -> Ported:
    """Port the change to every language, until a person is content with it; then publish it."""
    rounds, verdict = 0, Verdict(approved=False)
    while not verdict.approved:
        rounds += 1
        jobs = [Port(change, language, verdict.feedback) for language in LANGUAGES]
        patches = await asyncio.gather(*(ctx.invoke(f"port-{job.language}", port_to, job) for job in jobs))
        verdict = await ctx.wait_for_event("review", review_id(ctx.run_id, rounds), type=Verdict, timeout="3d")
    branch = await ctx.run("publish", publish, change, patches)
    return Ported(patches, branch, rounds)


async def start_agent(box: Box, job: Port, webhook_url: str) -> None:
    """Start the agent in the background: the command ends at once, the agent goes on in its box."""
    # A step runs twice if the process dies before its outcome is recorded. The agent knows that: see agent.py.
    await box.files.write("task.json", json.dumps({**asdict(job), "webhook_url": webhook_url}))
    await box.exec.command(f'nohup {PYTHON} "$PWD/agent.py" >agent.log 2>&1 </dev/null &', check=True)


def publish(change: Change, patches: list[Patch]) -> str:
    """Make a branch with a commit for each language. Done twice it is the same branch, as a step must be."""
    branch = f"port-{change.commit[:8]}"
    make_branch(Path(change.repository), branch, change.commit, {patch.summary: patch.diff for patch in patches})
    return branch


def review_id(run_id: str, rounds: int) -> str:
    """The event that answers one round: an answer that is sent twice must not answer the next round too."""
    return f"review/{run_id}/{rounds}"
