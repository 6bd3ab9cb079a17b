"""`boxflow export` and `boxflow replay`: a history against the code of today."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cli.conftest import Boxflow

CODE = """
from boxflow import Context, workflow

async def greeting(name: str) -> str:
    return name

@workflow
async def approve(ctx: Context, event_id: str = "approval") -> object:
    await ctx.run({step!r}, greeting, "you")
    return await ctx.wait_for_event("answer", event_id)

@workflow
async def other(ctx: Context, payload: None) -> None: ...
"""


@pytest.fixture
def exported(boxflow: Boxflow, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A history of `approve`, which waited for nothing that was there already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    app = ("--app", "cli.shop:engine")
    assert boxflow("notify", "go", "--data", "1", *app).code == 0
    assert boxflow("run", "cli.shop:approve", "--payload", '"go"', "--run-id", "r", "--store", store).code == 0
    assert boxflow("export", "r", "--store", store, "-o", "history.json").code == 0
    return tmp_path / "history.json"


def test_a_history_is_one_json_document_and_is_written_whole(boxflow: Boxflow, exported: Path, store: str) -> None:
    assert [one["kind"] for one in json.loads(exported.read_text())["journal"]] == ["step_done", "event_arrived"]
    assert boxflow("export", "r", "--store", store).out == exported.read_text()
    assert sorted(path.name for path in exported.parent.iterdir()) == ["history.json", "state"]
    nowhere = boxflow("export", "r", "--store", store, "-o", "no/where/h.json")
    assert nowhere.code == 2 and "cannot be written" in nowhere.err


def test_code_that_still_fits_is_said_to_fit(boxflow: Boxflow, exported: Path) -> None:
    done = boxflow("replay", str(exported), "cli.shop:approve")
    assert (done.code, done.out) == (0, "run r: 2 outcomes fit cli.shop:approve\n")
    assert boxflow("replay", str(exported), "cli.shop:approve", "--json").data["fits"] is True


def test_code_that_diverges_is_told_with_what_is_recorded_what_is_pending_and_the_line(
    boxflow: Boxflow, exported: Path, tmp_path: Path
) -> None:
    (tmp_path / "changed_flow.py").write_text(CODE.format(step="welcome"))
    done = boxflow("replay", str(exported), "changed_flow:approve", "--json")
    assert done.code == 1
    assert (done.data["fits"], done.data["recorded"], done.data["seq"]) == (False, "step done 'greeting'", 1)
    assert done.data["pending"] == ["step 'welcome'"]
    assert "changed_flow.py:9" in done.data["waiting_at"][0]
    told = boxflow("replay", str(exported), "changed_flow:approve")
    assert (told.code, told.out) == (1, "run r: does not fit changed_flow:approve\n")
    assert "step done 'greeting'" in told.err and "step 'welcome'" in told.err and "changed_flow.py:9" in told.err


def test_a_history_of_another_workflow_is_refused(boxflow: Boxflow, exported: Path) -> None:
    done = boxflow("replay", str(exported), "cli.shop:greet")
    assert done.code == 2
    assert "the history is of workflow 'approve', and 'cli.shop:greet' is 'greet'" in done.err


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 99}', b"\xff", b"[]"])
def test_a_file_that_is_no_history_is_refused(boxflow: Boxflow, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "h.json").write_bytes(content)
    done = boxflow("replay", str(tmp_path / "h.json"), "cli.shop:approve")
    assert done.code == 2 and done.err.startswith("boxflow: this ")
