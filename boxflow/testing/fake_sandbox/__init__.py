"""Boxes that are only in memory, whose commands a test answers: for unit tests of workflows."""

from boxflow.testing.fake_sandbox.boxes import FakeBox
from boxflow.testing.fake_sandbox.commands import FakeCommand, Reply
from boxflow.testing.fake_sandbox.sandbox import FakeSandbox, SandboxCall

__all__ = ["FakeBox", "FakeCommand", "FakeSandbox", "Reply", "SandboxCall"]
