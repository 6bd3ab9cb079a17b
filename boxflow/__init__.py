"""Write plain asyncio. boxflow makes it durable, and gives it boxes to run agents in.

A **Workflow** is an ordinary async function whose steps, waits and timers survive crashes. A **Box** is an isolated
environment with exec, files and git. Read on in this order: `model`, `journal`, `loop`, `execution`, `context`,
`runner`, `hub`, `engine`, `boxes`.
"""

from boxflow.boxes import Box, Boxes, BoxSpec, BoxStatus, ExecResult, FileInfo
from boxflow.context import Context, StepInfo, step
from boxflow.engine import Engine
from boxflow.errors import (
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

__version__ = "0.1.0"

__all__ = [
    "Box",
    "BoxSpec",
    "BoxStatus",
    "Boxes",
    "BoxflowError",
    "ChildFailedError",
    "Context",
    "Engine",
    "ExecResult",
    "Failure",
    "FileInfo",
    "NestedStepError",
    "NonRetryableError",
    "NotDurableError",
    "Notified",
    "Outcome",
    "Response",
    "Retry",
    "RetryAfterError",
    "Run",
    "RunCancelledError",
    "RunDivergedError",
    "RunFailedError",
    "RunFailure",
    "RunStatus",
    "StepFailedError",
    "StepInfo",
    "StepInterruptedError",
    "StepTimeoutError",
    "WaitTimeoutError",
    "Webhook",
    "WebhookRequest",
    "Workflow",
    "step",
    "workflow",
]
