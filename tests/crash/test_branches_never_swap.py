"""Parallel branches that call steps of one name, in every order: each gets its own results, also after a crash.

DBOS numbers the calls of a workflow in the order in which they happen to run, and Absurd counts equal names the same
way: when a retry or another completion order changes that order on replay, one branch is handed what another one had
computed. Here an outcome belongs to a name and an occurrence, and the order of calls follows from the journal alone.
"""

from __future__ import annotations

import asyncio
import itertools
from random import Random

import attrs
import msgspec
import pytest

from boxflow import Context, Engine, Retry, RunStatus, step, workflow
from boxflow.model import StepDone
from boxflow_backends.memory_store import MemoryStore
from tests.crash import plans
from tests.crash.recorded_store import Appended
from tests.crash.schedules import Past, Schedule, crash_and_replay, live_once

BRANCHES = 4
CALLS = 3


def fetch_all(failures: int) -> plans.Node:
    """Branches that call the step "fetch" again and again, at paces of their own."""
    branch = plans.Sequence(
        tuple(plans.Step("fetch", failures=min(failures, number), attempts=3) for number in range(CALLS))
    )
    return plans.Gather((branch,) * BRANCHES)


@pytest.mark.parametrize("failures", [0, 1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_each_branch_gets_its_own_results_after_a_crash_at_every_write(seed: int, failures: int) -> None:
    schedule = Schedule(msgspec.json.encode(fetch_all(failures)).decode(), (), seed, slow_disk=seed % 2 == 1)
    own = [[f".{branch}.{call}" for call in range(CALLS)] for branch in range(BRANCHES)]
    # `crash_and_replay` compares every later result with the first one, and looks at what each single call got.
    assert msgspec.json.decode(live_once(schedule).result) == own
    assert crash_and_replay(schedule, crashes=8).status is RunStatus.COMPLETED


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_each_branch_gets_its_own_results_in_every_order_of_completion(order: tuple[int, ...]) -> None:
    gates = {branch: asyncio.Event() for branch in range(3)}

    async def fetch(branch: int, call: int) -> str:
        if call == 0:
            await gates[branch].wait()
            if step().attempt == 1 and branch == 1:
                raise ConnectionError("again")
        return f"{branch}/{call}"

    @workflow
    async def branches(ctx: Context, payload: None) -> list[list[str]]:
        async def branch(number: int) -> list[str]:
            return [await ctx.run("fetch", fetch, number, call, retry=Retry(delay=0.0)) for call in range(3)]

        return list(await asyncio.gather(*map(branch, range(3))))

    store = MemoryStore()
    # Every engine goes on from what the one before it has left, and ends after one more branch was let go on.
    for number in order:
        async with Engine([branches], store=store, max_resident_runs=0) as engine:
            run = await engine.start(branches, None, run_id="r")
            gates[number].set()
            async for outcome in run.watch():
                if isinstance(outcome, StepDone) and outcome.data == f"{number}/0":
                    break
    async with Engine([branches], store=store) as engine:
        result = await (await engine.get("r")).result()
    assert result == [[f"{number}/{call}" for call in range(3)] for number in range(3)]


def test_the_swap_would_be_seen() -> None:
    """The check itself: a journal in which two outcomes were exchanged is caught by the body that reads it."""
    schedule = Schedule(msgspec.json.encode(fetch_all(0)).decode(), (), Random(0).randrange(100))
    life = live_once(schedule)
    past = life.past_at(len(life.store.writes) - 1)
    with pytest.raises(AssertionError, match="Swapped"):
        live_once(schedule, exchange_two_values(past))


def exchange_two_values(past: Past) -> Past:
    """*past*, with the values of its first two steps exchanged."""
    writes = list(past.writes)
    places = [
        (number, place, outcome)
        for number, write in enumerate(writes)
        if isinstance(write, Appended)
        for place, outcome in enumerate(write.outcomes)
        if isinstance(outcome, StepDone)
    ][:2]
    values = [outcome.value for _, _, outcome in places]
    for (number, place, outcome), value in zip(places, reversed(values), strict=True):
        write = writes[number]
        assert isinstance(write, Appended)
        outcomes = list(write.outcomes)
        outcomes[place] = msgspec.structs.replace(outcome, value=value)
        writes[number] = attrs.evolve(write, outcomes=tuple(outcomes))
    return attrs.evolve(past, writes=tuple(writes), law={})
