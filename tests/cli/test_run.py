"""`boxflow run`: a result on stdout, progress on stderr, and an exit code that says how it went."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli.conftest import Boxflow, program


def test_the_result_is_json_on_stdout_and_the_progress_is_on_stderr(boxflow: Boxflow) -> None:
    done = boxflow("run", "cli.shop:greet", "--payload", '{"name": "Ada", "visits": 3}', "--run-id", "ada")
    assert done.code == 0
    assert done.data == {"text": "hello Ada", "visits": 3}
    assert "run ada" in done.err
    assert "step done 'greeting'" in done.err and "child ended 'count'  (run ada/count completed)" in done.err


def test_quietly_there_is_nothing_but_the_result(boxflow: Boxflow) -> None:
    done = boxflow("run", "cli.shop:count", "--payload", "7", "--quiet")
    assert (done.code, done.out, done.err) == (0, "7\n", "")


def test_a_payload_comes_from_a_file_or_from_stdin(boxflow: Boxflow, tmp_path: Path) -> None:
    (tmp_path / "guest.json").write_text('{"name": "Grace"}')
    from_file = boxflow("run", "cli.shop:greet", "--payload", f"@{tmp_path}/guest.json")
    from_stdin = boxflow("run", "cli.shop:greet", "--payload", "-", input='{"name": "Grace"}')
    assert from_file.data == from_stdin.data == {"text": "hello Grace", "visits": 1}


def test_a_payload_that_is_left_out_is_the_default_of_the_workflow(boxflow: Boxflow, store: str) -> None:
    asked = boxflow("run", "cli.shop:fail", "--store", store, "--json")
    assert (
        asked.data["error"]["message"] == "step 'refuse' failed (tried once): ConnectionError: \x1b]0;closed\x07 today"
    )


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ('{"visits": 3}', "missing required field `name`"),
        ('{"name": ', "--payload is not what workflow 'greet' takes"),
        ("Ada", """a text has quotes of its own, as in '"Ada"'"""),
        ("@/nowhere", "'/nowhere' cannot be read: No such file or directory"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_before_anything_runs(
    boxflow: Boxflow, store: str, tmp_path: Path, payload: str, says: str
) -> None:
    done = boxflow("run", "cli.shop:greet", "--payload", payload, "--store", store)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert not (tmp_path / "state").exists()


def test_a_run_that_fails_says_why_and_nothing_of_it_steers_the_terminal(boxflow: Boxflow) -> None:
    done = boxflow("run", "cli.shop:fail", "--run-id", "f")
    assert (done.code, done.out) == (1, "")
    assert "run f failed: StepFailedError: step 'refuse' failed" in done.err
    assert r"\x1b]0;closed\x07 today" in done.err and "\x1b" not in done.err
    assert "Traceback (most recent call last)" in done.err and "shop.py" in done.err


def test_as_json_the_whole_run_is_printed_however_it_ended(boxflow: Boxflow) -> None:
    done = boxflow("run", "cli.shop:fail", "--label", "a", "--label", "b", "--json")
    assert done.code == 1
    assert (done.data["status"], done.data["labels"], done.data["length"]) == ("failed", ["a", "b"], 1)
    assert "\x1b" not in done.out


def test_the_same_id_again_is_the_same_run(boxflow: Boxflow, store: str) -> None:
    for visits in ("1", "2"):
        done = boxflow("run", "cli.shop:count", "--payload", visits, "--store", store, "--run-id", "r")
        assert done.data == 1


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("cli.shop", "write module:name"),
        ("cli.nowhere:x", "there is no module 'cli.nowhere'"),
        ("cli.shop:sell", "module 'cli.shop' has no 'sell'; it has greet, count, fail, approve, work"),
        ("cli.shop:greeting", "decorate the function with `@workflow`"),
    ],
)
def test_what_is_no_workflow_is_refused_by_name(boxflow: Boxflow, target: str, says: str) -> None:
    done = boxflow("run", target)
    assert done.code == 2
    assert says in done.err


def test_a_module_that_cannot_be_imported_shows_its_own_traceback(
    boxflow: Boxflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unlucky_module.py").write_text("import boxflow\n\nvalue = 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    done = boxflow("run", "unlucky_module:flow")
    assert done.code == 2
    assert "module 'unlucky_module' cannot be imported" in done.err
    assert 'unlucky_module.py", line 3' in done.err and "ZeroDivisionError" in done.err
    assert "importlib" not in done.err


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """What the process has said until it says *text*; what hangs is a failure."""
    assert process.stderr is not None
    said = ""
    deadline = time.monotonic() + 30
    while text not in said and time.monotonic() < deadline:
        line = process.stderr.readline()
        assert line, said
        said += line
    return said


def test_ctrl_c_leaves_a_run_that_the_same_command_goes_on_with(boxflow: Boxflow, store: str) -> None:
    command = ("run", "cli.shop:approve", "--payload", '"ok"', "--store", store, "--run-id", "my run")
    first = program(*command)
    wait_for(first, "step done 'greeting'")
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=30)
    assert (first.returncode, out) == (130, "")
    assert f"it goes on with: boxflow run cli.shop:approve --store {store} --run-id 'my run'" in err
    assert "Traceback" not in err

    assert boxflow("notify", "ok", "--data", "[1]", "--app", "cli.shop:engine").code == 0
    again = boxflow(*command)
    assert (again.code, again.data) == (0, [1])
    assert "step done 'greeting'" in again.err


def test_sigterm_leaves_too_and_says_what_is_lost_with_a_store_in_memory() -> None:
    process = program("run", "cli.shop:approve", "--payload", '"ok"')
    wait_for(process, "step done 'greeting'")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "is gone with this process" in err and "--store file:state keeps runs" in err


def test_a_result_is_written_so_that_it_can_be_printed_and_read(boxflow: Boxflow) -> None:
    name = "\x9b2J\u202e\u2028é\U000e0001"
    done = boxflow("run", "cli.shop:greet", "--payload", json.dumps({"name": name}), "--quiet")
    assert done.data["text"] == f"hello {name}"
    assert [one for one in done.out if not one.isprintable() and one != "\n"] == []
    assert "é" in done.out
