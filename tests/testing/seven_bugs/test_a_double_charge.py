"""Bug 3, a double charge: the step sends a key of its own making along, and not the one that stays the same."""

from __future__ import annotations

from uuid import uuid4

import pytest

from boxflow import Context, step, workflow
from boxflow.testing import CrashError, World, crash_everywhere


class Bank:
    """A payment service, as they are: the same key again is the same payment."""

    def __init__(self) -> None:
        self.payments: dict[str, int] = {}

    def charge(self, key: str, cents: int) -> int:
        self.payments.setdefault(key, cents)
        return cents


bank = Bank()


def charge_with_the_bug(cents: int) -> int:
    return bank.charge(str(uuid4()), cents)


def charge(cents: int) -> int:
    return bank.charge(step().idempotency_key, cents)


@workflow(name="sell")
async def sell_with_the_bug(ctx: Context, cents: int) -> int:
    return await ctx.run("charge", charge_with_the_bug, cents)


@workflow(name="sell")
async def sell(ctx: Context, cents: int) -> int:
    return await ctx.run("charge", charge, cents)


def script(_: World, outside: Bank) -> None:
    global bank
    bank = outside


def charged(outside: Bank) -> list[int]:
    return list(outside.payments.values())


async def test_a_crash_after_the_charge_and_before_its_record_charges_twice() -> None:
    with pytest.raises(
        CrashError,
        match=r"(?s)dies in the middle of step 1: step 'charge'.*has seen: \[500, 500\]; without a crash: \[500\]"
        r".*BOXFLOW_CRASH='in 1' pytest '.*test_a_double_charge.py::test_a_crash_after",
    ):
        await crash_everywhere(sell_with_the_bug, 500, script, outside=Bank, effects=charged)


async def test_with_the_key_of_the_step_it_charges_once_wherever_it_crashes() -> None:
    report = await crash_everywhere(sell, 500, script, outside=Bank, effects=charged)
    assert report.steps == 1
