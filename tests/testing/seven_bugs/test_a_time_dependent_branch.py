"""Bug 4, a branch that depends on the time: right in every test of today, another path when it is rebuilt tomorrow."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from boxflow import Context, workflow
from boxflow.testing import AuditError, audit


def send(text: str) -> str:
    return text


@workflow(name="remind")
async def remind_with_the_bug(ctx: Context, deadline: datetime) -> str:
    await ctx.run("first", send, "a first reminder")
    if datetime.now(UTC) > deadline:
        return await ctx.run("last", send, "too late")
    return await ctx.run("second", send, "hurry up")


@workflow(name="remind")
async def remind(ctx: Context, deadline: datetime) -> str:
    await ctx.run("first", send, "a first reminder")
    if ctx.now() > deadline:
        return await ctx.run("last", send, "too late")
    return await ctx.run("second", send, "hurry up")


DEADLINE = datetime(2100, 1, 1, tzinfo=UTC)


async def test_audit_names_the_line_that_reads_the_clock() -> None:
    with pytest.raises(
        AuditError,
        match=r"it reads datetime.now\(\) at .*test_a_time_dependent_branch.py:20 in remind_with_the_bug; use `ctx.now",
    ):
        await audit(remind_with_the_bug, DEADLINE)


async def test_the_time_of_the_journal_is_no_finding() -> None:
    assert await audit(remind, DEADLINE) == "hurry up"
