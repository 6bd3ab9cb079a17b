"""More runs wait than an engine looks at when it starts: the rest is taken up while it works already."""

from __future__ import annotations

from collections.abc import Sequence

from behaviour.manual_clock import ManualClock
from behaviour.support import Machine, eventually

from boxflow import Context, RunStatus, workflow
from boxflow.errors import RunNotFoundError
from boxflow.model import Head, RunRecord, Value
from boxflow.ports import RunQuery, StoredRun
from boxflow_backends.memory_store import MemoryStore

RUNS = 2500


@workflow
async def napping(ctx: Context, payload: None) -> str:
    await ctx.sleep("nap", 100)
    return "woken"


async def sleepers(store: MemoryStore, clock: ManualClock) -> None:
    """Runs as an engine leaves them that stops while they sleep."""
    async with store:
        for number in range(RUNS):
            record = RunRecord(
                run_id=f"r{number:04}",
                workflow="napping",
                payload=Value(b"null"),
                created_at=clock.now(),
                start_at=clock.now(),
            )
            head = Head(status=RunStatus.WAITING, due=clock.now() + 100, updated_at=clock.now())
            await store.create_run(record, head)


async def test_all_of_them_are_woken() -> None:
    clock, store = ManualClock(), MemoryStore()
    await sleepers(store, clock)

    async with Machine(lambda: store).running(napping, clock=clock) as engine:
        clock.advance(101)

        async def are_over() -> bool:
            return not await store.find_runs(RunQuery(statuses=frozenset({RunStatus.WAITING}), limit=1))

        await eventually(are_over)
        assert await (await engine.get("r0000")).result() == "woken"
        assert await (await engine.get(f"r{RUNS - 1:04}")).result() == "woken"


class Pruning(MemoryStore):
    """Somebody deletes the last run of each page before the next one is asked for."""

    deleted = 0

    async def find_runs(self, query: RunQuery) -> Sequence[StoredRun]:
        if query.after is not None and query.statuses == {RunStatus.WAITING} and not self.deleted:
            self.deleted += 1
            await self.delete_run(query.after)
            raise RunNotFoundError(query.after)
        return await super().find_runs(query)


async def test_a_run_that_is_pruned_meanwhile_hides_no_other() -> None:
    clock, store = ManualClock(), Pruning()
    await sleepers(store, clock)

    async with Machine(lambda: store).running(napping, clock=clock) as engine:
        clock.advance(101)
        assert await (await engine.get("r0000")).result() == "woken"
        assert store.deleted == 1
