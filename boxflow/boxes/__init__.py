"""Boxes: isolated environments with exec, files and git, usable in a workflow body, in a step, or alone.

async with Boxes("local:") as boxes, boxes.create("demo") as box:
    await box.git.clone("https://example.org/project.git")
    result = await box.exec.command("make test", timeout="10m")
"""

from boxflow.boxes.box import Box
from boxflow.boxes.calls import DurableCaller
from boxflow.boxes.collection import Boxes, PendingBox, make_box
from boxflow.boxes.command import DEFAULT_TIMEOUT_S, ExecResult
from boxflow.boxes.exec import Exec
from boxflow.boxes.files import Files
from boxflow.boxes.git import Git, GitChange, GitStatus
from boxflow.ports import BoxInfo, BoxSpec, BoxStatus, FileInfo

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "Box",
    "BoxInfo",
    "BoxSpec",
    "BoxStatus",
    "Boxes",
    "DurableCaller",
    "Exec",
    "ExecResult",
    "FileInfo",
    "Files",
    "Git",
    "GitChange",
    "GitStatus",
    "PendingBox",
    "make_box",
]
