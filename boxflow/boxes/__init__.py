"""Boxes: isolated environments with exec, files and git, usable in a workflow body, in a step, or alone.

async with Boxes("local:") as boxes, boxes.create("demo") as box:
    await box.git.clone("https://example.org/project.git")
    result = await box.exec.command("make test", timeout="10m")
"""

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
