"""For your tests and your backends: what every store, sandbox and harness must do, as suites to subclass."""

from __future__ import annotations

import sys

if "pytest" in sys.modules:
    # Under pytest the suites' assertions tell what they compared; without it they are plain assertions.
    import pytest

    pytest.register_assert_rewrite(
        "boxflow.testing.store_contract", "boxflow.testing.sandbox_contract", "boxflow.testing.harness_contract"
    )

from boxflow.testing.harness_contract import HarnessContract
from boxflow.testing.sandbox_contract import SandboxContract
from boxflow.testing.store_contract import StoreContract

__all__ = ["HarnessContract", "SandboxContract", "StoreContract"]
