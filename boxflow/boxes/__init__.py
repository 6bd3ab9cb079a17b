"""Boxes: isolated environments with exec, files and git, usable in a workflow body, in a step, or alone.

async with Boxes("local:") as boxes, boxes.create("demo") as box:
    await box.git.clone("https://example.org/project.git")
    result = await box.exec.command("make test", timeout="10m")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

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
    from boxflow.boxes.box import Box
    from boxflow.boxes.calls import DurableCall, DurableCaller, durable_call
    from boxflow.boxes.collection import Boxes, PendingBox, make_box
    from boxflow.boxes.command import DEFAULT_TIMEOUT_S, ExecResult
    from boxflow.boxes.exec import Exec
    from boxflow.boxes.files import Files
    from boxflow.boxes.git import Git, GitChange, GitStatus
    from boxflow.boxes.git_auth import GitAuth
    from boxflow.boxes.jobs import Job, JobInfo, JobOutput, Jobs
    from boxflow.boxes.models import Models, with_way
    from boxflow.boxes.options import BoxOptions, box_spec
    from boxflow.boxes.orphans import ENGINE_LABEL, OWNER_LABEL, delete_orphans, this_process
    from boxflow.boxes.session import PendingSession, Session
    from boxflow.boxes.snapshots import Snapshot
    from boxflow.boxes.stream import ExecStream, OutputChunk
    from boxflow.boxes.watched import JobStatus
    from boxflow.ports import BoxInfo, BoxSpec, BoxStatus, Egress, FileInfo, TerminalSize

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

# Every name, by the module that has it. It is loaded when it is first asked for: all of it takes nearly half as long as
# `import boxflow`, a program without boxes or agents needs none of it, and few with them need everything.
_MODULES = {
    "AGENT_STEP": "boxflow.boxes.agent",
    "Agent": "boxflow.boxes.agent",
    "AgentDelivery": "boxflow.boxes.agent",
    "AgentKeeper": "boxflow.boxes.agent",
    "AgentRun": "boxflow.boxes.agent_run",
    "AgentStatus": "boxflow.boxes.agent_run",
    "AgentStream": "boxflow.boxes.agent",
    "Box": "boxflow.boxes.box",
    "BoxInfo": "boxflow.ports",
    "BoxOptions": "boxflow.boxes.options",
    "BoxSpec": "boxflow.ports",
    "BoxStatus": "boxflow.ports",
    "Boxes": "boxflow.boxes.collection",
    "DEFAULT_TIMEOUT_S": "boxflow.boxes.command",
    "DurableCall": "boxflow.boxes.calls",
    "DurableCaller": "boxflow.boxes.calls",
    "ENGINE_LABEL": "boxflow.boxes.orphans",
    "Egress": "boxflow.ports",
    "Exec": "boxflow.boxes.exec",
    "ExecResult": "boxflow.boxes.command",
    "ExecStream": "boxflow.boxes.stream",
    "FileInfo": "boxflow.ports",
    "Files": "boxflow.boxes.files",
    "Git": "boxflow.boxes.git",
    "GitAuth": "boxflow.boxes.git_auth",
    "GitChange": "boxflow.boxes.git",
    "GitStatus": "boxflow.boxes.git",
    "Job": "boxflow.boxes.jobs",
    "JobInfo": "boxflow.boxes.jobs",
    "JobOutput": "boxflow.boxes.jobs",
    "JobStatus": "boxflow.boxes.watched",
    "Jobs": "boxflow.boxes.jobs",
    "Models": "boxflow.boxes.models",
    "OWNER_LABEL": "boxflow.boxes.orphans",
    "OutputChunk": "boxflow.boxes.stream",
    "PendingBox": "boxflow.boxes.collection",
    "PendingSession": "boxflow.boxes.session",
    "RunOptions": "boxflow.boxes.agent",
    "RunRecord": "boxflow.boxes.agent_run",
    "RunUsage": "boxflow.boxes.agent_run",
    "Session": "boxflow.boxes.session",
    "Snapshot": "boxflow.boxes.snapshots",
    "TerminalSize": "boxflow.ports",
    "box_spec": "boxflow.boxes.options",
    "delete_orphans": "boxflow.boxes.orphans",
    "durable_call": "boxflow.boxes.calls",
    "finish_delivery": "boxflow.boxes.agent",
    "make_box": "boxflow.boxes.collection",
    "this_process": "boxflow.boxes.orphans",
    "with_way": "boxflow.boxes.models",
}

if not TYPE_CHECKING:  # Type checkers would take any name to be there.

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_MODULES[name]), name)
        globals()[name] = value  # So that it is asked for once.
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
