"""Workflows broken on purpose: by crashes at every moment, and by every order of what comes from outside."""

from boxflow.testing.breaking.crashing import CrashError, CrashReport, crash_everywhere
from boxflow.testing.breaking.exploring import Explored, ExploreError, explore, explore_once
from boxflow.testing.breaking.schedules import Schedule, schedules

__all__ = [
    "CrashError",
    "CrashReport",
    "ExploreError",
    "Explored",
    "Schedule",
    "crash_everywhere",
    "explore",
    "explore_once",
    "schedules",
]
