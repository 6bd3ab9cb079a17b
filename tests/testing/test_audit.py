"""A body that depends on anything but its payload and its journal is found at its first run, with the line."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import random
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from time import time as imported_under_a_name
from typing import Any
from uuid import uuid4

import attrs
import pytest

from boxflow import Context, RunDivergedError, RunStatus, Workflow, workflow
from boxflow.testing import AuditError, World, audit

CACHE: dict[str, int] = {}
PRICES = {"apple": 5, "pear": 7}
TEXTS = ("a", "b", "c", "d")
begun = 0


@pytest.fixture(autouse=True)
def _as_at_first() -> None:
    global begun
    begun = 0
    CACHE.clear()


async def do(what: Any = None) -> Any:
    return what


def fill_cache() -> None:
    CACHE["apple"] = 1


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


# --- what is found ----------------------------------------------------------------------------------------------------


async def reads_time(ctx: Context, _: None) -> None:
    await ctx.run("a", do)
    ctx.log.info("it is %s", imported_under_a_name())


async def reads_time_of_day(ctx: Context, _: None) -> None:
    await ctx.run("a", do, str(dt.datetime.now(dt.UTC)))


async def reads_today(ctx: Context, _: None) -> None:
    await ctx.run("a", do, dt.date.today().year > 2000)


async def draws_randomly(ctx: Context, _: None) -> None:
    await ctx.run("a", do, random.choice(TEXTS) in TEXTS)


async def makes_a_generator(ctx: Context, _: None) -> None:
    await ctx.run("a", do, random.Random().random() < 2)


async def makes_an_id(ctx: Context, _: None) -> None:
    await ctx.run("a", do, str(uuid4()))


async def reads_a_variable(ctx: Context, _: None) -> None:
    await ctx.run("a", do, os.environ.get("NOBODY_SETS_THIS"))


async def asks_whether_a_variable_is_set(ctx: Context, _: None) -> None:
    if "PATH" in os.environ:
        await ctx.run("a", do)


async def reads_a_file(ctx: Context, _: None) -> None:
    await ctx.run("a", do, len(Path(__file__).read_text()) > 0)


def helper() -> bool:
    return time.perf_counter() > 0


async def reads_in_a_helper(ctx: Context, _: None) -> None:
    await ctx.run("a", do, helper())


@pytest.mark.parametrize(
    ("body", "what", "remedy"),
    [
        (reads_time, "time.time()", "ctx.now()"),
        (reads_time_of_day, "datetime.now()", "ctx.now()"),
        (reads_today, "date.today()", "ctx.now()"),
        (draws_randomly, "random.choice()", "ctx.random"),
        (makes_a_generator, "random.Random() without a seed", "ctx.random"),
        (makes_an_id, "uuid.uuid4()", "ctx.uuid4()"),
        (reads_a_variable, "os.environ", "payload"),
        (asks_whether_a_variable_is_set, "os.environ", "payload"),
        (reads_a_file, "open()", "ctx.run"),
        (reads_in_a_helper, "time.perf_counter()", "ctx.now()"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_each_line_that_reads_the_world_is_named_with_what_to_write_instead(
    body: Any, what: str, remedy: str
) -> None:
    with pytest.raises(AuditError) as found:
        await audit(workflow(body))
    (read,) = found.value.reads
    reader = helper if body is reads_in_a_helper else body
    first = reader.__code__.co_firstlineno
    file, _, line = read.where.partition(" ")[0].rpartition(":")
    assert (read.what, file) == (what, __file__) and first < int(line) <= first + 3
    assert remedy in read.remedy and str(read) in str(found.value)


@workflow
async def orders_by_a_set(ctx: Context, _: None) -> None:
    for text in set(TEXTS):
        await ctx.run(text, do)


@workflow
async def makes_a_list_of_a_set(ctx: Context, texts: set[str]) -> None:
    await asyncio.gather(*[ctx.run("a", do, text) for text in list(texts)])


@workflow
async def takes_any_of_a_set(ctx: Context, _: None) -> None:
    await ctx.run("a", do, {Colour.RED, Colour.BLUE}.pop().value)


@pytest.mark.parametrize(
    ("body", "payload"), [(orders_by_a_set, None), (makes_a_list_of_a_set, set(TEXTS)), (takes_any_of_a_set, None)]
)
async def test_the_order_of_a_set_of_texts_is_no_input(body: Workflow[Any, Any], payload: Any) -> None:
    with pytest.raises(AuditError, match=r"depends on the order of a set.*sorted"):
        await audit(body, payload)


@workflow
async def reads_what_a_step_left(ctx: Context, _: None) -> None:
    await ctx.run("fill", fill_cache)
    if "apple" in CACHE:
        await ctx.run("a", do)


@workflow
async def counts_its_runs(ctx: Context, _: None) -> None:
    global begun
    begun += 1
    await ctx.run(f"run {begun}", do)


@pytest.mark.parametrize(("body", "name"), [(reads_what_a_step_left, "'CACHE'"), (counts_its_runs, "'begun'")])
async def test_a_global_that_changes_while_the_run_runs_is_no_input(body: Workflow[None, None], name: str) -> None:
    with pytest.raises(AuditError, match=f"(?s)It reads what changed.*{name} at .*test_audit.py:"):
        await audit(body)


async def test_what_the_closure_of_a_body_counts_is_no_input() -> None:
    count = 0

    @workflow
    async def counts(ctx: Context, _: None) -> None:
        nonlocal count
        count += 1
        await ctx.run("a", do, count)

    with pytest.raises(AuditError, match=r"arguments of step 'a' were \(1,\), and are now \(2,\).*\n.*\n.*'count'"):
        await audit(counts)


async def test_what_a_step_has_of_the_body_is_compared_too() -> None:
    numbers = iter(range(100))

    @workflow
    async def closes_over(ctx: Context, _: None) -> None:
        number = next(numbers)
        await ctx.run("a", lambda: number)

    with pytest.raises(AuditError, match="what it has of the body, was another"):
        await audit(closes_over)


async def test_a_payload_of_a_child_is_compared_too() -> None:
    numbers = iter(range(100))

    @workflow
    async def child(ctx: Context, number: int) -> int:
        return number

    @workflow
    async def parent(ctx: Context, _: None) -> int:
        return await ctx.invoke("child", child, next(numbers))

    with pytest.raises(AuditError, match="as 'parent-1/child' with 0, and is now"):
        await audit(parent)


async def test_the_run_of_a_finding_diverges_and_says_so() -> None:
    with pytest.raises(AuditError):  # At the end of the world, for a test that looks at no result.
        async with World() as world:
            run = await world.start(workflow(makes_an_id))
            assert await run.status() is RunStatus.DIVERGED
            with pytest.raises(RunDivergedError, match=r"uuid.uuid4\(\)"):
                await run.result()


async def test_a_run_that_only_waits_at_the_end_of_the_world_is_looked_at() -> None:
    @workflow
    async def waits(ctx: Context, _: None) -> None:
        time.time()
        await ctx.wait_for_event("never", "never")

    with pytest.raises(AuditError, match=r"time.time\(\)"):
        async with World() as world:
            await world.start(waits)


# --- what is no finding -----------------------------------------------------------------------------------------------


@attrs.define
class Basket:
    items: list[str]


@workflow
async def does_what_bodies_may(ctx: Context, basket: Basket) -> list[str]:
    ctx.log.info("a logger stamps this line with the time")
    basket.items.append("pear")  # Its own copy, each time.
    drawn = ctx.random.choice(["a", "b"])
    number = random.Random(1).random()
    await ctx.run("a", do, str(ctx.uuid4()))
    await ctx.run("b", do, [PRICES[item] for item in basket.items])
    await ctx.run("c", do, [drawn, number, str(ctx.now())])
    await asyncio.gather(*(ctx.run(text, do) for text in sorted(set(TEXTS))))
    done, _ = await asyncio.wait([asyncio.ensure_future(ctx.run("d", do, n)) for n in range(3)])
    await ctx.run("e", do, [await each for each in done])
    for number in (3, 1, 2):
        await ctx.run("f", do, number)
    await asyncio.sleep(60)
    if ctx.patched("change"):
        await ctx.run("g", lambda: basket.items)
    return basket.items


@pytest.mark.parametrize("residents", [0, 1000])
async def test_what_a_body_may_do_is_no_finding(residents: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "boxflow.workflow")
    assert await audit(does_what_bodies_may, Basket(["apple"]), max_resident_runs=residents) == ["apple", "pear"]
    assert [line.message for line in caplog.records].count("a logger stamps this line with the time") == 1


async def test_failures_cancels_and_retries_are_no_finding() -> None:
    from boxflow import Retry

    tries: list[int] = []

    async def fails_at_first() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("no route")
        return "there"

    @workflow
    async def tries_again(ctx: Context, _: None) -> str:
        try:
            async with asyncio.timeout(3600):
                await ctx.wait_for_event("never", "never")
        except TimeoutError:
            return await ctx.run("a", fails_at_first, retry=Retry(attempts=3))
        raise AssertionError

    assert await audit(tries_again) == "there"

    @workflow
    async def fails(ctx: Context, _: None) -> None:
        await ctx.run("a", do)
        raise ValueError(f"here at {id(object())}")

    async with World() as world:
        run = await world.start(fails)
        assert await run.status() is RunStatus.FAILED


async def test_the_world_is_as_before_after_an_audit() -> None:
    clock: Callable[[], float] = time.time
    variables = dict(os.environ)
    await audit(does_what_bodies_may, Basket([]))
    assert time.time is clock and dict(os.environ) == variables
    assert abs(time.time() - dt.datetime.now().timestamp()) < 60
