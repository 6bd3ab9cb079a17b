"""What can be wrong with a scripted world? Errors for the author of the test, not for the workflow."""

from __future__ import annotations

from boxflow.errors import BoxflowError, NonRetryableError, SandboxError


class WorldError(BoxflowError, AssertionError):
    """A scripted world was used in a way that cannot work, or does not hold what a test says of it."""


class StuckError(WorldError, TimeoutError):
    """A run waits for something that will never come, however much time passes.

    :ivar run_id: the run that somebody waits for
    """

    def __init__(self, message: str, *, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class UnansweredError(NonRetryableError, SandboxError, LookupError):
    """The script has no answer to something that a workflow does. No other attempt of a step is made for it."""
