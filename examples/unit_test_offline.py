"""Unit tests of a workflow: in memory, with no network, and three days take no time at all.

pytest examples/unit_test_offline.py
"""

import asyncio
from datetime import timedelta

from boxflow import Context, Engine, Retry, Run, RunStatus, workflow


class Mailbox:
    """What the workflow uses of the world; a test has another one."""

    def __init__(self, failures: int = 0) -> None:
        self.sent: list[str] = []
        self.failures = failures

    async def send(self, to: str) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the mail server is busy")
        self.sent.append(to)


mailbox = Mailbox()


@workflow
async def remind(ctx: Context, to: str) -> str:
    await ctx.sleep("patience", timedelta(days=3))
    await ctx.run("send", mailbox.send, to, retry=Retry(attempts=5, delay="1h"))
    return f"reminded {to} on {ctx.now():%Y-%m-%d}"


class LeapingClock:
    """A clock that jumps to the next thing that is due, as soon as somebody waits for it."""

    def __init__(self) -> None:
        self.time = 1_767_225_600.0  # 2026-01-01

    def now(self) -> float:
        return self.time

    async def sleep_until(self, when: float) -> None:
        await asyncio.sleep(0.01)  # Whatever else is ready goes first.
        self.time = max(self.time, when)


async def reminded(failures: int) -> tuple[Run[str], str]:
    mailbox.sent, mailbox.failures = [], failures
    async with Engine([remind], store="memory:", clock=LeapingClock()) as engine:
        run = await engine.start(remind, "ada@example.org")
        result = await run.result(timeout="10s")
        assert await run.status() is RunStatus.COMPLETED
        assert [o.kind for o in await run.history()] == ["timer_fired", *["step_retrying"] * failures, "step_done"]
        return run, result


def test_a_reminder_goes_out_after_three_days() -> None:
    _, result = asyncio.run(reminded(failures=0))
    assert result == "reminded ada@example.org on 2026-01-04"


def test_a_busy_mail_server_is_asked_again() -> None:
    asyncio.run(reminded(failures=3))
    assert mailbox.sent == ["ada@example.org"]
