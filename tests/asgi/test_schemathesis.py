"""Schemathesis reads the document and asks a real server what it describes: nothing undocumented may come back."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from asgi.support import engine_of
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS, load_all_checks

from boxflow.asgi import create_app

KEY = secrets.token_urlsafe(32)
HEADERS = {"Authorization": f"Bearer {KEY}"}

# It takes what no JSON schema can say for an error of the server: that an id is printable, that a job is in its box.
EXCLUDED = frozenset({"positive_data_acceptance", "max_response_time", "object_level_authorization"})


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of an engine that has a run of each kind, in a thread of its own."""
    boxes: Path = tmp_path_factory.mktemp("boxes")
    engine = engine_of(sandbox=f"local:{boxes}")
    app = create_app(engine, api_keys=[KEY], stream_timeout="40ms", heartbeat="15ms")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        thread.start()
        while not server.started:
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


RUNS = {"done": ("double", 21), "failed": ("fail", None), "waiting": ("review", "never"), "parent": ("family", 1)}


def prepare(client: httpx.Client) -> None:
    """Have the runs be there, again after each operation: some delete them."""
    for run_id, (workflow, payload) in RUNS.items():
        answer = client.post("/runs", json={"workflow": workflow, "payload": payload, "run_id": run_id})
        assert answer.status_code in (200, 201)


def with_real_names(document: dict[str, Any]) -> dict[str, Any]:
    """*document*, asking also for what is there: random ids find nothing."""
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation["parameters"]:
                if parameter["name"] == "run_id" and parameter["in"] == "path":
                    parameter["schema"]["enum"] = [*RUNS, "parent/child", "nobody", "/", "\0é"]
    schemas = document["components"]["schemas"]
    schemas["StartBody"]["properties"]["workflow"]["enum"] = ["double", "review", "fail", "nothing"]
    # No random text for a shell, should it ever find a box.
    schemas["ExecBody"]["properties"]["command"] = {"enum": ["true", ["true"]]}
    return document


def check_operations(client: httpx.Client, url: str) -> set[str]:
    """Ask each operation what it describes; the names of those that were asked."""
    load_all_checks()
    checks = [check for check in CHECKS.get_all() if check.__name__ not in EXCLUDED]
    schema = schemathesis.openapi.from_dict(with_real_names(client.get("/openapi.json").json()))
    asked: set[str] = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        prepare(client)
        for mode in schemathesis.GenerationMode:
            if mode is schemathesis.GenerationMode.NEGATIVE and not (
                operation.query or operation.body or "{" in operation.path
            ):
                continue  # Nothing of it can be wrong.

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=10,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            )
            def ask(case: Any) -> None:
                asked.add(case.operation.label)
                case.call_and_validate(base_url=url, headers=HEADERS, checks=checks, timeout=20)

            ask()
    return asked


@pytest.mark.slow
def test_nothing_undocumented_is_ever_answered(url: str) -> None:
    with httpx.Client(base_url=url, headers=HEADERS, trust_env=False) as client:
        asked = check_operations(client, url)
        described = client.get("/openapi.json").json()["paths"]
    assert len(asked) == sum(len(path) for path in described.values())
