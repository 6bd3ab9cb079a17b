"""Why does a run not go on? What it waits for, in the words of the test's author, and what would help."""

from __future__ import annotations

from boxflow.hub import Hub
from boxflow.journal import ChildCall, MailWait, Operation, SleepCall, StepCall, location
from boxflow.model import RunStatus
from boxflow.ports import RunQuery, StoredRun
from boxflow.testing.errors import StuckError
from boxflow.testing.stand_ins import StandIns

_ALIVE = frozenset({RunStatus.PENDING, RunStatus.RUNNING, RunStatus.WAITING})


async def stuck_error(hub: Hub, stand_ins: StandIns, run_id: str, *, time_jumps: bool) -> StuckError | None:
    """Why the run does not go on; None when it is over."""
    stored = await hub.store.get_run(run_id)
    if stored is None or stored.head.status not in _ALIVE:
        return None
    lines = [f"run {run_id!r} of {stored.record.workflow!r} cannot go on: nothing that it waits for will come"]
    alive = await hub.store.find_runs(RunQuery(statuses=_ALIVE))
    # The run itself first, then what else has not ended: the cause is often in a child.
    for each in sorted(alive, key=lambda other: other.record.run_id != run_id):
        lines += [f"  {line}" for line in _waits(hub, each)]
    unused = [*stand_ins.answers.unused, *stand_ins.replaced.unused]
    if unused:
        lines.append(f"  Not used so far: {', '.join(map(repr, unused))}; is a name written wrongly?")
    if not time_jumps:
        lines.append("  Time stands still in this world (jumps=False): `await world.advance(...)` lets it pass")
    return StuckError("\n".join(lines), run_id=run_id)


def _waits(hub: Hub, stored: StoredRun) -> list[str]:
    run_id = stored.record.run_id
    runner = hub.resident(run_id)
    if runner is None:
        waits = ", ".join(stored.head.waiting) or "its start"
        return [f"{run_id!r} waits for {waits}"]
    execution = runner.execution
    places = [place for task in execution.loop.tasks() if (place := location(task.get_coro())) is not None]
    pending = list(execution.journal.pending.values())
    lines = [f"{run_id!r} {_wait(operation)}" for operation in pending]
    lines = lines or [f"{run_id!r} waits for nothing that can come: no step, timer, event, webhook or child"]
    return [*lines, *(f"    at {place}" for place in places)]


def _wait(operation: Operation) -> str:
    name = operation.key[0]
    match operation:
        case MailWait(kind="event"):
            return (
                f"waits for event {operation.subject!r}: `world.when_waiting({name!r}, ...)` answers it, "
                f"`await world.notify({operation.subject!r}, ...)` sends it, and `timeout=` bounds the wait"
            )
        case MailWait():
            return (
                f"waits for a call of webhook {operation.subject!r}: `world.when_waiting({name!r}, b'...')` answers "
                "it, and `timeout=` bounds the wait"
            )
        case ChildCall():
            return f"waits for its child {operation.child_id!r}"
        case SleepCall():
            return f"sleeps ({name!r})"
        case StepCall():
            return f"is in step {name!r}, which waits for something that neither time nor this world brings"
        case _:
            return f"waits for {operation}"
