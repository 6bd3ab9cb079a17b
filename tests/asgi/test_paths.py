"""Paths: what a request means, with ids that have slashes, as sent and as a proxy or a prefix leaves it."""

from __future__ import annotations

from typing import Any

import pytest
from asgi.support import engine_of
from starlette.routing import Match

from boxflow.asgi import routes
from boxflow.asgi.routing import EndpointRoute, Path, segments_of


@pytest.mark.parametrize(
    ("path", "raw_path", "root_path", "expected"),
    [
        ("/runs/a/b", b"/runs/a%2Fb", "", ["runs", "a/b"]),
        ("/runs/a/b", b"/runs/a/b", "", ["runs", "a", "b"]),
        ("/runs/a/b", b"/runs/a%2Fb?x=/y", "", ["runs", "a/b"]),
        ("/runs/a/b", None, "", ["runs", "a", "b"]),
        ("/flow/runs/a/b", b"/flow/runs/a%2Fb", "/flow", ["runs", "a/b"]),
        ("/flow/runs/a/b", b"/runs/a%2Fb", "/flow", ["runs", "a/b"]),
        ("/flow/runs/a/b", b"/else/runs/a%2fb", "/flow", ["runs", "a/b"]),
        ("/runs/a/b", b"/runs/a%2Fb", "/flow", ["runs", "a/b"]),
        ("/flowers/runs", b"/flowers/runs", "/flow", ["flowers", "runs"]),
        ("/runs/é", "/runs/é".encode(), "", ["runs", "é"]),
        ("/runs/%2F", b"/runs/%252F", "", ["runs", "%2F"]),
        ("/runs/\ufffd", b"/runs/%FF", "", ["runs", "\ufffd"]),
        ("/runs/rewritten", b"/old/name", "", ["runs", "rewritten"]),
        ("/", b"/", "", [""]),
        ("", b"", "", []),
    ],
)
def test_segments_are_those_that_were_sent(
    path: str, raw_path: bytes | None, root_path: str, expected: list[str]
) -> None:
    scope: dict[str, Any] = {"type": "http", "path": path, "raw_path": raw_path, "root_path": root_path}
    assert list(segments_of(scope)) == expected


RUN = Path("/runs/{run_id}", ["history", "cancel"])
HISTORY = Path("/runs/{run_id}/history")


@pytest.mark.parametrize(
    ("segments", "run", "history"),
    [
        (["runs", "a"], "a", None),
        (["runs", "history"], "history", None),
        (["runs", "a/history"], "a/history", None),
        (["runs", "a", "history"], None, "a"),
        (["runs", "a", "b"], "a/b", None),
        (["runs", "a", "b", "history"], None, "a/b"),
        (["runs", "a", "cancel"], None, None),
        (["runs", "a", "cancel", "b"], "a/cancel/b", None),
        (["runs"], None, None),
        (["runs", ""], None, None),
        (["runs", "", "history"], None, None),
        (["boxes", "a"], None, None),
        ([], None, None),
    ],
)
def test_a_last_segment_that_is_an_action_is_the_action(
    segments: list[str], run: str | None, history: str | None
) -> None:
    for path, expected in ((RUN, run), (HISTORY, history)):
        assert path.match(tuple(segments)) == (None if expected is None else {"run_id": expected})


@pytest.mark.parametrize("path", ["", "/", "//", "/flow", "/runs//", "/\0"])
def test_a_path_that_is_hardly_one_is_nobody_s(path: str) -> None:
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "root_path": "/flow"}
    assert [route for route in routes(engine_of()) if route.matches(scope)[0] is Match.FULL] == []


def test_no_two_routes_are_for_the_same_path_and_method() -> None:
    found = [
        (route.path, method)
        for route in routes(engine_of())
        if isinstance(route, EndpointRoute)
        for method in route._endpoints
    ]
    assert len(found) == len(set(found))
