"""Does code still fit a history? The body is rebuilt from the journal, as after a restart, and nothing is executed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from boxflow.box_keeper import box_id_for
from boxflow.boxes import Box, Boxes, BoxSpec, with_way
from boxflow.codec import decode_value
from boxflow.errors import DecodeError, DivergenceError, NotDurableError, RunDivergedError, WorkflowNotFoundError
from boxflow.execution import Execution
from boxflow.failure import failure_of
from boxflow.history_file import History
from boxflow.mail import Notified, Webhook, WebhookCheck, make_token
from boxflow.model import Failure, Outcome, RunStatus, describe
from boxflow.registry import Registry
from boxflow.web import Response
from boxflow.workflow import Workflow

SHOWN_BEFORE = 3
"""How many outcomes before the one that has no place are shown."""


def replay_history(history: History, workflows: Iterable[Workflow[Any, Any]]) -> None:
    """Rebuild the body of *history* with the code of *workflows*; return when every recorded outcome has its place.

    What the code does after the last outcome, and what it returns, is no divergence: a run that stands there takes it.

    :param workflows: the run's workflow, in the version that it began with; children need not be there
    :raises RunDivergedError: the code does not fit; it says which outcome has no place, and what the code waits for
    :raises WorkflowNotFoundError: the run's workflow is not among *workflows*, or not in its version
    :raises HistoryFormatError: a value of the history is missing
    """
    registry = Registry(workflows)
    found = registry.find(history.record.workflow, history.record.version)
    delivered: list[Outcome] = []
    try:
        payload = decode_value(history.payload(), found.payload_type)
        execution = Execution(history.record, found, payload, _Services(registry))
    except DecodeError as error:
        raise _diverged(history, f"the recorded payload does not fit its type now: {error}", error) from error
    try:
        execution.settled = history.head.status is RunStatus.WAITING
        outcomes = execution.prepare(history.filled())
        execution.begin()
        for outcome in outcomes:
            execution.deliver(outcome)
            delivered.append(outcome)
    except (DivergenceError, NotDurableError) as error:
        raise _diverged(history, _difference(history, delivered, execution, error), error) from error
    finally:
        execution.evict()


def _diverged(history: History, what: str, error: Exception) -> RunDivergedError:
    run_id, name = history.record.run_id, history.record.workflow
    return RunDivergedError(
        f"the history of run {run_id!r} does not fit workflow {name!r} any more\n{what}",
        run_id=run_id,
        error=failure_of(error),
    )


def _difference(history: History, delivered: list[Outcome], execution: Execution, error: Exception) -> str:
    if not isinstance(error, DivergenceError):
        return f"after outcome {len(delivered)} the body did what no body may: {error}"
    shown = delivered[-SHOWN_BEFORE:]
    lines = [f"    {outcome.seq:>4}  {_title(outcome)}" for outcome in shown]
    if len(delivered) > len(shown):
        lines.insert(0, "     ...")
    lines.append(f"  - {error.seq:>4}  {error.recorded}")
    lines += [f"  +       {each}" for each in error.pending] or ["  +       nothing"]
    lines += [f"          at {each}" for each in error.waiting_at]
    if execution.error is not None:
        lines += [f"  The body had ended: {execution.error}", *_innermost(execution.error)]
    lines.append(
        "  - is recorded, + is what the code waits for instead. Keep the recorded call for runs that have it: "
        '`ctx.patched("...")` tells them apart, `@workflow(version=...)` keeps the old code beside the new'
    )
    return "\n".join(lines)


def _innermost(failure: Failure) -> list[str]:
    """Where an exception left the body: the line before its message."""
    places = [line.strip() for line in failure.traceback.splitlines() if line.lstrip().startswith("File ")]
    return [f"  {places[-1]}"] if places else []


def _title(outcome: Outcome) -> str:
    return f"{outcome.kind.replace('_', ' ')} {describe(outcome.name, outcome.occurrence)}"


class _Services:
    """What a context may ask while nothing is executed."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.boxes = Boxes("local:")  # Never opened: a body only makes handles with it.

    def find_workflow(self, workflow: Workflow[Any, Any] | str) -> Workflow[Any, Any]:
        try:
            return self._registry.find(workflow)
        except WorkflowNotFoundError:
            if isinstance(workflow, Workflow):
                return workflow
            raise

    def webhook(self, run_id: str, key: str, check: WebhookCheck | None) -> Webhook:
        token = make_token(b"of a replay", run_id, key, check)
        return Webhook(name=key, url=f"/webhooks/{token}", token=token)

    def box(self, box_id: str, name: str, spec: BoxSpec) -> Box:
        sandbox = self.boxes.sandbox
        return Box(sandbox, box_id=box_id, name=name, spec=with_way(spec, sandbox))

    def box_id(self, run_id: str, name: str, occurrence: int) -> str:
        return box_id_for(run_id, name, occurrence)

    async def send(self, event_id: str, data: bytes, *, run_id: str | None, source: str) -> Notified:
        _refuse()

    async def create_box(self, run_id: str, box_id: str, name: str, spec: BoxSpec) -> None:
        _refuse()

    async def delete_box(self, run_id: str, box_id: str) -> None:
        _refuse()

    async def call(
        self,
        url: str,
        method: str,
        headers: Mapping[str, str],
        json: bytes | None,
        content: bytes | None,
        timeout_s: float,
    ) -> Response:
        _refuse()


def _refuse() -> NoReturn:
    # These are asked inside steps, and a replay runs none.
    raise AssertionError("a step ran in a replay")
