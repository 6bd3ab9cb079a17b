"""Write plain asyncio. boxflow makes it durable, and gives it boxes to run agents in.

A **Workflow** is an ordinary async function whose steps, waits and timers survive crashes. A **Box** is an isolated
environment with commands, files, git and coding agents. Read on in this order: `model`, `journal`, `loop`, `execution`,
`context`, `runner`, `hub`, `engine`, `boxes`.
"""

import importlib
from typing import TYPE_CHECKING

from boxflow.context import Context, StepInfo, step
from boxflow.engine import Engine
from boxflow.errors import (
    AgentError,
    BoxflowError,
    ChildFailedError,
    NestedStepError,
    NonRetryableError,
    NotDurableError,
    RetryAfterError,
    RunCancelledError,
    RunDivergedError,
    RunFailedError,
    StepFailedError,
    StepInterruptedError,
    StepTimeoutError,
    WaitTimeoutError,
)
from boxflow.mail import Notified, Webhook, WebhookRequest
from boxflow.model import Failure, Outcome, RunStatus
from boxflow.retry import Retry
from boxflow.runs import Run
from boxflow.web import Response
from boxflow.workflow import RunFailure, Workflow, workflow

if TYPE_CHECKING:
    from boxflow.agent_config import AgentConfig
    from boxflow.boxes import (
        AgentRun,
        Box,
        Boxes,
        BoxSpec,
        BoxStatus,
        Egress,
        ExecResult,
        FileInfo,
        GitAuth,
        Job,
        JobInfo,
        JobStatus,
        OutputChunk,
        Session,
        Snapshot,
        TerminalSize,
    )

__version__ = "0.1.0"

__all__ = [
    "AgentConfig",
    "AgentError",
    "AgentRun",
    "Box",
    "BoxSpec",
    "BoxStatus",
    "Boxes",
    "BoxflowError",
    "ChildFailedError",
    "Context",
    "Egress",
    "Engine",
    "ExecResult",
    "Failure",
    "FileInfo",
    "GitAuth",
    "Job",
    "JobInfo",
    "JobStatus",
    "NestedStepError",
    "NonRetryableError",
    "NotDurableError",
    "Notified",
    "Outcome",
    "OutputChunk",
    "Response",
    "Retry",
    "RetryAfterError",
    "Run",
    "RunCancelledError",
    "RunDivergedError",
    "RunFailedError",
    "RunFailure",
    "RunStatus",
    "Session",
    "Snapshot",
    "StepFailedError",
    "StepInfo",
    "StepInterruptedError",
    "StepTimeoutError",
    "TerminalSize",
    "WaitTimeoutError",
    "Webhook",
    "WebhookRequest",
    "Workflow",
    "step",
    "workflow",
]

if not TYPE_CHECKING:  # Type checkers would take any name to be there.

    def __getattr__(name: str) -> object:
        # The box half, which is loaded when one of its names is first asked for.
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = "boxflow.agent_config" if name == "AgentConfig" else "boxflow.boxes"
        value = getattr(importlib.import_module(module), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
