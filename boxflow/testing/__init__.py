"""For your tests and your backends: what every store and every sandbox must do, as suites to subclass."""

from boxflow.testing.store_contract import StoreContract

__all__ = ["StoreContract"]
