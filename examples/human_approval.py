"""A person approves, days later perhaps, or sends the draft back with feedback. The process may end in between."""

import asyncio
import tempfile
from dataclasses import dataclass

from boxflow import Context, Engine, WaitTimeoutError, workflow


@dataclass(frozen=True)
class Verdict:
    approved: bool
    feedback: str = ""


def write_draft(topic: str, feedback: str) -> str:
    """A step: a plain function runs in a thread. In life, this asks a model."""
    return f"On {topic}" + (f" ({feedback})" if feedback else "")


@workflow
async def write_article(ctx: Context, topic: str) -> str:
    feedback = ""
    for _ in range(5):
        draft = await ctx.run("write", write_draft, topic, feedback)
        try:
            # Sent to this run only: engine.notify("review", ..., run_id=...). Reviews sent early are kept, in order.
            verdict = await ctx.wait_for_event("review", "review", type=Verdict, timeout="3d")
        except WaitTimeoutError:
            return f"nobody looked at {draft!r}"
        if verdict.approved:
            return draft
        feedback = verdict.feedback
    return "five drafts were not enough"


async def main() -> None:
    with tempfile.TemporaryDirectory() as state:
        async with Engine([write_article], store=f"file:{state}") as engine:
            await engine.start(write_article, "boxes", run_id="article-1")
        # The process could end here, and another one go on weeks later.
        async with Engine([write_article], store=f"file:{state}") as engine:
            run = await engine.get("article-1")
            await engine.notify("review", Verdict(approved=False, feedback="shorter"), run_id=run.id)
            await engine.notify("review", Verdict(approved=True), run_id=run.id)
            print(await run.result(timeout="10s"))
            print([outcome.name for outcome in await run.history()])


if __name__ == "__main__":
    asyncio.run(main())
