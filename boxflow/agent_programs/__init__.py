"""The agent programs themselves: installing them, finding them, putting them into images, and seeing what is amiss.

    installed = await install("claude-code")         # pinned, from npm or PyPI; nothing when it is there
    await build_image("claude-code", base="debian:bookworm-slim", tag="agents")    # for boxes.create(image="agents")
    for finding in await doctor():
        print(finding.name, finding.status, finding.detail, finding.advice)

By hand: `python -m boxflow.agent_programs install claude-code`, and `python -m boxflow.agent_programs doctor`.
"""

from boxflow.agent_programs.catalogue import PROGRAMS, AgentProgram, Manager, Source
from boxflow.agent_programs.examination import Finding, doctor
from boxflow.agent_programs.images import build_image, dockerfile, write_build_context
from boxflow.agent_programs.installing import AgentInstallError, Installed, find, install
from boxflow.boxes.agent_places import default_directory

__all__ = [
    "PROGRAMS",
    "AgentInstallError",
    "AgentProgram",
    "Finding",
    "Installed",
    "Manager",
    "Source",
    "build_image",
    "default_directory",
    "dockerfile",
    "doctor",
    "find",
    "install",
    "write_build_context",
]
