"""Boxes: isolated environments with exec, files and git, usable in a workflow body, in a step, or alone.

async with Boxes("local:") as boxes, boxes.create("demo") as box:
    await box.git.clone("https://example.org/project.git")
    result = await box.exec.command("make test", timeout="10m")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from boxflow.boxes.box import Box
from boxflow.boxes.calls import DurableCall, DurableCaller, durable_call
from boxflow.boxes.collection import Boxes, PendingBox, make_box
from boxflow.boxes.models import Models, with_way
from boxflow.boxes.options import BoxOptions, box_spec
from boxflow.boxes.orphans import ENGINE_LABEL, OWNER_LABEL, delete_orphans, this_process
from boxflow.boxes.snapshots import Snapshot
from boxflow.ports import BoxInfo, BoxSpec, BoxStatus, Egress, FileInfo, TerminalSize

if TYPE_CHECKING:
    from boxflow.boxes.agent import (
        AGENT_STEP,
        Agent,
        AgentDelivery,
        AgentKeeper,
        AgentStream,
        RunOptions,
        finish_delivery,
    )
    from boxflow.boxes.agent_run import AgentRun, AgentStatus, RunRecord, RunUsage
    from boxflow.boxes.command import DEFAULT_TIMEOUT_S, ExecResult
    from boxflow.boxes.exec import Exec
    from boxflow.boxes.files import Files
    from boxflow.boxes.git import Git, GitChange, GitStatus
    from boxflow.boxes.git_auth import GitAuth
    from boxflow.boxes.jobs import Job, JobInfo, JobOutput, Jobs
    from boxflow.boxes.session import PendingSession, Session
    from boxflow.boxes.stream import ExecStream, OutputChunk
    from boxflow.boxes.watched import JobStatus

__all__ = [
    "AGENT_STEP",
    "DEFAULT_TIMEOUT_S",
    "ENGINE_LABEL",
    "OWNER_LABEL",
    "Agent",
    "AgentDelivery",
    "AgentKeeper",
    "AgentRun",
    "AgentStatus",
    "AgentStream",
    "Box",
    "BoxInfo",
    "BoxOptions",
    "BoxSpec",
    "BoxStatus",
    "Boxes",
    "DurableCall",
    "DurableCaller",
    "Egress",
    "Exec",
    "ExecResult",
    "ExecStream",
    "FileInfo",
    "Files",
    "Git",
    "GitAuth",
    "GitChange",
    "GitStatus",
    "Job",
    "JobInfo",
    "JobOutput",
    "JobStatus",
    "Jobs",
    "Models",
    "OutputChunk",
    "PendingBox",
    "PendingSession",
    "RunOptions",
    "RunRecord",
    "RunUsage",
    "Session",
    "Snapshot",
    "TerminalSize",
    "box_spec",
    "delete_orphans",
    "durable_call",
    "finish_delivery",
    "make_box",
    "this_process",
    "with_way",
]

# What is done in boxes, by the module that has it. It is loaded when one of its names is first asked for: together they
# took a fifth of the time of `import boxflow`, and a program without boxes or agents needs none of them.
_MODULES = {
    "AGENT_STEP": "agent",
    "Agent": "agent",
    "AgentDelivery": "agent",
    "AgentKeeper": "agent",
    "AgentRun": "agent_run",
    "AgentStatus": "agent_run",
    "AgentStream": "agent",
    "DEFAULT_TIMEOUT_S": "command",
    "Exec": "exec",
    "ExecResult": "command",
    "ExecStream": "stream",
    "Files": "files",
    "Git": "git",
    "GitAuth": "git_auth",
    "GitChange": "git",
    "GitStatus": "git",
    "Job": "jobs",
    "JobInfo": "jobs",
    "JobOutput": "jobs",
    "JobStatus": "watched",
    "Jobs": "jobs",
    "OutputChunk": "stream",
    "PendingSession": "session",
    "RunOptions": "agent",
    "RunRecord": "agent_run",
    "RunUsage": "agent_run",
    "Session": "session",
    "finish_delivery": "agent",
}

if not TYPE_CHECKING:  # Type checkers would take any name to be there.

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value  # So that it is asked for once.
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
