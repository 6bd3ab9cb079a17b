"""`boxflow boxes` straight at a sandbox: beside the engine that made them, or without one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cli.conftest import Boxflow, Done

from boxflow import Boxes
from boxflow_backends.local_sandbox import LocalSandbox


@pytest.fixture
def at_box(boxflow: Boxflow, tmp_path: Path) -> Boxflow:
    """The command, at a sandbox with one box, `bench`, in which a job has run."""

    async def make() -> None:
        async with Boxes(LocalSandbox(tmp_path / "boxes")) as boxes:
            box = await boxes.create("bench", box_id="bench", labels={"for": "tests"}, keep=True)
            job = await box.jobs.start(r"printf 'a\033[2Jb\n'", job_id="print")
            await job.wait()

    asyncio.run(make())

    def run(*arguments: str, input: str | bytes | None = None, **variables: str) -> Done:
        return boxflow("boxes", *arguments, input=input, BOXFLOW_SANDBOX=f"local:{tmp_path}/boxes", **variables)

    return run


def test_boxes_are_listed_by_label(at_box: Boxflow) -> None:
    assert [line[0] for line in at_box().lines] == ["id", "bench"]
    assert [box["id"] for box in at_box("list", "--label", "for=tests", "--json").data["boxes"]] == ["bench"]
    assert at_box("list", "--label", "for=fun", "--json").data == {"boxes": []}
    assert at_box("list", "--label", "tests").code == 2


def test_a_box_is_shown_with_its_jobs(at_box: Boxflow) -> None:
    shown = at_box("show", "bench")
    assert ["labels", "for=tests"] in shown.lines
    assert "print" in shown.out and "exited" in shown.out


def test_a_command_runs_in_a_box_and_ends_as_it_does(at_box: Boxflow) -> None:
    shell = at_box("exec", "--env", "X=a b", "bench", 'echo "$X"; echo wrong >&2; exit 7')
    assert (shell.code, shell.out, shell.err) == (7, "a b\n", "wrong\n")
    words = at_box("exec", "bench", "printf", "%s|", "a b", "--json", "$X")
    assert (words.code, words.out) == (0, "a b|--json|$X|")
    told = at_box("exec", "--json", "bench", "true").data
    assert (told["exit_code"], told["stdout"], told["timed_out"]) == (0, "", False)
    late = at_box("exec", "--timeout", "0.1", "bench", "sleep 600")
    assert late.code == 137 and "longer than 0.1s" in late.err


def test_what_a_job_wrote_is_passed_on_as_it_is_where_no_terminal_is(at_box: Boxflow) -> None:
    assert at_box("logs", "bench").out == "a\x1b[2Jb\n"
    assert at_box("logs", "bench", "--job", "print", "--offset", "5", "--follow").out == "b\n"
    assert at_box("logs", "bench", "--job", "other").code == 3


def test_a_box_is_deleted_and_a_wrong_id_is_a_mistake(at_box: Boxflow) -> None:
    done = at_box("delete", "bench", "nothing")
    assert (done.code, done.out) == (3, "deleted bench\n")
    assert "no box 'nothing'" in done.err
    assert at_box("list", "--json").data == {"boxes": []}


def test_pruning_takes_what_nobody_owns(at_box: Boxflow, tmp_path: Path) -> None:
    async def forget() -> None:
        async with Boxes(LocalSandbox(tmp_path / "boxes")) as boxes:
            await boxes.create("old", ttl=0, keep=True)

    asyncio.run(forget())
    assert at_box("prune", "--json").data == {"deleted": 1}
    assert [box["id"] for box in at_box("list", "--json").data["boxes"]] == ["bench"]


def test_a_store_tells_which_boxes_are_its_engines(at_box: Boxflow, boxflow: Boxflow, store: str) -> None:
    assert at_box("list", "--store", store).code == 4
    assert boxflow("run", "cli.shop:count", "--payload", "1", "--store", store).code == 0
    assert at_box("list", "--store", store, "--json").data == {"boxes": []}


def test_a_sandbox_that_is_not_there_ends_with_4(boxflow: Boxflow, tmp_path: Path) -> None:
    done = boxflow("boxes", "--sandbox", "docker:", DOCKER_HOST=f"unix://{tmp_path}/nothing")
    assert (done.code, done.out) == (4, "")
    assert "does not answer" in done.err
