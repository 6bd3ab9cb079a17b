"""Which tests of one module of CPython's `test.test_asyncio` pass on the private loop? Prints the answer as JSON.

A program of its own, so that the event loop policy and what those tests leave behind stay out of the others.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import unittest
import warnings

from standalone_loop import StandalonePolicy


class Recorder(unittest.TestResult):
    """Keeps what became of each test, by `Class.method`."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[str] = []

    def addSuccess(self, test: unittest.TestCase) -> None:
        """*test* passed."""
        super().addSuccess(test)
        self.passed.append(name_of(test))


def name_of(test: unittest.TestCase) -> str:
    """`Class.method`."""
    return ".".join(test.id().split(".")[-2:])


def main(module: str) -> None:
    """Run the tests of *module* and print what became of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(StandalonePolicy())
    suite = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(f"test.test_asyncio.{module}"))
    result = Recorder()
    suite.run(result)
    failed = {name_of(test): text for test, text in [*result.failures, *result.errors]}
    skipped = {name_of(test): reason for test, reason in result.skipped}
    print(json.dumps({"passed": result.passed, "failed": failed, "skipped": skipped, "ran": result.testsRun}))


main(sys.argv[1])
