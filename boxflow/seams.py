"""Where may a test kit stand between an engine and the world? The Protocol `Seams`; in life there is none.

An engine asks its seams, where it has some, before it acts: what runs as a step or as a child, who hears of a wait, who
answers an HTTP request. Whatever they answer goes the way that it goes in life: journal first, then the body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from boxflow.journal import MailWait, StepCall
from boxflow.model import RunRecord
from boxflow.web import Response
from boxflow.workflow import Workflow


class Seams(Protocol):
    """What stands in for the world."""

    def workflow(self, workflow: Workflow[Any, Any] | str, version: str | None) -> Workflow[Any, Any] | None:
        """A workflow to be registered before it is looked for; None where there is none."""
        ...

    def body(self, record: RunRecord, found: Workflow[Any, Any]) -> Workflow[Any, Any]:
        """What runs as that run: *found*, or something of its name and version in its place."""
        ...

    def function(self, run_id: str, call: StepCall, number: int) -> Callable[..., Any]:
        """What is called for attempt *number* of a step: `call.fn`, or something in its place."""
        ...

    def begun(self, run_id: str, wait: MailWait) -> None:
        """A run in memory has begun to wait."""
        ...

    def followed(self, run_id: str) -> None:
        """Somebody begins to wait for news of that run, or looks at it again.

        :raises Exception: there will be none
        """
        ...

    def jitter(self) -> float:
        """A random number in [0, 1), for pauses between attempts."""
        ...

    async def call(self, url: str, method: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        """The answer to an HTTP request: of `ctx.call`, or of the engine itself, which tells what an agent did."""
        ...
