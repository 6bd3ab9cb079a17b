"""Histories are kept as files, and new code is checked against them: nothing is executed, the difference is shown."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boxflow import Context, Retry, workflow
from boxflow.errors import HistoryFormatError, RunDivergedError, RunNotFoundError, WorkflowNotFoundError
from boxflow.history_file import History, dump_history, load_history, read_history
from boxflow.history_replay import replay_history
from boxflow.testing import ReplayError, World, WorldError, assert_replays, save_history

executed: list[str] = []


def do(what: str) -> str:
    executed.append(what)
    return what * 400 if what == "large" else what


@workflow
async def child(ctx: Context, what: str) -> str:
    return await ctx.run("inside", do, what)


@workflow
async def everything(ctx: Context, _: None) -> str:
    hook = await ctx.create_webhook("hook")
    await asyncio.gather(ctx.run("large", do, "large"), ctx.run("a", do, "a", retry=Retry()))
    await ctx.wait_for_event("event", "event")
    await ctx.sleep("sleep", "3d")
    await ctx.wait_for_webhook("call", hook)
    async with ctx.box("box") as box:
        await box.exec.command("true")
    if ctx.patched("change"):
        await ctx.invoke("child", child, "é")
    return "done"


async def history_of_everything() -> History:
    async with World(max_payload_bytes=1000) as world:
        world.sandbox.on("true")
        world.when_waiting("event", {"large": "x" * 2000})
        world.when_waiting("call", b"body")
        run = await world.start(everything, run_id="r")
        assert await run.result() == "done"
        return await read_history(world.engine.store, "r")


async def test_a_history_comes_back_from_its_file_to_the_byte() -> None:
    history = await history_of_everything()
    data = dump_history(history)
    assert len(history.blobs) == 2
    assert load_history(data) == history
    assert dump_history(load_history(data)) == data


async def test_a_history_file_has_one_outcome_a_line() -> None:
    history = await history_of_everything()
    lines = [line for line in dump_history(history).decode().splitlines() if line.startswith('    {"kind"')]
    assert [msgspec.json.decode(line.rstrip(","))["name"] for line in lines] == [each.name for each in history.outcomes]


async def test_nothing_is_executed_and_children_need_not_be_given() -> None:
    history = await history_of_everything()
    executed.clear()
    assert_replays(history, everything)
    assert_replays(dump_history(history), [everything, child])
    assert executed == []


async def test_a_history_that_goes_on_meanwhile_is_read_as_of_one_moment() -> None:
    async with World() as world:
        run = await world.start(everything)
        history = await read_history(world.engine.store, run.id)
    assert history.head.length == len(history.outcomes) and history.head.status == "waiting"


async def test_every_run_of_a_resumed_history_replays() -> None:
    attempts: list[int] = []

    def at_last() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("at first")
        return 1

    @workflow
    async def resumed(ctx: Context, _: None) -> int:
        await ctx.run("a", do, "a")
        return await ctx.run("b", at_last)

    async with World() as world:
        run = await world.start(resumed)
        await run.resume()
        assert await run.result() == 1
        history = await read_history(world.engine.store, run.id)
    assert "run_resumed" in [each.kind for each in history.outcomes]
    assert_replays(history, resumed)


# --- what does not fit ------------------------------------------------------------------------------------------------


@workflow(name="main")
async def first_code(ctx: Context, _: None) -> int:
    for number in range(6):
        await ctx.run("a", do, str(number))
    return 6


@workflow(name="main")
async def shorter_code(ctx: Context, _: None) -> int:
    for number in range(4):
        await ctx.run("a", do, str(number))
    return 4


@workflow(name="main")
async def broken_code(ctx: Context, _: None) -> int:
    await ctx.run("a", do, "0")
    raise LookupError("nothing here")


@workflow(name="main")
async def other_payload(ctx: Context, _: int) -> int:
    return 1


@workflow(name="main")
async def touches_the_world(ctx: Context, _: None) -> int:
    await ctx.run("a", do, "0")
    await asyncio.open_connection("localhost", 1)
    return 1


async def history_of_first_code(payload: Any = None) -> History:
    async with World() as world:
        await world.run(first_code, payload, run_id="r")
        return await read_history(world.engine.store, "r")


async def test_the_difference_shows_what_came_before_and_what_comes_instead() -> None:
    history = await history_of_first_code()
    expected = (
        r"the history of run 'r' does not fit workflow 'main' any more\n"
        r"     ...\n"
        r"       2  step done 'a' #2\n"
        r"       3  step done 'a' #3\n"
        r"       4  step done 'a' #4\n"
        r"  -    5  step done 'a' #5\n"
        r"  \+       nothing\n"
    )
    with pytest.raises(ReplayError, match=expected) as found:
        assert_replays(history, shorter_code)
    assert found.value.run_id == "r"


async def test_the_line_that_waits_is_named() -> None:
    @workflow(name="main")
    async def renamed(ctx: Context, _: None) -> int:
        return await ctx.run("b", int, "1")

    with pytest.raises(ReplayError, match=r"\+       step 'b'\n          at .*test_assert_replays.py:\d+ in .*renamed"):
        assert_replays(await history_of_first_code(), renamed)


async def test_a_body_that_raises_is_shown_with_its_line() -> None:
    with pytest.raises(
        ReplayError,
        match=r"(?s)The body had ended: LookupError: nothing here\n.*line \d+, in broken_code",
    ):
        assert_replays(await history_of_first_code(), broken_code)


async def test_a_payload_of_another_type_does_not_fit() -> None:
    with pytest.raises(ReplayError, match="the recorded payload does not fit its type now"):
        assert_replays(await history_of_first_code(), other_payload)


async def test_a_body_that_touches_the_world_fails_there_and_does_not_fit() -> None:
    with pytest.raises(ReplayError, match="The body had ended: NotDurableError"):
        assert_replays(await history_of_first_code(), touches_the_world)


async def test_replay_history_raises_what_the_engine_would_say() -> None:
    with pytest.raises(RunDivergedError, match="does not fit"):
        replay_history(await history_of_first_code(), [shorter_code])


async def test_another_workflow_is_no_code_for_a_history() -> None:
    with pytest.raises(WorkflowNotFoundError, match="'main'"):
        assert_replays(await history_of_first_code(), everything)


# --- files ------------------------------------------------------------------------------------------------------------


async def test_all_histories_of_a_directory_are_checked_and_the_file_is_named(tmp_path: Path) -> None:
    async with World() as world:
        for run_id in ("r1", "r2"):
            await world.run(first_code, run_id=run_id)
            await save_history(world.engine, run_id, tmp_path / f"{run_id}.json")
        with pytest.raises(RunNotFoundError):
            await save_history(world.engine.store, "r3", tmp_path / "r3.json")
    assert_replays(tmp_path, first_code)
    with pytest.raises(ReplayError, match=r"r1\.json: the history of run 'r1'"):
        assert_replays(str(tmp_path), shorter_code)


def test_a_directory_without_histories_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="holds no history"):
        assert_replays(tmp_path, first_code)


async def test_what_is_no_history_is_refused_with_its_reason() -> None:
    data = dump_history(await history_of_first_code())
    for broken, reason in {
        b"": "no history",
        b"[1]": "no history",
        b'{"format": 1}': "missing required field",
        data.replace(b'"format": 1', b'"format": 2'): "format 2, and this boxflow reads up to 1; read it with a newer",
        data.replace(b'"seq": 2', b'"seq": 7'): "damaged: outcome 2 has the number 7",
        data.replace(b'"length": 6', b'"length": 5'): "its head speaks of 5 outcomes, and its journal has 6",
        data.replace(b"step_done", b"step_gone"): "no history",
    }.items():
        with pytest.raises(HistoryFormatError, match=reason):
            load_history(broken)


async def test_a_history_whose_value_is_missing_says_so() -> None:
    history = await history_of_everything()
    lost = History(record=history.record, head=history.head, outcomes=history.outcomes, blobs={})
    with pytest.raises(HistoryFormatError, match=r"its value '[0-9a-f]+' is missing"):
        assert_replays(lost, everything)
