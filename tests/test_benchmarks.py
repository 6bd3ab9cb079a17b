"""The benchmarks run, and what they write has the shape that readers of the results rely on. No number is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
    assert {"format", "machine", "size", "rounds", "quiet", "programs"} == set(result)
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


@pytest.mark.parametrize("name", NAMES)
def test_every_target_is_about_subjects_that_are_measured(name: str) -> None:
    program = load(name)
    subjects = {subject.name for subject in program.subjects}
    assert len(subjects) == len(program.subjects)
    for target in program.targets:
        assert {target.subject, target.over or target.subject} <= subjects
