"""Bug 5, an approval that comes first: it was meant for the draft before, and is taken for the next one."""

from __future__ import annotations

import attrs
import pytest

from boxflow import Context, workflow
from boxflow.testing import Explored, ExploreError, World, explore


@attrs.frozen
class Verdict:
    draft: int
    approved: bool


@attrs.frozen
class Published:
    draft: int
    approved: int


def write(number: int) -> int:
    return number


@workflow(name="publish")
async def publish_with_the_bug(ctx: Context, _: None) -> Published:
    number = 0
    while True:
        number += 1
        await ctx.run("draft", write, number)
        verdict = await ctx.wait_for_event("review", "review", type=Verdict)
        if verdict.approved:
            return Published(draft=number, approved=verdict.draft)


@workflow(name="publish")
async def publish(ctx: Context, _: None) -> Published:
    number = 0
    while True:
        number += 1
        await ctx.run("draft", write, number)
        # An id of its own: what is said of one draft is never taken for another.
        verdict = await ctx.wait_for_event("review", f"review-{number}", type=Verdict)
        if verdict.approved:
            return Published(draft=number, approved=verdict.draft)


def script(world: World) -> None:
    def review() -> Verdict:
        seen = len(world.calls("draft"))
        return Verdict(draft=seen, approved=seen >= 2)

    world.when_waiting("review", review)


def what_is_published_was_approved(explored: Explored[Published, None]) -> None:
    if explored.result is not None:
        assert explored.result.draft == explored.result.approved, f"{explored.result}"


async def test_explore_finds_an_approval_that_was_sent_twice_and_counts_for_the_next_draft() -> None:
    with pytest.raises(ExploreError, match=r"(?s)Published\(draft=3, approved=2\).*'review' is sent again"):
        await explore(publish_with_the_bug, None, script, check=what_is_published_was_approved)


async def test_with_an_id_for_each_draft_only_its_own_approval_counts() -> None:
    await explore(publish, None, script, check=what_is_published_was_approved, seeds=30)
