"""A crash after each single write: whatever the last thing was that reached the disk, the run goes on rightly."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from boxflow import RunStatus
from tests.crash import plans
from tests.crash.plans import Node
from tests.crash.schedules import Message, Schedule, crash_and_replay, generate

BRANCHES = (
    plans.Step("a", failures=1, attempts=3),
    plans.Sequence((plans.Step("a"), plans.Sleep(1.0), plans.Step("b"))),
    plans.Step("b", failures=2, attempts=3),
)

PLANS: dict[str, tuple[Node, tuple[Message, ...]]] = {
    "gather": (plans.Gather(BRANCHES), ()),
    "first completed": (plans.First(BRANCHES), ()),
    "as completed": (plans.AsTheyCome(BRANCHES), ()),
    "task group": (plans.Group(BRANCHES), ()),
    "anyio task group": (plans.Group(BRANCHES, "anyio"), ()),
    "queue": (plans.Handoff(BRANCHES), ()),
    "memory stream": (plans.Handoff(BRANCHES, "anyio"), ()),
    "lock": (plans.Locked(BRANCHES), ()),
    "timeout": (plans.Deadline(1.0, plans.Gather(BRANCHES)), ()),
    "wait_for": (plans.Deadline(1.0, plans.Gather(BRANCHES), "wait_for"), ()),
    "move_on_after": (plans.Deadline(1.0, plans.Gather(BRANCHES), "move_on_after"), ()),
    "finally": (
        plans.Deadline(1.0, plans.Guarded(plans.Gather(BRANCHES), plans.Step("undo", failures=1, attempts=2))),
        (),
    ),
    "finally in a group in a scope": (
        plans.Deadline(
            1.0, plans.Group((plans.Guarded(plans.Sleep(30.0), plans.Step("undo")), plans.Step("a"))), "move_on_after"
        ),
        (),
    ),
    "at most once": (plans.Gather((plans.Tolerant(plans.Step("a", at_most_once=True)), plans.Step("a"))), ()),
    "patched": (plans.Gather((plans.Step("a"), plans.Patched("p", plans.Step("b"), plans.Step("c")))), ()),
    "events": (
        plans.Gather((plans.Event("e"), plans.Event("e"), plans.Event("f", 5.0))),
        (Message("event", "e"), Message("event", "e"), Message("mail", "f"), Message("mail", "f")),
    ),
    "webhooks": (
        plans.Sequence((plans.Hook("h"), plans.Step("a"), plans.Hook("h"))),
        (Message("webhook", "h"), Message("webhook", "h"), Message("webhook", "h#2")),
    ),
    "notify": (plans.Gather((plans.Notify("e"), plans.Event("e"), plans.Notify("e"), plans.Event("e"))), ()),
    "children": (
        plans.Gather((plans.Invoke("x", plans.Gather(BRANCHES)), plans.Invoke("y", plans.Sequence(BRANCHES)))),
        (),
    ),
    "failing child": (plans.Tolerant(plans.Invoke("x", plans.Sequence((plans.Step("a"), plans.Fail())))), ()),
    "child past a deadline": (plans.Deadline(1.0, plans.Invoke("x", plans.Gather(BRANCHES))), ()),
    "cancel": (plans.Guarded(plans.Gather(BRANCHES), plans.Step("undo")), (Message("cancel"),)),
    "cancel of children": (
        plans.Group((plans.Invoke("x", plans.Guarded(plans.Event("e"), plans.Step("undo"))), plans.Step("a"))),
        (Message("cancel"),),
    ),
    "cancel by itself": (plans.Gather((plans.Sequence((plans.Step("a"), plans.CancelSelf())), *BRANCHES)), ()),
    "failure": (plans.Gather((plans.Sequence((plans.Step("a"), plans.Fail())), *BRANCHES)), ()),
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("slow_disk", [False, True], ids=["fast disk", "slow disk"])
def test_a_run_goes_on_rightly_after_a_crash_at_every_write(name: str, slow_disk: bool) -> None:
    plan, messages = PLANS[name]
    text = msgspec.json.encode(plan).decode()
    for seed in range(3):
        crash_and_replay(Schedule(text, messages, seed, slow_disk))


def test_a_random_run_goes_on_rightly_after_a_crash_at_every_write() -> None:
    for seed in range(20):
        crash_and_replay(generate(Random(f"every {seed}")))


@pytest.mark.slow
@pytest.mark.thorough
def test_many_random_runs_go_on_rightly_after_a_crash_at_every_write() -> None:
    ends = {crash_and_replay(generate(Random(f"every {seed}"))).status for seed in range(20, 80)}
    assert ends == {RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED}
