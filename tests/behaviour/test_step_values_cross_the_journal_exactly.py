"""A value reaches the body only through the codec, on the first run as on replay."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
import pydantic
import pytest
from behaviour.support import Machine, until

from boxflow import Context, Engine, Retry, RunFailedError, RunStatus, StepFailedError, workflow
from boxflow.errors import DecodeError, EncodeError


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: Decimal


@attrs.frozen
class Order:
    id: UUID
    at: datetime
    points: tuple[Point, ...]
    colours: frozenset[Colour]


class Person(pydantic.BaseModel):
    name: str
    born: datetime | None = None


ORDER = Order(
    UUID(int=7), datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC), (Point(1, Decimal("1.10")),), frozenset({Colour.RED})
)


async def test_what_a_step_returns_arrives_as_its_annotation_says_live_and_on_replay(machine: Machine) -> None:
    async def order() -> Order:
        return ORDER

    def person() -> Person:
        return Person(name="Ada")

    def both() -> tuple[dict[str, Point], bytes]:
        return {"a": Point(1, Decimal(2))}, b"\x00\xff"

    seen: list[tuple[Any, ...]] = []

    @workflow
    async def main(ctx: Context, payload: Order) -> Order:
        assert payload == ORDER
        seen.append((await ctx.run("order", order), await ctx.run("person", person), await ctx.run("both", both)))
        await ctx.wait_for_event("go", "go")
        return seen[-1][0]

    async with machine.crashing(main) as engine:
        run = await engine.start(main, ORDER, run_id="r")
        await until(run, RunStatus.WAITING)
    async with machine.running(main) as engine:
        await engine.notify("go")
        assert await (await engine.get("r")).result() == ORDER
    live, replayed = seen
    assert live == replayed == (ORDER, Person(name="Ada"), ({"a": Point(1, Decimal(2))}, b"\x00\xff"))
    assert type(live[1]) is type(replayed[1]) is Person


async def test_the_body_gets_a_copy_also_on_the_first_run(memory_machine: Machine) -> None:
    original = {"list": [1, 2]}

    async def give() -> dict[str, list[int]]:
        return original

    @workflow
    async def main(ctx: Context, payload: None) -> bool:
        got = await ctx.run("give", give)
        got["list"].append(3)
        return got is original

    async with memory_machine.running(main) as engine:
        assert await engine.run(main) is False
    assert original == {"list": [1, 2]}


async def test_type_says_what_arrives_where_the_function_does_not(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> list[str]:
        found = await ctx.run("set", lambda: {3, 1, 2}, type=set[int])
        return [type(found).__name__, *map(str, sorted(found))]

    async with memory_machine.running(main) as engine:
        assert await engine.run(main) == ["set", "1", "2", "3"]


async def test_a_result_that_cannot_be_kept_is_refused_by_the_steps_name_with_the_remedy(
    memory_machine: Machine,
) -> None:
    calls: list[int] = []

    def fetch():  # type: ignore[no-untyped-def] # no annotation is the point
        calls.append(1)
        return {1, 2}

    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            await ctx.run("fetch", fetch, retry=Retry(attempts=3, delay=0))
        except StepFailedError as error:
            return error.cause_message
        return "?"

    async with memory_machine.running(main) as engine:
        said = await engine.run(main)
    assert said == "step 'fetch' returned a set, which JSON cannot keep; return a list, or pass type=set[int]"
    assert calls == [1]  # Another attempt cannot mend that.


async def test_an_object_of_no_known_kind_is_refused(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            await ctx.run("connect", object)
        except StepFailedError as error:
            return error.cause_message
        return "?"

    async with memory_machine.running(main) as engine:
        said = await engine.run(main)
    assert said.startswith("step 'connect' returned ")


async def test_a_payload_of_another_type_is_refused_before_the_run_is_created(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: Point) -> None: ...

    async with memory_machine.running(main) as engine:
        wrong: Any = {"x": 1}
        with pytest.raises(EncodeError, match="the payload of workflow 'main' is"):
            await engine.start(main, wrong)
        assert [run async for run in engine.runs()] == []


async def test_a_result_of_the_workflow_that_cannot_be_kept_fails_the_run_by_name(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: None):  # type: ignore[no-untyped-def] # no annotation is the point
        return {1}

    async with memory_machine.running(main) as engine:
        with pytest.raises(RunFailedError, match="workflow 'main' returned a set, which JSON cannot keep"):
            await engine.run(main)


async def test_event_data_that_does_not_fit_the_type_raises_in_the_body_and_can_be_handled(
    memory_machine: Machine,
) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        while True:
            try:
                point = await ctx.wait_for_event("point", "point", type=Point)
            except DecodeError:
                continue
            return f"{point.x},{point.y}"

    async with memory_machine.running(main) as engine:
        run = await engine.start(main)
        await engine.notify("point", "nonsense")
        await engine.notify("point", Point(1, Decimal("2.5")))
        assert await run.result() == "1,2.5"


async def test_a_default_payload_is_used_when_none_is_given(memory_machine: Machine) -> None:
    @workflow
    async def main(ctx: Context, payload: int = 41) -> int:
        return payload + 1

    async with memory_machine.running(main) as engine:
        assert await engine.run(main) == 42
        assert await engine.run(main, 1) == 2


async def test_large_values_go_to_blobs_and_come_back(machine: Machine) -> None:
    large = "x" * 5000

    async def fetch() -> str:
        return large

    @workflow
    async def child(ctx: Context, payload: str) -> str:
        return payload

    @workflow
    async def main(ctx: Context, payload: str) -> list[str]:
        fetched = await ctx.run("fetch", fetch)
        event = await ctx.wait_for_event("event", "event", type=str)
        from_child = await ctx.invoke("child", child, payload)
        await ctx.wait_for_event("go", "go")
        return [payload, fetched, event, from_child]

    async def check(engine: Engine) -> None:
        history = await (await engine.get("r")).history()
        assert [getattr(outcome, "blob", None) is not None for outcome in history[:3]] == [True, True, True]
        assert [getattr(outcome, "data", None) for outcome in history[:2]] == [large, large]

    async with machine.crashing(main, child, max_payload_bytes=1000) as engine:
        run = await engine.start(main, large, run_id="r")
        await engine.notify("event", large)
        async for outcome in run.watch():
            if outcome.kind == "child_ended":
                break
        await check(engine)
    async with machine.running(main, child, max_payload_bytes=1000) as engine:
        await check(engine)
        await engine.notify("go")
        assert await (await engine.get("r")).result() == [large] * 4
        restarted = await (await engine.get("r")).restart()
        await engine.notify("event", large)
        await engine.notify("go")
        assert await restarted.result() == [large] * 4
        forked = await (await engine.get("r")).fork(before="go")
        await engine.notify("go")
        assert await forked.result() == [large] * 4
