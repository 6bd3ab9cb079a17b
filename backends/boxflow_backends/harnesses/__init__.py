"""The harnesses that come with boxflow: adapters for Claude Code, Codex, opencode, and programs of your own.

Each is two halves: how the program is started for a request, and what its output means. Neither does any I/O.
"""

from boxflow_backends.harnesses.claude_code import ClaudeCode
from boxflow_backends.harnesses.codex import Codex
from boxflow_backends.harnesses.command import Command
from boxflow_backends.harnesses.opencode import OpenCode
from boxflow_backends.harnesses.sse import Sse

__all__ = ["ClaudeCode", "Codex", "Command", "OpenCode", "Sse"]
