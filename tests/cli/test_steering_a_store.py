"""Changing runs of a store: the command is the engine for a moment, with the code that `--app` names."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from behaviour.support import until
from cli.conftest import Boxflow
from cli.shop import engine, work

from boxflow import RunStatus

APP = ("--app", "cli.shop:engine")


@pytest.fixture
def failed(boxflow: Boxflow, store: str) -> Boxflow:
    """The command, with a store in which the run `bad` has failed."""
    assert boxflow("run", "cli.shop:fail", "--run-id", "bad", "--store", store).code == 1
    return boxflow


def test_resuming_goes_on_from_what_failed_and_stays_until_the_run_is_over(failed: Boxflow) -> None:
    again = failed("runs", "resume", "bad", *APP, "--json")
    assert (again.code, again.data["status"]) == (1, "failed")
    mended = failed("runs", "resume", "bad", *APP, "--json", SHOP_IS_OPEN="yes")
    assert (mended.code, mended.data["status"], mended.data["result"]) == (0, "completed", "open")


def test_a_workflow_and_a_store_are_an_engine_too(failed: Boxflow, store: str) -> None:
    done = failed(
        "runs", "resume", "bad", "--app", "cli.shop:fail", "--store", store, "--json", SHOP_IS_OPEN="yes"
    )  # fmt: skip
    assert done.data["result"] == "open"


def test_restart_and_fork_are_new_runs(failed: Boxflow) -> None:
    restarted = failed("runs", "restart", "bad", *APP, "--json", SHOP_IS_OPEN="yes").data
    assert restarted["id"] != "bad" and restarted["result"] == "open"
    forked = failed("runs", "fork", "bad", "--before", "refuse", *APP, "--json", SHOP_IS_OPEN="yes").data
    assert forked["id"] not in ("bad", restarted["id"]) and forked["result"] == "open"
    nowhere = failed("runs", "fork", "bad", "--before", "lunch", *APP)
    assert nowhere.code == 2
    assert "no outcome of 'lunch'" in nowhere.err


def test_an_event_wakes_its_run_which_is_driven_on(boxflow: Boxflow, store: str) -> None:
    assert boxflow("run", "cli.shop:count", "--payload", "1", "--store", store).code == 0
    kept = boxflow("notify", "yes", "--data", '{"ok": true}', *APP)
    assert kept.code == 0 and "it is kept for the next wait" in kept.err
    done = boxflow("run", "cli.shop:approve", "--payload", '"yes"', "--store", store)
    assert done.data == {"ok": True}


def test_a_cancelled_run_has_cleaned_up_when_the_command_ends(boxflow: Boxflow, tmp_path: Path) -> None:
    async def leave() -> None:
        async with engine() as shop:
            await until(await shop.start(work, run_id="w"), RunStatus.WAITING)

    asyncio.run(leave())
    sandbox = ("--sandbox", f"local:{tmp_path}/boxes")
    assert len(boxflow("boxes", "list", "--run-id", "w", "--json", *sandbox).data["boxes"]) == 1
    done = boxflow("runs", "cancel", "w", "--reason", "enough", *APP, "--json")
    assert (done.code, done.data["status"], done.data["reason"]) == (0, "cancelled", "enough")
    assert boxflow("boxes", "list", "--json", *sandbox).data == {"boxes": []}


CHANGES = [["resume", "bad"], ["cancel", "bad"], ["restart", "bad"], ["fork", "bad", "--before", "refuse"]]


@pytest.mark.parametrize("command", CHANGES, ids=lambda command: command[0])
def test_without_the_code_nothing_is_changed(failed: Boxflow, store: str, command: list[str]) -> None:
    before = failed("runs", "show", "bad", "--store", store)
    done = failed("runs", *command, "--store", store)
    assert done.code == 2
    assert "name it with --app module:engine" in done.err and "--url" in done.err
    assert failed("runs", "show", "bad", "--store", store) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--app", "cli.shop:no_engine"], "'cli.shop:no_engine' is a str; name an `Engine(...)`"),
        (["--app", "cli.shop:broken_engine"], "RuntimeError: the shop has burnt down"),
        (["--app", "cli.shop:greet"], "say where its runs are, with --store"),
        (["--app", "cli.shop:engine", "--store", "file:x"], "is an engine, which has its store and sandbox"),
    ],
)
def test_what_is_no_engine_is_refused_by_name(boxflow: Boxflow, options: list[str], says: str) -> None:
    done = boxflow("runs", "cancel", "x", *options)
    assert done.code == 2
    assert says in done.err


def test_a_run_that_is_over_is_not_resumed(boxflow: Boxflow, store: str) -> None:
    assert boxflow("run", "cli.shop:count", "--payload", "1", "--store", store, "--run-id", "one").code == 0
    done = boxflow("runs", "resume", "one", *APP)
    assert done.code == 2
    assert "only a failed or diverged run is resumed" in done.err
