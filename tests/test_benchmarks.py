"""The benchmarks run, and what they write has the shape that readers of the results rely on. No number is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks import plots, readme, report, rounds, shape
from benchmarks.model import Sample
from benchmarks.peers.installing import PACKAGES
from benchmarks.peers.programs import NAMES as PEER_NAMES
from benchmarks.peers.sampling import measure
from benchmarks.peers.servers import kept
from benchmarks.peers.variants import VARIANTS, Variant
from benchmarks.programs import NAMES, load

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")])}
    command = [sys.executable, "-m", "benchmarks", "--size", "tiny", "--rounds", "1", *arguments]
    answer = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_program_writes_its_samples_and_its_verdicts_as_json(name: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    page = run("--only", name, "--directory", str(tmp_path), "--json", str(path))

    result: dict[str, Any] = json.loads(path.read_text())
    assert {"format", "machine", "size", "rounds", "quiet", "programs", "peers"} == set(result)
    assert {"processor", "processors", "system", "file_system", "python"} <= set(result["machine"])
    (answer,) = result["programs"].values()
    for subject in answer["subjects"].values():
        (sample,) = subject["samples"]
        assert sample["operations"] > 0
        assert {"per_s", "cpu_us"} <= set(sample["values"])
        assert set(subject["measures"]) == set(sample["values"])
    for target in answer["targets"]:
        assert {"promise", "measured", "limit", "at_least", "holds"} == set(target)
        assert target["promise"] in page
    assert path.with_suffix(".md").read_text() == page.rstrip("\n") + "\n"


@pytest.mark.slow
def test_a_result_can_be_compared_with_an_earlier_one(tmp_path: Path) -> None:
    arguments = ("--only", "steps", "--subjects", "memory_1", "--directory", str(tmp_path))
    path = tmp_path / "old.json"
    run(*arguments, "--json", str(path))

    assert "steps.memory_1 | per second" in run(*arguments, "--compare", str(path))


@pytest.mark.parametrize("name", [*NAMES, *PEER_NAMES])
def test_every_target_is_about_subjects_that_are_measured(name: str) -> None:
    program = load(name)
    subjects = {subject.name for subject in program.subjects}
    assert len(subjects) == len(program.subjects)
    for target in program.targets:
        assert {target.subject, target.over or target.subject} <= subjects


# --- peers ---------------------------------------------------------------------------------------------------------


def test_every_peer_is_installed_from_somewhere_or_lives_here() -> None:
    assert {variant.peer for variant in VARIANTS} == {"boxflow", "floor", *PACKAGES}
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)


@pytest.mark.slow
def test_boxflow_and_a_floor_are_driven_as_peers_are_and_boxflow_recovers_from_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    programs = ("peers.sequence_1", "peers.recovery")
    subjects = ("--subjects", "floor_log", "boxflow_file_always")
    page = run("--only", *programs, *subjects, "--directory", str(tmp_path), "--json", str(path))

    found = report.read(path)
    steps, recovery = (found.programs[name].subjects for name in programs)
    assert steps["boxflow_file_always"].measures["per_s"].median > 0
    assert recovery["boxflow_file_always"].samples[0].operations == 5  # as many as were left waiting
    assert recovery["boxflow_file_always"].measures["lost"].median == 0
    assert recovery["floor_log"].samples[0].error == "a floor: nothing reads the log again"
    assert "a floor: nothing reads the log again" in page
    assert (tmp_path / "peers" / "peers.sequence_1.svg").exists()


def test_a_driver_that_fails_is_a_sample_with_the_reason(tmp_path: Path) -> None:
    nobody = Variant(peer="nobody", variant="x", what="a peer that nobody has written a driver for")

    sample = measure(nobody, "sequence", 1, 1, tmp_path)

    assert sample.operations == 0
    assert sample.error == "ModuleNotFoundError: No module named 'benchmarks.peers.drivers.nobody'"


def test_the_table_names_the_peer_that_could_not_be_measured_and_why() -> None:
    program = load("peers.sequence_1")
    good = Sample(operations=9, values={"per_s": 9.0, "cpu_us": 1.0, "noise": 0.0})
    samples = {
        "boxflow_file_always": [good],
        "dbos_pg": [Sample(operations=0, values={}, error="PostgreSQL is not on this machine")],
    }

    page = report.as_markdown(_report(report.of_program(program, samples), program.name), [program])

    assert "| DBOS 3.4, PostgreSQL; synced before it is acknowledged | not measured |" in page
    assert "- DBOS 3.4, PostgreSQL; synced before it is acknowledged: PostgreSQL is not on this machine." in page


def test_a_ratio_is_taken_within_the_rounds_that_have_both() -> None:
    failed = Sample(operations=0, values={}, error="it broke")
    fast, slow = (Sample(operations=1, values={"per_s": value}) for value in (8.0, 2.0))

    assert report.ratios([fast, failed, fast], [slow, slow, failed], "per_s") == [4.0]


def test_what_a_keeper_keeps_ends_with_all_its_children_when_the_runner_is_gone(tmp_path: Path) -> None:
    command = ["sh", "-c", "sleep 300 & echo $!; wait"]
    with kept(command, tmp_path / "log", answers=True) as (leader, output):
        child = int(output.readline())
        assert _runs(leader) and _runs(child)

    deadline = time.monotonic() + 30  # A hang guard: a killed process is gone a moment later.
    while (_runs(leader) or _runs(child)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(leader) and not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# --- what is made of results ---------------------------------------------------------------------------------------


def _report(answer: report.ProgramReport, name: str) -> report.Report:
    committed = report.read(shape.newest(RESULTS))
    return report.Report(machine=committed.machine, size=committed.size, rounds=1, quiet=True, programs={name: answer})


RESULTS = ROOT / "benchmarks" / "results"


def test_a_plot_is_an_svg_with_a_bar_for_each_subject(tmp_path: Path) -> None:
    program = load("steps")
    samples = {
        "asyncio_100": [Sample(operations=1, values={"per_s": value}) for value in (300_000.0, 310_000.0)],
        "file_100": [Sample(operations=1, values={"per_s": value}) for value in (20.0, 30.0)],
    }

    drawn = plots.write(tmp_path, _report(report.of_program(program, samples), "steps"), [program])

    root = ET.fromstring(drawn["steps"].read_text())
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "FileStore, 100 runs at once" in texts and "305,000" in texts
    assert "per second, logarithmic from 10" in texts
    bars = [float(one.attrib["width"]) for one in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert 0 < bars[1] < bars[0]


PAGE = """Numbers:
<!-- measured: own benchmarks/results/2026-11-24-quick.json -->
| by hand | 7 |
<!-- end of measured -->
and more.
"""


def test_a_marked_table_is_written_from_its_result_and_what_is_around_it_stays() -> None:
    page = readme.rewritten(PAGE, {})

    assert "by hand" not in page
    assert "| durable steps a second, in memory, 100 runs at once | 41,085 |" in page
    assert page.startswith("Numbers:\n<!-- measured: own") and page.endswith("<!-- end of measured -->\nand more.\n")
    assert readme.rewritten(page, {}) == page


def test_a_page_that_says_something_else_than_its_result_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)

    assert readme.main(["--check", str(page)]) == 1
    assert capsys.readouterr().out == f"not what its result says: {page}\n"
    assert page.read_text() == PAGE


def test_the_pages_of_this_project_say_what_was_measured() -> None:
    assert readme.BLOCK.search((ROOT / "benchmarks" / "README.md").read_text())
    assert readme.main(["--check"]) == 0


def _values(rate: float, cpu: float) -> dict[str, dict[str, float]]:
    """A floor of 100, and a subject."""
    return {"a.floor": {"per_s": 100.0, "cpu_us": 1.0}, "a.subject": {"per_s": rate, "cpu_us": cpu}}


@pytest.mark.parametrize(
    ("rate", "cpu", "holds"),
    [
        (40, 10, True),  # as before
        (19, 10, True),  # a disk with slower syncs: only the rate is worse
        (40, 21, True),  # others use the machine: only the processor time is
        (19, 21, False),
    ],
)
def test_the_shape_is_lost_when_a_ratio_has_halved_in_rate_and_in_processor_time(
    rate: float, cpu: float, holds: bool
) -> None:
    case = shape.Case(subject="a.subject", floor="a.floor")

    assert shape.judge(case, committed=_values(40, 10), now=_values(rate, cpu)).holds is holds


@pytest.mark.slow
def test_boxflow_has_kept_the_shape_of_the_newest_committed_result(tmp_path: Path) -> None:
    run("--shape", "--directory", str(tmp_path))


def test_a_sample_whose_process_fails_says_so_and_takes_no_other_with_it(tmp_path: Path) -> None:
    sample = rounds.one("steps", "no such subject", 1, tmp_path)
    assert sample.error == "its process ended with 1" and sample.values == {}
    assert list(tmp_path.glob("steps-*")) == []
