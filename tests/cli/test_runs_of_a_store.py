"""`boxflow runs` in a store: what is there is shown, beside whoever owns it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from behaviour.support import until
from cli.conftest import Boxflow
from cli.shop import Guest, approve, engine, fail, greet

from boxflow import RunStatus


@pytest.fixture
def shop(boxflow: Boxflow) -> Boxflow:
    """The command, with a store of three runs: `ada` with its child, `bad` which failed, `ask` which waits."""

    async def fill() -> None:
        async with engine() as shop:
            await (await shop.start(greet, Guest("Ada"), run_id="ada", labels=["vip"])).result()
            bad = await shop.start(fail, run_id="bad", labels=["\x1b[2J"])
            await until(bad, RunStatus.FAILED)
            await until(await shop.start(approve, "yes", run_id="ask"), RunStatus.WAITING)

    asyncio.run(fill())
    return boxflow


def test_runs_are_listed_newest_first_with_what_they_wait_for(shop: Boxflow, store: str) -> None:
    done = shop("runs", "list", "--store", store)
    assert done.code == 0
    assert [line[0] for line in done.lines] == ["id", "ask", "bad", "ada/count", "ada"]
    assert done.lines[1][1:3] == ["approve", "waiting"] and done.lines[1][-1] == "event:yes"
    assert "StepFailedError: step 'refuse' failed" in done.out
    assert "\x1b" not in done.out


def test_list_is_what_runs_does_and_a_variable_says_where(shop: Boxflow, store: str) -> None:
    assert shop("runs", BOXFLOW_STORE=store) == shop("runs", "--store", store) == shop("runs", "list", "--store", store)


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--status", "failed"], ["bad"]),
        (["--status", "failed", "--status", "waiting"], ["ask", "bad"]),
        (["--workflow", "count"], ["ada/count"]),
        (["--label", "vip"], ["ada/count", "ada"]),
        (["--label", "nobody's"], []),
    ],
)
def test_conditions_leave_runs_out(shop: Boxflow, store: str, options: list[str], ids: list[str]) -> None:
    assert [run["id"] for run in shop("runs", "--store", store, "--json", *options).data["runs"]] == ids


def test_a_long_list_comes_in_pages(shop: Boxflow, store: str) -> None:
    seen: list[str] = []
    cursor: list[str] = []
    while True:
        page = shop("runs", "--store", store, "--json", "--limit", "3", *cursor).data
        seen += [run["id"] for run in page["runs"]]
        if page["next_cursor"] is None:
            break
        cursor = ["--cursor", page["next_cursor"]]
    assert seen == ["ask", "bad", "ada/count", "ada"]
    assert "--cursor" in shop("runs", "--store", store, "--limit", "3").err


def test_a_run_is_shown_with_its_result_or_with_why_it_has_none(shop: Boxflow, store: str) -> None:
    assert shop("runs", "show", "ada", "--store", store, "--json").data["result"] == {"text": "hello Ada", "visits": 1}
    assert ["parent", "ada"] in shop("runs", "show", "ada/count", "--store", store).lines
    bad = shop("runs", "show", "bad", "--store", store).out
    assert r"labels     \x1b[2J" in bad
    assert r"ConnectionError: \x1b]0;closed\x07 today" in bad and "Traceback" in bad


def test_an_id_that_is_not_there_ends_with_3(shop: Boxflow, store: str) -> None:
    for command in (["show"], ["history"], ["watch"]):
        done = shop("runs", *command, "a\x1bb", "--store", store)
        assert (done.code, done.out) == (3, "")
        assert r"no run 'a\x1bb' in this store" in done.err
    assert shop("export", "nobody", "--store", store).code == 3


def test_the_history_of_a_run_is_its_outcomes_in_order(shop: Boxflow, store: str) -> None:
    done = shop("runs", "history", "ada", "--store", store)
    assert [line[0] for line in done.lines] == ["#", "1", "2"]
    found = shop("runs", "history", "ada", "--store", store, "--json").data
    assert [(one["seq"], one["kind"], one["name"]) for one in found["outcomes"]] == [
        (1, "step_done", "greeting"),
        (2, "child_ended", "count"),
    ]
    assert found["outcomes"][0]["value"] == "hello Ada" and found["next_after"] is None
    part = shop("runs", "history", "ada", "--store", store, "--json", "--limit", "1").data
    assert ([one["seq"] for one in part["outcomes"]], part["next_after"]) == ([1], 1)
    rest = shop("runs", "history", "ada", "--store", store, "--json", "--after", "1").data
    assert [one["seq"] for one in rest["outcomes"]] == [2]


def test_watching_ends_with_the_run_and_its_exit_code_says_how(shop: Boxflow, store: str) -> None:
    done = shop("runs", "watch", "ada", "--store", store)
    assert done.code == 0 and "run ada completed" in done.err
    assert [line[0] for line in done.lines] == ["1", "2"]
    bad = shop("runs", "watch", "bad", "--store", store, "--json")
    *outcomes, end = [json.loads(line) for line in bad.out.splitlines()]
    assert bad.code == 1
    assert ([one["kind"] for one in outcomes], end["run"]["status"]) == (["step_failed"], "failed")


def test_runs_are_read_and_followed_beside_the_engine_that_owns_the_store(boxflow: Boxflow, store: str) -> None:
    async def beside() -> None:
        async with engine() as shop:
            run = await shop.start(approve, "yes", run_id="ask")
            await until(run, RunStatus.WAITING)
            listed = await asyncio.to_thread(boxflow, "runs", "--store", store, "--json")
            assert [one["status"] for one in listed.data["runs"]] == ["waiting"]
            watching = asyncio.create_task(asyncio.to_thread(boxflow, "runs", "watch", "ask", "--store", store))
            await shop.notify("yes", "fine")
            watched = await watching
            assert watched.code == 0 and "event arrived 'answer'" in watched.out

    asyncio.run(beside())


def test_changing_a_store_that_has_an_owner_names_it_and_the_way_to_it(boxflow: Boxflow, store: str) -> None:
    import os

    async def beside() -> None:
        async with engine():
            changes = [
                ["runs", "prune", "--older-than", "1d", "--store", store],
                ["runs", "cancel", "ask", "--app", "cli.shop:engine"],
                ["boxes", "prune", "--store", store],
            ]
            for command in changes:
                done = await asyncio.to_thread(boxflow, *command)
                assert done.code == 4
                assert f"is owned by process {os.getpid()}" in done.err and "--url" in done.err

    asyncio.run(beside())


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ([], 2, "Give the address of an engine with --url or BOXFLOW_URL"),
        (["--store", "memory:"], 2, "store 'memory:' is gone with its process"),
        (["--store", "file:"], 2, "store 'file:' says too little"),
        (["--store", "tape:reel"], 2, "has no known scheme"),
        (["--store", "file:/nowhere/at/all"], 4, "there is no store in '/nowhere/at/all'"),
        (["--store", "file:x", "--url", "http://localhost"], 2, "goes with none of --store, --app and --sandbox"),
        (["--url", "localhost:8000"], 2, "write it as in http://127.0.0.1:8000"),
    ],
)
def test_where_runs_cannot_be_is_said(boxflow: Boxflow, options: list[str], code: int, says: str) -> None:
    done = boxflow("runs", "list", *options)
    assert (done.code, done.out) == (code, "")
    assert says in done.err


def test_what_the_command_line_says_goes_before_what_variables_say(shop: Boxflow, store: str) -> None:
    elsewhere = {"BOXFLOW_URL": "http://127.0.0.1:1", "BOXFLOW_API_KEY": "k"}
    assert shop("runs", "--store", store, **elsewhere).code == 0
    assert shop("runs", BOXFLOW_STORE=store, **elsewhere).code == 4


def test_pruning_forgets_what_is_over_and_nothing_else(shop: Boxflow, store: str, tmp_path: Path) -> None:
    assert shop("runs", "prune", "--older-than", "1d", "--store", store, "--json").data == {"pruned": 0}
    done = shop("runs", "prune", "--older-than", "0s", "--store", store)
    assert done.out == "forgot 3 runs\n"
    assert [run["id"] for run in shop("runs", "--store", store, "--json").data["runs"]] == ["ask"]
