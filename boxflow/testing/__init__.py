"""For your tests and your backends: what every store, sandbox and harness must do, as suites to subclass."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boxflow.testing.harness_contract import HarnessContract
    from boxflow.testing.sandbox_contract import SandboxContract
    from boxflow.testing.store_contract import StoreContract

__all__ = ["HarnessContract", "SandboxContract", "StoreContract"]

# Each is loaded when it is asked for: they need pytest, and one of them hypothesis, which a scripted model does not.
_MODULES = {
    "HarnessContract": "boxflow.testing.harness_contract",
    "SandboxContract": "boxflow.testing.sandbox_contract",
    "StoreContract": "boxflow.testing.store_contract",
}

if "pytest" in sys.modules:
    # Under pytest the suites' assertions tell what they compared; without it they are plain assertions.
    import pytest

    pytest.register_assert_rewrite(*_MODULES.values())


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
