"""Every example runs, and says what it should."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from boxflow.agent_programs import find

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

SAYS = {
    "code_interpreter.py": (
        "15 primes\n328\ncommand 'python code' was killed after 2 s\nexit 1: ZeroDivisionError: division by zero\n"
    ),
    "long_running_agent.py": "HELLO FROM FAR AWAY\n",
    "parallel_agents.py": "{'loud': 'STARS', 'backwards': 'srats', 'martian': '(failed)'}\nboxes left: 0\n",
    "human_approval.py": "On boxes (shorter)\n['write', 'review', 'write', 'review']\n",
    "slack_approval.py": "Deploy version 2? 401 200\nversion 2 was deployed by ann\nonce more: 200\n",
    "github_webhook.py": "202 gh-72d3162e\n202 gh-72d3162e\n401 (refused)\n['octo/hello at 7fd1a60: built']\n",
}


def environment(**more: str) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "backends")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1", **more}


def run(*arguments: str, timeout_s: float = 60, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@pytest.mark.parametrize("name", sorted(SAYS))
def test_an_example_says_what_it_should(name: str) -> None:
    done = run(str(EXAMPLES / name))
    assert (done.stdout, done.stderr, done.returncode) == (SAYS[name], "", 0)


def test_boxes_work_alone() -> None:
    done = run(str(EXAMPLES / "boxes_alone.py"))
    assert done.stderr == ""
    assert done.stdout.startswith("hello 0\ndiff --git a/poem.txt")
    assert "+violets are blue" in done.stdout
    assert done.stdout.endswith("boxes left: 0\n")


def test_the_offline_unit_tests_pass() -> None:
    done = run_tests("unit_test_offline.py")
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout


def test_a_backend_of_one_s_own_passes_its_contract() -> None:
    done = run_tests("own_backend")
    assert done.returncode == 0, done.stdout


def run_tests(name: str) -> subprocess.CompletedProcess[str]:
    # By their names: an installed boxflow brings its plugin as an entry point, a source tree does not.
    plugins = ["-p", "anyio.pytest_plugin", "-p", "boxflow.testing.pytest_plugin", "-p", "no:cacheprovider"]
    return run("-m", "pytest", "-q", *plugins, str(EXAMPLES / name), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


def test_an_order_goes_through_the_fastapi_app(tmp_path: Path) -> None:
    program = """
import time
from starlette.testclient import TestClient
from examples.embedded_fastapi import app

with TestClient(app) as client:
    assert client.get("/orders/1").status_code == 404
    for _ in range(2):
        assert client.post("/orders/1", json={"item": "box", "amount": 2}).json() == {"run_id": "1"}
    client.post("/flow/events/paid-1", json={"by": "card"}).raise_for_status()
    while (answer := client.get("/orders/1").json())["status"] != "completed":
        time.sleep(0.01)
    print(answer["result"])
"""
    done = run("-W", "ignore", "-c", program, BOXFLOW_STORE=f"file:{tmp_path}")
    assert (done.stdout, done.returncode) == ("2 x box, paid by card\n", 0), done.stderr


def test_a_trip_goes_through_the_starlette_app_and_a_restart(tmp_path: Path) -> None:
    program = """
import time
from starlette.testclient import TestClient
from examples.embedded_starlette import app

with TestClient(app) as client:
    if client.get("/trips/1").status_code == 404:
        for _ in range(2):
            assert client.post("/trips/1", json={"to": "Rome", "nights": 2}).json() == {"run_id": "1"}
    else:
        client.post("/flow/events/visa-1", json={"granted": True}).raise_for_status()
        while (answer := client.get("/trips/1").json())["status"] != "completed":
            time.sleep(0.01)
        print(answer["booked"])
"""
    for says in ("", "['flight to Rome', 'hotel for 2 nights to Rome']\n"):
        done = run("-W", "ignore", "-c", program, BOXFLOW_STORE=f"file:{tmp_path}")
        assert (done.stdout, done.returncode) == (says, 0), done.stderr


def test_every_small_example_is_small_and_run_here() -> None:
    small = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in EXAMPLES.glob("*.py")}
    others = {
        "boxes_alone.py",
        "commit_checks.py",
        "embedded_fastapi.py",
        "embedded_starlette.py",
        "unit_test_offline.py",
        "__init__.py",
    }
    assert set(small) - others == set(SAYS)
    assert {name: length for name, length in small.items() if length > 110} == {}


def test_each_commit_is_tested_in_a_box_of_its_own(tmp_path: Path) -> None:
    script = (
        "git init -q -b main . && for n in 1 2 '('; do echo \"x = $n\" > a.py; git add .; "
        'git -c user.name=a -c user.email=a@b commit -qm "$n"; done'
    )
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True)
    done = run(str(EXAMPLES / "commit_checks.py"), str(tmp_path), "python3 -m py_compile a.py")
    assert done.returncode == 0, done.stderr
    broken, second, first, left = re.split(r"\n(?=\w{8} |boxes)", done.stdout.strip())
    assert "SyntaxError" in broken or "never closed" in broken
    assert second.endswith(" ok") and first.endswith(" ok")
    assert left == "boxes left: 0"


@pytest.mark.real
@pytest.mark.agents
@pytest.mark.parametrize("agent", ["claude-code", pytest.param("codex", marks=pytest.mark.thorough)])
def test_real_agents_port_a_change_and_are_sent_back_once(agent: str, need: Callable[[str, bool], None]) -> None:
    need(agent, find(agent) is not None)
    done = run(
        *("-m", "examples.port_with_agents", "--offline", "--agent", agent, "--feedback", "say who wrote it"),
        timeout_s=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Reviewed: say who wrote it") == 3
    for line in ("func Delay(n int)", "def delay(n) =", "export const delay ="):
        assert f"+{line}" in done.stdout
    assert done.stdout.splitlines()[-2].startswith("7 agent runs, ")
    assert done.stdout.endswith("boxes left: 0\n")


# --- the demo --------------------------------------------------------------------------------------------------------


def test_the_agents_are_sent_back_with_feedback_and_then_approved(tmp_path: Path) -> None:
    done = run(
        *("-m", "examples.port_change", "--yes", "--fast", "--no-prove"),
        *("--feedback", "mention the formula", "--directory", str(tmp_path)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sent back: mention the formula" in done.stdout
    assert "after 2 round(s); boxes left: 0" in done.stdout
    for line in ("func RetryDelay(", "export function retryDelay(", "def self.retry_delay(", "# Reviewed: mention"):
        assert f"+{line}" in done.stdout or f"+  {line}" in done.stdout, line


def test_a_person_approves_from_a_second_terminal_after_a_restart(tmp_path: Path) -> None:
    demo = ("-m", "examples.port_change", "--fast", "--no-prove", "--directory", str(tmp_path))
    question = tmp_path / "question.json"
    for life in ("first", "second"):
        process = subprocess.Popen(
            [sys.executable, *demo],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + 40
        while not question.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        if life == "first":
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=20)
            assert "go on with" in output
            assert process.returncode == 130
    approve = run("-m", "examples.port_change", "approve", str(tmp_path))
    output, _ = process.communicate(timeout=30)
    assert approve.stdout == "approved\n", approve.stderr
    assert process.returncode == 0, output
    assert "after 1 round(s); boxes left: 0" in output
    assert "nothing waits for an answer" in run("-m", "examples.port_change", "approve", str(tmp_path)).stderr


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_the_pipeline_survives_being_killed_again_and_again(tmp_path: Path, seed: int) -> None:
    done = run(
        *("-m", "examples.port_change", "--yes", "--fast", "--directory", str(tmp_path), "--seed", str(seed)),
        timeout_s=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it holds" in done.stdout
    assert len(re.findall(r"^  kill +\d+", done.stdout, re.MULTILINE)) >= 5
