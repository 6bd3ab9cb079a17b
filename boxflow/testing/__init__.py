"""For your tests: workflows in a scripted world. For your backends: what each must do, as suites to subclass."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boxflow.testing.audited_run import audit
    from boxflow.testing.auditing import Audit, AuditError, DirectRead
    from boxflow.testing.breaking import (
        CrashError,
        CrashReport,
        Explored,
        ExploreError,
        Schedule,
        crash_everywhere,
        explore,
        explore_once,
        schedules,
    )
    from boxflow.testing.errors import StuckError, UnansweredError, WorldError
    from boxflow.testing.fake_sandbox import FakeBox, FakeCommand, FakeSandbox, Reply
    from boxflow.testing.harness_contract import HarnessContract
    from boxflow.testing.replaying import ReplayError, assert_replays, save_history
    from boxflow.testing.running import run_workflow
    from boxflow.testing.sandbox_contract import SandboxContract
    from boxflow.testing.scripted_agent import AgentReply, AgentTask, ScriptedAgent
    from boxflow.testing.stand_ins import Call
    from boxflow.testing.store_contract import StoreContract
    from boxflow.testing.virtual_clock import START, VirtualClock
    from boxflow.testing.world import World

__all__ = [
    "START",
    "AgentReply",
    "AgentTask",
    "Audit",
    "AuditError",
    "Call",
    "CrashError",
    "CrashReport",
    "DirectRead",
    "ExploreError",
    "Explored",
    "FakeBox",
    "FakeCommand",
    "FakeSandbox",
    "HarnessContract",
    "ReplayError",
    "Reply",
    "SandboxContract",
    "Schedule",
    "ScriptedAgent",
    "StoreContract",
    "StuckError",
    "UnansweredError",
    "VirtualClock",
    "World",
    "WorldError",
    "assert_replays",
    "audit",
    "crash_everywhere",
    "explore",
    "explore_once",
    "run_workflow",
    "save_history",
    "schedules",
]

# Suites of tests. Each is loaded when it is asked for: they need pytest, and one of them hypothesis.
_SUITES = {
    "HarnessContract": "boxflow.testing.harness_contract",
    "SandboxContract": "boxflow.testing.sandbox_contract",
    "StoreContract": "boxflow.testing.store_contract",
}
_MODULES = {
    **_SUITES,
    "audit": "boxflow.testing.audited_run",
    "Audit": "boxflow.testing.auditing",
    "AuditError": "boxflow.testing.auditing",
    "DirectRead": "boxflow.testing.auditing",
    "CrashError": "boxflow.testing.breaking",
    "CrashReport": "boxflow.testing.breaking",
    "Explored": "boxflow.testing.breaking",
    "ExploreError": "boxflow.testing.breaking",
    "Schedule": "boxflow.testing.breaking",
    "crash_everywhere": "boxflow.testing.breaking",
    "explore": "boxflow.testing.breaking",
    "explore_once": "boxflow.testing.breaking",
    "schedules": "boxflow.testing.breaking",
    "ReplayError": "boxflow.testing.replaying",
    "assert_replays": "boxflow.testing.replaying",
    "save_history": "boxflow.testing.replaying",
    "Reply": "boxflow.testing.fake_sandbox",
    "FakeSandbox": "boxflow.testing.fake_sandbox",
    "FakeCommand": "boxflow.testing.fake_sandbox",
    "FakeBox": "boxflow.testing.fake_sandbox",
    "ScriptedAgent": "boxflow.testing.scripted_agent",
    "AgentTask": "boxflow.testing.scripted_agent",
    "AgentReply": "boxflow.testing.scripted_agent",
    "START": "boxflow.testing.virtual_clock",
    "Call": "boxflow.testing.stand_ins",
    "StuckError": "boxflow.testing.errors",
    "UnansweredError": "boxflow.testing.errors",
    "VirtualClock": "boxflow.testing.virtual_clock",
    "World": "boxflow.testing.world",
    "WorldError": "boxflow.testing.errors",
    "run_workflow": "boxflow.testing.running",
}

if "pytest" in sys.modules:
    # Under pytest the suites' assertions tell what they compared; without it they are plain assertions.
    import pytest

    pytest.register_assert_rewrite(*_SUITES.values())


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
