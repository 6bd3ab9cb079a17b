"""Unit tests of a workflow with an agent and a person: no network, no agent program, and three days take no time.

pytest examples/unit_test_offline.py
"""

from dataclasses import dataclass

import pytest

from boxflow import Context, Retry, RunFailedError, workflow
from boxflow.testing import START, World, run_workflow

REPOSITORY = "https://example.org/sdk.git"


# --- what is tested: in life it stands in your application ---------------------------------------------------------


@dataclass
class Patch:
    title: str


@dataclass
class Verdict:
    approved: bool
    feedback: str = ""


async def open_pull_request(title: str, diff: str) -> str:
    raise AssertionError("no test opens a pull request")


@workflow
async def port(ctx: Context, language: str) -> str:
    feedback = ""
    async with ctx.box("porter", agent="claude-code") as box:
        await box.git.clone(REPOSITORY)
        while True:
            run = await box.agent.run(f"Port it to {language}. {feedback}", schema=Patch, timeout="2h")
            tests = await box.exec.command("make test")
            if not tests.ok:
                feedback = f"The tests fail: {tests.stdout}"
                continue
            verdict = await ctx.wait_for_event("review", f"review-{language}", type=Verdict, timeout="7d")
            if verdict.approved:
                break
            feedback = verdict.feedback
        diff = await box.git.diff()
    return await ctx.run("open", open_pull_request, run.result.title, diff, retry=Retry(attempts=3, delay="1h"))


# --- its tests -----------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.anyio  # The plugin of anyio, which boxflow brings along, runs coroutine tests.


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def script(world: World) -> None:
    """A day on which everything goes well."""
    world.sandbox.repository(REPOSITORY, {"api.py": "VERSION = 1\n"})
    world.sandbox.on("make test", delay="10m")
    world.agent.on("Port it to *", result=Patch("Ported"), edits={"api.go": "package api\n"}, delay="1h")
    world.when_waiting("review", Verdict(approved=True), after="3d")
    world.replace("open", lambda title, diff: f"{title}: {diff.count('+package')} file")


async def test_what_is_approved_after_three_days_is_opened(boxflow: World) -> None:
    script(boxflow)
    assert await boxflow.run(port, "go") == "Ported: 1 file"
    assert (boxflow.now - START).days == 3
    assert boxflow.boxes_left == []


async def test_feedback_of_the_tests_and_of_the_person_reaches_the_agent(boxflow: World) -> None:
    script(boxflow)
    boxflow.sandbox.on("make test", exit_code=1, stdout="api_test.go:7", times=1)
    verdicts = iter([Verdict(approved=False, feedback="Shorter."), Verdict(approved=True)])
    boxflow.when_waiting("review", lambda: next(verdicts))
    await boxflow.run(port, "go")
    assert [task.prompt for task in boxflow.agent.tasks] == [
        "Port it to go. ",
        "Port it to go. The tests fail: api_test.go:7",
        "Port it to go. Shorter.",
    ]


async def test_a_forge_that_is_down_is_asked_again(boxflow: World) -> None:
    script(boxflow)
    boxflow.replace("open", ConnectionError("the forge is down"))
    run = await boxflow.start(port, "go")
    with pytest.raises(RunFailedError, match="the forge is down"):
        await run.result()
    assert [call.attempt for call in boxflow.calls("open")] == [1, 2, 3]


async def test_a_review_that_nobody_gives_ends_the_run_after_a_week(boxflow: World) -> None:
    script(boxflow)
    boxflow.when_waiting("review", Verdict(approved=True), after="8d")
    with pytest.raises(RunFailedError, match="'review'"):
        await boxflow.run(port, "go")
    assert boxflow.boxes_left == []


def test_a_workflow_is_run_without_a_fixture_too() -> None:
    assert run_workflow(port, "ruby", script) == "Ported: 1 file"
