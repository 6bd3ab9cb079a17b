"""Boxes as directories and process groups of this machine. Fast, everywhere, and *no isolation* unless asked for."""

from boxflow_backends.local_sandbox.limits import ProcessLimits
from boxflow_backends.local_sandbox.sandbox import LocalSandbox

__all__ = ["LocalSandbox", "ProcessLimits"]
