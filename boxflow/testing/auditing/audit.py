"""How is every run of an engine audited?"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from boxflow.context import Services
from boxflow.engine import Engine
from boxflow.loop import WorkflowLoop
from boxflow.model import RunRecord
from boxflow.testing.auditing.audited_execution import AuditedExecution, AuditError
from boxflow.workflow import Workflow


class Audit:
    """Audits the runs of one engine.

    A finding makes its run diverge, with the finding as its error: `result()` raises it.

    :ivar findings: what was found, in order
    """

    def __init__(self) -> None:
        self.findings: list[AuditError] = []
        self._executions: weakref.WeakSet[AuditedExecution] = weakref.WeakSet()

    def attach(self, engine: Engine) -> None:
        """Audit every run that *engine* brings into memory from now on."""
        engine._hub.execution_type = self._execution  # noqa: SLF001 # the engine's seam for test kits  # pyright: ignore[reportPrivateUsage] # likewise

    def look_at_what_waits(self) -> list[AuditError]:
        """Look closely at the runs in memory that have not ended; return all findings."""
        for execution in list(self._executions):
            try:
                execution.look_closely()
            except AuditError:
                continue  # It is among the findings.
        return self.findings

    def _execution(
        self,
        record: RunRecord,
        workflow: Workflow[Any, Any],
        payload: Any,
        services: Services,
        *,
        drain: Callable[[WorkflowLoop], None] = WorkflowLoop.drain,
    ) -> AuditedExecution:
        execution = AuditedExecution(record, workflow, payload, services, drain=drain, found=self.findings.append)
        self._executions.add(execution)
        return execution
