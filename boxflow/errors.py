"""What went wrong, to which thing, and what to do next: every error boxflow raises.

Grouped by who acts on them. Each error keeps the data it was built from on the object; where a newcomer would catch a
builtin (`LookupError`, `TimeoutError`, `ValueError`), that builtin is the second base class.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Self


class BoxflowError(Exception):
    """The base of every error that boxflow raises."""


# --- the caller gave something that cannot work ------------------------------------------------------------------


class ConfigurationError(BoxflowError, ValueError):
    """An engine, a store or a sandbox was set up in a way that cannot work."""


class DuplicateWorkflowError(ConfigurationError):
    """Two workflows share one name and one version."""


class WorkflowNotFoundError(BoxflowError, LookupError):
    """No workflow of that name (and version) is registered with this engine."""


class RunNotFoundError(BoxflowError, LookupError):
    """The store knows no run of that id."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"no run {run_id!r} in this store; check the id, or list them with `engine.runs()`")
        self.run_id = run_id


class RunStateError(BoxflowError):
    """The run is in a status in which that cannot be done."""


class RunEndedError(RunStateError):
    """A durable call was made for a run that is over."""


class EventsFullError(BoxflowError):
    """Too many kept events: nothing waits for them and nothing consumed them."""


class PayloadTooLargeError(BoxflowError, ValueError):
    """A request body or a value is larger than the configured bound."""


class WebhookTokenError(BoxflowError, LookupError):
    """A webhook token that this engine did not issue, or whose run is gone."""

    def __init__(self) -> None:
        # The same words for a forged, a foreign and an outlived token: the sender learns nothing from the difference.
        super().__init__("unknown webhook token; ask the run for its current `webhook.url`")


class WebhookRefusedError(BoxflowError, PermissionError):
    """A call of a webhook is not from its sender, or is too old; `.reason` says which check it did not pass."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the webhook call was refused: {reason}")
        self.reason = reason


class WebhookUnverifiableError(BoxflowError):
    """A call of a webhook could not be verified, which is no fault of its sender's; `.reason` says why, to us only."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"calls of webhook {name!r} cannot be verified now; the engine's log says why, retry later")
        self.name = name
        self.reason = reason


# --- the codec ---------------------------------------------------------------------------------------------------


class CodecError(BoxflowError):
    """A value could not cross the journal."""


class EncodeError(CodecError, TypeError):
    """A value holds something that JSON cannot keep as it is."""


class DecodeError(CodecError, ValueError):
    """Recorded data does not fit the type that was asked for."""


# --- how a run ended, told to the one who awaits its result -------------------------------------------------------


class RunError(BoxflowError):
    """A run ended without a result."""

    def __init__(self, message: str, *, run_id: str, error: object = None) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.error = error


class RunFailedError(RunError):
    """An exception left the body; `.error` is the recorded failure (type, message, traceback text)."""


class RunCancelledError(RunError):
    """The run was cancelled; `.reason` says by whom or why, where that was given."""

    def __init__(self, message: str, *, run_id: str, error: object = None, reason: str | None = None) -> None:
        super().__init__(message, run_id=run_id, error=error)
        self.reason = reason


class RunTimeoutError(RunCancelledError, TimeoutError):
    """The run passed the `timeout=` of its workflow and was cancelled."""


class RunDivergedError(RunError):
    """The workflow's code no longer matches the run's journal; nothing was executed."""


# --- raised in a workflow body -----------------------------------------------------------------------------------


class StepFailedError(BoxflowError):
    """A step ended failed: its last attempt raised, and no retry is left.

    The original exception does not cross the journal. `.cause_type`, `.cause_message` and `.traceback` keep what is
    known of it as text.
    """

    def __init__(
        self,
        name: str,
        *,
        occurrence: int,
        attempts: int,
        cause_type: str,
        cause_message: str,
        traceback: str,
        seq: int,
    ) -> None:
        times = "once" if attempts == 1 else f"{attempts} times"
        super().__init__(f"step {name!r} failed (tried {times}): {cause_type}: {cause_message}")
        self.name = name
        self.occurrence = occurrence
        self.attempts = attempts
        self.cause_type = cause_type
        self.cause_message = cause_message
        self.traceback = traceback
        self.seq = seq


class StepTimeoutError(StepFailedError, TimeoutError):
    """Every attempt of a step ran into its `timeout=`, the last one included."""


class StepInterruptedError(StepFailedError):
    """An `at_most_once` step had started when the engine died; it was not run again.

    Whether its effect happened is unknown. Ask the other side, then go on.
    """


class ChildFailedError(BoxflowError):
    """A child run ended without a result; `.status` says how, `.error` why."""

    def __init__(self, name: str, *, run_id: str, status: str, error: object, seq: int) -> None:
        super().__init__(f"child {name!r} (run {run_id!r}) ended {status}: {error}")
        self.name = name
        self.run_id = run_id
        self.status = status
        self.error = error
        self.seq = seq


class WaitTimeoutError(BoxflowError, TimeoutError):
    """Nothing arrived for a wait within its `timeout=`."""

    def __init__(self, name: str, what: str, timeout_s: float) -> None:
        super().__init__(f"wait {name!r} got no {what} within {timeout_s:g} s")
        self.name = name
        self.timeout_s = timeout_s


class NestedStepError(BoxflowError, RuntimeError):
    """A durable call was made from inside a step."""


class NotDurableError(BoxflowError, RuntimeError):
    """A workflow body tried to touch the world directly; the message says what to write instead."""


class StepNotRunningError(BoxflowError, RuntimeError):
    """`step()` was called where no step runs."""


# --- raised by steps, to tell the engine what to do ----------------------------------------------------------------


class NonRetryableError(BoxflowError):
    """Raise it in a step to fail the step now, whatever its `Retry` says."""


class RetryAfterError(BoxflowError):
    """Raise it in a step to have the step tried again after *delay* (seconds, `timedelta` or `"30s"`)."""

    def __init__(self, message: str = "", delay: float | timedelta | str = 0.0) -> None:
        super().__init__(message or f"try again after {delay}")
        self.delay = delay


# --- stores ------------------------------------------------------------------------------------------------------


class StoreError(BoxflowError):
    """A store could not do what it was asked."""


class StoreLockedError(StoreError):
    """Another process owns the store."""


class StoreFailedError(StoreError, OSError):
    """A write or sync failed: the store takes nothing more until it is opened again. What it acknowledged is safe."""


class StoreCorruptError(StoreError):
    """Good records follow a bad one, or acknowledged data is missing. Nothing was changed on disk."""


class StoreFormatError(StoreError):
    """The files were written by a newer boxflow."""


class StoreClosedError(StoreError):
    """The store is not open."""


class FenceError(StoreError):
    """Another owner has taken over: this append was refused and changed nothing."""


# --- boxes -------------------------------------------------------------------------------------------------------


class SandboxError(BoxflowError):
    """A sandbox could not do what it was asked."""

    @classmethod
    def told(cls, message: str) -> Self:
        """The error again, from its recorded message, which is all that the journal keeps."""
        error = cls.__new__(cls)
        error.args = (message,)
        return error


class SandboxUnavailableError(SandboxError, ConnectionError):
    """What makes boxes does not answer (a daemon that is down, a program that is missing)."""


class BoxNotFoundError(SandboxError, LookupError):
    """No box of that id."""

    box_id = ""

    def __init__(self, box_id: str) -> None:
        super().__init__(f"no box {box_id!r}; it was deleted, or never created in this sandbox")
        self.box_id = box_id


class BoxStateError(SandboxError):
    """The box is paused or stopped; `await box.resume()` makes it go on."""


class NotSupportedError(SandboxError, ValueError):
    """The sandbox cannot do, or cannot enforce, what was asked; `Sandbox.capabilities` says what it can."""


class ImageNotFoundError(SandboxError, LookupError):
    """The image of a box is not on this machine and cannot be fetched, or its Dockerfile cannot be built."""


class SnapshotNotFoundError(SandboxError, LookupError):
    """No snapshot of that id."""

    snapshot_id = ""

    def __init__(self, snapshot_id: str) -> None:
        super().__init__(f"no snapshot {snapshot_id!r}; it was deleted, or never made in this sandbox")
        self.snapshot_id = snapshot_id


class JobNotFoundError(SandboxError, LookupError):
    """No job of that id in the box."""

    job_id = ""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id!r} in the box; start it with `box.jobs.start`, or list them")
        self.job_id = job_id


class JobLostError(SandboxError):
    """A job went away without an exit status: its box was stopped, or something ended what watched over it.

    Whether it had done its work is not known. What it wrote until then can still be read.
    """

    job_id = ""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"job {job_id!r} ended without an exit status: its box was stopped, or its watcher was killed; "
            "look at `box.jobs.logs`, then start it again under another id"
        )
        self.job_id = job_id


class BoxPathError(SandboxError, PermissionError):
    """A path that leads out of the box."""


class BoxFileNotFoundError(SandboxError, FileNotFoundError):
    """No such file in the box."""


class CommandFailedError(SandboxError):
    """A command with `check=True` exited with another status than 0; `.result` has its output."""

    def __init__(self, command: str, *, result: object, exit_code: int, stderr: str) -> None:
        tail = stderr.strip()[-500:]
        super().__init__(f"command {command!r} exited with {exit_code}" + (f": {tail}" if tail else ""))
        self.command = command
        self.exit_code = exit_code
        self.result = result


class CommandTimeoutError(SandboxError, TimeoutError):
    """A command ran past its deadline, and its whole process tree was killed.

    `.stdout` and `.stderr` keep what it wrote.
    """

    def __init__(self, command: str, timeout_s: float, *, stdout: str = "", stderr: str = "") -> None:
        super().__init__(f"command {command!r} was killed after {timeout_s:g} s")
        self.command = command
        self.timeout_s = timeout_s
        self.stdout = stdout
        self.stderr = stderr


# --- agents ------------------------------------------------------------------------------------------------------


class AgentError(BoxflowError):
    """An agent ended without a result; `.run` has what is known of its run: its text, its usage, its session."""

    def __init__(self, agent: str, what: str, run: object = None) -> None:
        super().__init__(f"agent {agent!r} {what}")
        self.agent = agent
        self.run = run
        self.text = str(getattr(run, "text", ""))


class AgentNotInstalledError(AgentError, LookupError):
    """The agent's program is not in the box."""


class AgentAuthenticationError(AgentError, PermissionError):
    """The model's host refused the key."""


class AgentUnavailableError(AgentError, ConnectionError):
    """The model gave no answer: it is down, or it was asked too often."""


class AgentBudgetError(AgentError):
    """The run was ended at the limit that was set for its cost, its tokens or its turns."""


class AgentOutputError(AgentError, ValueError):
    """The agent's answer does not fit the schema that was asked for, also not at the second try."""


class AgentTimeoutError(AgentError, TimeoutError):
    """The run passed its deadline, and everything that it had started was killed."""


# --- histories ---------------------------------------------------------------------------------------------------


class HistoryFormatError(BoxflowError, ValueError):
    """A history file that is none, is damaged, or was written by a newer boxflow."""


# --- divergence --------------------------------------------------------------------------------------------------


class DivergenceError(BoxflowError):
    """Internal to replay: a recorded outcome belongs to no operation of the code that runs now.

    The engine turns it into the run's status `diverged`; users see it as the message of `RunDivergedError`.
    """

    def __init__(self, *, recorded: str, seq: int, pending: Sequence[str], waiting_at: Sequence[str]) -> None:
        now = ", ".join(pending) or "nothing"
        where = "".join(f"\n  waits at {line}" for line in waiting_at)
        super().__init__(
            f"the journal has {recorded} at position {seq}, but the code now waits for {now}.{where}\n"
            "The code changed under this run, or is not deterministic. Nothing was executed. Deploy code that issues "
            "the recorded call again and `resume()`, or `resume(accept_divergence=True)` to skip what no longer has a "
            'place; `ctx.patched("...")` and `@workflow(version=...)` are the planned ways to change code under '
            "waiting runs"
        )
        self.recorded = recorded
        self.seq = seq
        self.pending = list(pending)
        self.waiting_at = list(waiting_at)
