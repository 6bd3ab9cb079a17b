"""`boxflow serve`, and every command against it: one engine in a process of its own, over a real socket."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import httpx
import pytest
from cli.conftest import Boxflow, Done, program

KEY = "a-key-of-the-shop-0123456789"
READER = "a-key-to-look-0123456789"


@attrs.frozen
class Served:
    """A served engine."""

    url: str
    process: subprocess.Popen[str]


def serve(directory: Path, *options: str) -> Served:
    process = program(
        "serve", "cli.shop:engine", "--port", "0", "--api-key-env", "SHOP_KEY", "--api-key-env", "SHOP_READER=read",
        *options, SHOP_STORE=f"file:{directory}/state", SHOP_SANDBOX=f"local:{directory}/boxes", SHOP_KEY=KEY,
        SHOP_READER=READER,
    )  # fmt: skip
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("serving on http://127.0.0.1:"), line + process.stderr.read()
    return Served(line.split()[-1], process)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = serve(tmp_path_factory.mktemp("shop"))
    yield served
    served.process.send_signal(signal.SIGINT)
    out, err = served.process.communicate(timeout=30)
    assert (served.process.returncode, out) == (130, "")
    assert "Traceback" not in err


@pytest.fixture
def ask(boxflow: Boxflow, served: Served) -> Boxflow:
    """The command, pointed at the engine by its variables."""

    def run(*arguments: str, input: str | bytes | None = None, **variables: str) -> Done:
        return boxflow(*arguments, input=input, **{"BOXFLOW_URL": served.url, "BOXFLOW_API_KEY": KEY, **variables})

    return run


def start(served: Served, workflow: str, run_id: str, payload: object = None) -> None:
    body = {"workflow": workflow, "run_id": run_id, "payload": payload}
    answer = httpx.post(f"{served.url}/runs", json=body, headers={"X-API-Key": KEY}, trust_env=False)
    assert answer.status_code == 201, answer.text


def test_a_run_is_followed_while_an_event_ends_it(ask: Boxflow, served: Served) -> None:
    # An id with all that a path may not have.
    run_id = "a/b ?#%2F..é"
    start(served, "approve", run_id, "go")
    watching = program("runs", "watch", run_id, "--json", BOXFLOW_URL=served.url, BOXFLOW_API_KEY=KEY)
    assert watching.stdout is not None
    assert json.loads(watching.stdout.readline())["name"] == "greeting"
    sent = ask("notify", "go", "--data", "[1, 2]")
    assert (sent.code, sent.out) == (0, f"woke {run_id}\n")
    out, err = watching.communicate(timeout=30)
    *outcomes, end = [json.loads(line) for line in out.splitlines()]
    assert watching.returncode == 0, err
    assert [one["kind"] for one in outcomes] == ["event_arrived"]
    assert end["run"]["id"] == run_id and end["run"]["result"] == [1, 2]
    assert ask("runs", "show", run_id, "--json").data == end["run"]
    assert [one["seq"] for one in ask("runs", "history", run_id, "--json").data["outcomes"]] == [1, 2]


def test_ctrl_c_ends_a_watch_and_not_the_run(ask: Boxflow, served: Served) -> None:
    start(served, "approve", "left", "never")
    watching = program("runs", "watch", "left", BOXFLOW_URL=served.url, BOXFLOW_API_KEY=KEY)
    assert watching.stdout is not None
    watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=30)
    assert (watching.returncode, err) == (130, "")
    assert ask("runs", "show", "left", "--json").data["status"] == "waiting"


def test_runs_are_steered(ask: Boxflow, served: Served) -> None:
    start(served, "fail", "bad")
    assert ask("runs", "watch", "bad").code == 1
    assert ask("runs", "resume", "bad", "--json").data["id"] == "bad"
    assert ask("runs", "restart", "bad", "--json").data["workflow"] == "fail"
    assert ask("runs", "fork", "bad", "--before", "refuse", "--json").data["id"] != "bad"
    start(served, "approve", "stop", "never")
    assert ask("runs", "cancel", "stop", "--reason", "enough").code == 0
    ended = ask("runs", "watch", "stop")
    assert ended.code == 1 and "run stop was cancelled: enough" in ended.err
    assert ask("runs", "list", "--status", "cancelled", "--json").data["runs"][0]["reason"] == "enough"
    assert ask("runs", "prune", "--older-than", "1w", "--json").data == {"pruned": 0}


def test_a_history_is_exported_and_fits_its_workflow(ask: Boxflow, served: Served, tmp_path: Path) -> None:
    start(served, "greet", "ada", {"name": "Ada"})
    assert ask("runs", "watch", "ada").code == 0
    file = tmp_path / "ada.json"
    assert ask("export", "ada", "-o", str(file)).code == 0
    assert ask("export", "ada").out == file.read_text()
    assert ask("replay", str(file), "cli.shop:greet").code == 0


def test_boxes_are_looked_at_and_worked_in(ask: Boxflow, served: Served) -> None:
    start(served, "work", "worker")
    watching = program("runs", "watch", "worker", BOXFLOW_URL=served.url, BOXFLOW_API_KEY=KEY)
    assert watching.stdout is not None
    while "jobs.start" not in watching.stdout.readline():
        pass
    (box,) = ask("boxes", "list", "--run-id", "worker", "--json").data["boxes"]
    assert (box["name"], box["status"]) == ("bench", "running")
    assert [job["id"] for job in ask("boxes", "show", box["id"], "--json").data["jobs"]] == ["job"]
    done = ask("boxes", "exec", "--env", "X=1", box["id"], "echo $X; exit 3")
    assert (done.code, done.out) == (3, "1\n")
    assert ask("boxes", "logs", box["id"]).out == "begun\n"
    assert ask("runs", "cancel", "worker").code == 0
    _, err = watching.communicate(timeout=30)
    assert watching.returncode == 1 and "was cancelled" in err
    assert ask("boxes", "show", box["id"]).code == 3


def test_a_log_is_followed_to_the_end_of_its_job(ask: Boxflow, served: Served) -> None:
    start(served, "work", "logged")
    while not (boxes := ask("boxes", "--run-id", "logged", "--json").data["boxes"]):
        pass
    box_id = boxes[0]["id"]
    while not ask("boxes", "show", box_id, "--json").data["jobs"]:
        pass
    following = program("boxes", "logs", "--follow", box_id, BOXFLOW_URL=served.url, BOXFLOW_API_KEY=KEY)
    assert following.stdout is not None
    assert following.stdout.readline() == "begun\n"
    assert ask("boxes", "exec", box_id, "pkill -f 'sleep 60[0]'").code == 0
    out, err = following.communicate(timeout=30)
    assert (following.returncode, out, err) == (0, "", "")
    assert ask("runs", "cancel", "logged").code == 0


@pytest.mark.parametrize(
    ("variables", "command", "code", "says"),
    [
        ({"BOXFLOW_API_KEY": "wrong"}, ["runs"], 4, "the API key is not one of this server's keys"),
        ({"BOXFLOW_API_KEY": ""}, ["runs"], 4, "give the key in BOXFLOW_API_KEY"),
        ({"BOXFLOW_API_KEY": READER}, ["runs", "cancel", "x"], 4, "does not have scope 'run'"),
        ({"BOXFLOW_API_KEY": READER}, ["runs"], 0, ""),
        ({"BOXFLOW_API_KEY": "two\nlines"}, ["runs"], 2, "characters that no header takes"),
        ({"BOXFLOW_URL": "http://127.0.0.1:1"}, ["runs"], 4, "no engine answers at http://127.0.0.1:1"),
        ({}, ["runs", "show", "nobody"], 3, "no run 'nobody'"),
        ({}, ["boxes", "show", "nothing"], 3, "no box 'nothing'"),
        ({}, ["boxes", "delete", "nothing"], 3, "no box 'nothing'"),
        ({}, ["runs", "list", "--cursor", "nobody"], 3, "no run 'nobody'"),
    ],
)
def test_a_refusal_has_its_exit_code(
    ask: Boxflow, variables: dict[str, str], command: list[str], code: int, says: str
) -> None:
    done = ask(*command, **variables)
    assert done.code == code
    assert says in done.err
    assert "lines" not in done.err


def test_the_doctor_looks_at_the_engine(ask: Boxflow, tmp_path: Path) -> None:
    done = ask("doctor", "--sandbox", f"local:{tmp_path}/b", "--json", "--directory", str(tmp_path))
    found = {one["name"]: one["status"] for one in done.data["findings"]}
    assert (done.code, found["engine"], found["sandbox"], found["claude-code"]) == (0, "ok", "ok", "missing")
    down = ask("doctor", "--json", "--directory", str(tmp_path), BOXFLOW_URL="http://127.0.0.1:1")
    assert (down.code, down.data["ok"]) == (1, False)


@pytest.mark.slow
def test_who_watches_does_not_hold_a_server_that_stops_and_goes_on_with_the_next(
    boxflow: Boxflow, tmp_path: Path
) -> None:
    first = serve(tmp_path)
    variables = {"BOXFLOW_URL": first.url, "BOXFLOW_API_KEY": KEY}
    start(first, "approve", "long", "go")
    watching = program("runs", "watch", "long", "--json", **variables)
    locked = program("serve", "cli.shop:engine", SHOP_STORE=f"file:{tmp_path}/state", SHOP_SANDBOX="local:")
    assert watching.stdout is not None
    assert json.loads(watching.stdout.readline())["name"] == "greeting"
    _, err = locked.communicate(timeout=30)
    assert locked.returncode == 4
    assert f"is owned by process {first.process.pid}" in err and "Traceback" not in err

    first.process.send_signal(signal.SIGTERM)
    out, err = first.process.communicate(timeout=30)
    assert (first.process.returncode, out, err) == (0, "", "")
    second = serve(tmp_path, "--port", first.url.rpartition(":")[2])
    assert boxflow("notify", "go", **variables).code == 0
    out, err = watching.communicate(timeout=30)
    assert (watching.returncode, err) == (0, "")
    assert [json.loads(line).get("seq") for line in out.splitlines()] == [2, None]
    second.process.send_signal(signal.SIGTERM)
    out, err = second.process.communicate(timeout=30)
    assert (second.process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--api-key-env", "NOT_SET"], 2, "variable 'NOT_SET' is not set"),
        (["--api-key-env", "SHORT"], 2, "needs at least 16"),
        (["--api-key-env", "SHOP_KEY=fly"], 2, "scope 'fly', which is none"),
        (["--api-key-env", "SHOP_KEY", "--api-key-env", "SHOP_KEY"], 2, "a key that another one has too"),
        (["--host", "203.0.113.1"], 4, "cannot listen on 203.0.113.1:8000"),
    ],
)
def test_what_cannot_be_served_is_said(boxflow: Boxflow, options: list[str], code: int, says: str) -> None:
    done = boxflow("serve", "cli.shop:engine", *options, SHORT="short", SHOP_KEY=KEY)
    assert done.code == code
    assert says in done.err
    assert KEY not in done.err


def test_a_port_that_is_taken_is_said(boxflow: Boxflow) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = boxflow("serve", "cli.shop:engine", "--port", str(port))
    assert done.code == 4
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.err


def test_an_address_where_something_else_answers_is_told_from_a_run_that_is_not_there(
    boxflow: Boxflow, served: Served
) -> None:
    done = boxflow("runs", "show", "x", "--url", f"{served.url}/deeper", BOXFLOW_API_KEY=KEY)
    assert done.code in (3, 4)
    assert done.err.startswith("boxflow: ")
