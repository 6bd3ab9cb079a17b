"""For your tests and your backends: what every store, sandbox and harness must do, as suites to subclass."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if "pytest" in sys.modules:
    # Under pytest the suites' assertions tell what they compared; without it they are plain assertions.
    import pytest

    pytest.register_assert_rewrite(
        "boxflow.testing.store_contract", "boxflow.testing.sandbox_contract", "boxflow.testing.harness_contract"
    )

from boxflow.testing.sandbox_contract import SandboxContract
from boxflow.testing.store_contract import StoreContract

if TYPE_CHECKING:
    from boxflow.testing.harness_contract import HarnessContract

__all__ = ["HarnessContract", "SandboxContract", "StoreContract"]


def __getattr__(name: str) -> object:
    # It needs hypothesis, which who tests a store or a sandbox need not have.
    if name == "HarnessContract":
        from boxflow.testing.harness_contract import HarnessContract

        return HarnessContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
