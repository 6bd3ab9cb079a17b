"""Bug 7, a cancel in the middle of an agent: it lives elsewhere, and nobody tells it to stop."""

from __future__ import annotations

import pytest

from boxflow import Context, workflow
from boxflow.testing import Explored, ExploreError, World, explore


class Agents:
    """A service that runs agents, and sends a bill for each minute."""

    def __init__(self) -> None:
        self.at_work: set[str] = set()

    def start(self, url: str) -> str:
        self.at_work.add(url)
        return url

    def stop(self, url: str) -> None:
        self.at_work.discard(url)


@workflow(name="port")
async def port_with_the_bug(ctx: Context, _: None) -> str:
    hook = await ctx.create_webhook("agent-done")
    agent = await ctx.run("start", Agents().start, hook.url)
    try:
        call = await ctx.wait_for_webhook("agent", hook, timeout="1h")
    except Exception:
        await ctx.run("stop", Agents().stop, agent)
        raise
    await ctx.run("stop", Agents().stop, agent)
    return call.text


@workflow(name="port")
async def port(ctx: Context, _: None) -> str:
    hook = await ctx.create_webhook("agent-done")
    try:
        await ctx.run("start", Agents().start, hook.url)
        return (await ctx.wait_for_webhook("agent", hook, timeout="1h")).text
    finally:
        # Also on a cancel, which is no `Exception`; and when the start itself was cancelled, and perhaps happened.
        await ctx.run("stop", Agents().stop, hook.url)


def script(world: World, agents: Agents) -> None:
    world.replace("start", agents.start)
    world.replace("stop", agents.stop)
    world.when_waiting("agent", b"done")


def no_agent_is_left(explored: Explored[str, Agents]) -> None:
    assert not explored.outside.at_work, "an agent is left at work"


async def test_explore_finds_the_agent_that_goes_on_after_a_cancel() -> None:
    with pytest.raises(ExploreError, match=r"(?s)an agent is left at work.*the run is cancelled"):
        await explore(port_with_the_bug, None, script, outside=Agents, check=no_agent_is_left)


async def test_an_agent_that_is_stopped_in_finally_never_goes_on_alone() -> None:
    await explore(port, None, script, outside=Agents, check=no_agent_is_left, seeds=40)
