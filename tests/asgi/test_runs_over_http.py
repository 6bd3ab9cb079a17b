"""Runs over HTTP: started, found, read and steered."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from asgi.support import Server, engine_of, serving
from behaviour.manual_clock import ManualClock
from behaviour.support import eventually, until
from starlette.applications import Starlette
from starlette.routing import Mount

from boxflow import Context, Engine, RunStatus, workflow
from boxflow.asgi import lifespan, routes
from boxflow.history_file import load_history

RUN_MEMBERS = {
    "id",
    "workflow",
    "version",
    "labels",
    "status",
    "created_at",
    "updated_at",
    "parent",
    "error",
    "reason",
    "waiting",
    "length",
}


@dataclass(frozen=True)
class Person:
    name: str
    age: int = 0


@dataclass(frozen=True)
class Party:
    guests: list[Person]
    place: str = "here"


@workflow
async def invite(ctx: Context, party: Party) -> int:
    return len(party.guests)


@workflow(version=2)
async def versioned(ctx: Context, payload: None) -> str:
    return "two"


@workflow(name="versioned", version=1)
async def versioned_before(ctx: Context, payload: None) -> str:
    return "one"


async def post(server: Server, path: str, body: Any = None) -> httpx.Response:
    return await server.client.post(path, json=body)


# --- start ----------------------------------------------------------------------------------------------------------


async def test_a_run_is_started_by_the_name_of_its_workflow() -> None:
    async with serving() as server:
        body = {"workflow": "double", "payload": 21, "run_id": "a", "labels": ["x", "y"]}
        answer = await post(server, "/runs", body)
        assert (answer.status_code, answer.headers["location"]) == (201, "/runs/a")
        started = answer.json()
        assert set(started) - {"result"} == RUN_MEMBERS
        assert (started["id"], started["workflow"], started["labels"]) == ("a", "double", ["x", "y"])
        assert await (await server.engine.get("a")).result() == 42


async def test_the_same_id_again_is_the_same_run_and_is_said_to_be() -> None:
    async with serving() as server:
        body = {"workflow": "double", "payload": 1, "run_id": "a"}
        answers = await asyncio.gather(*(post(server, "/runs", body) for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 201]
        assert {answer.headers["location"] for answer in answers} == {"/runs/a"}
        assert (await post(server, "/runs", body)).status_code == 200
        other = await post(server, "/runs", {"workflow": "review", "payload": "e", "run_id": "a"})
        assert (other.status_code, other.json()["title"]) == (409, "Run is not in a state for that")


async def test_a_run_may_begin_later() -> None:
    clock = ManualClock()
    async with serving(engine_of(clock=clock)) as server:
        answer = await post(server, "/runs", {"workflow": "double", "payload": 1, "delay": "5m"})
        due, created = (datetime.fromisoformat(answer.json()[name]) for name in ("due", "created_at"))
        assert (due - created).total_seconds() == 300
        assert answer.json()["status"] == "pending"


async def test_a_version_may_be_chosen() -> None:
    async with serving(Engine([versioned, versioned_before], blocking_limit=None)) as server:
        for version, result in ((None, "two"), (1, "one"), ("2", "two")):
            answer = await post(server, "/runs", {"workflow": "versioned", "version": version})
            run = await server.engine.get(answer.json()["id"])
            assert await run.result() == result
        answer = await post(server, "/runs", {"workflow": "versioned", "version": 3})
        assert (answer.status_code, answer.json()["title"]) == (404, "Unknown workflow")


async def test_a_payload_may_be_left_out_where_its_type_allows_none() -> None:
    async with serving() as server:
        assert (await post(server, "/runs", {"workflow": "fail"})).status_code == 201
        answer = await post(server, "/runs", {"workflow": "double"})
        assert (answer.status_code, answer.json()["title"]) == (422, "Data cannot be kept")
        assert "the payload of workflow 'double' is None" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("payload", "pointer", "reason"),
    [
        ({}, "#/payload", "Object missing required field `guests`"),
        ({"guests": [{"name": "ann"}, {"name": 7}]}, "#/payload/guests/1/name", "Expected `str`, got `int`"),
        ({"guests": [], "place": None}, "#/payload/place", "Expected `str`, got `null`"),
        ("text", "#/payload", "Expected `object`, got `str`"),
    ],
)
async def test_a_payload_of_another_type_is_refused_with_what_is_wrong_and_where(
    payload: Any, pointer: str, reason: str
) -> None:
    async with serving(Engine([invite], blocking_limit=None)) as server:
        answer = await post(server, "/runs", {"workflow": "invite", "payload": payload})
        assert (answer.status_code, answer.json()["title"]) == (422, "Data does not fit")
        assert answer.json()["errors"] == [{"detail": reason, "pointer": pointer}]
        assert reason in answer.json()["detail"]
        assert [run async for run in server.engine.runs()] == []


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        (b"", 400, None),
        (b"{", 400, None),
        (b'{"workflow": "double", "payload": NaN}', 400, None),
        (b"[]", 422, "#"),
        (b"{}", 422, "#"),
        (b'{"workflow": 3}', 422, "#/workflow"),
        (b'{"workflow": "double", "paylaod": 1}', 422, "#"),
        (b'{"workflow": "double", "payload": 1, "labels": ["a", 1]}', 422, "#/labels/1"),
        (b'{"workflow": "double", "payload": 1, "delay": "soon"}', 422, "#/delay"),
        (b'{"workflow": "double", "payload": 1, "delay": -1}', 422, "#/delay"),
        (b'{"workflow": "double", "payload": 1, "delay": 1e300}', 422, "#/delay"),
        (b'{"workflow": "double", "payload": 1, "run_id": "\\u0000"}', 422, None),
        (b'{"workflow": "unknown"}', 404, None),
    ],
)
async def test_what_is_no_order_for_a_run_starts_none(body: bytes, status: int, pointer: str | None) -> None:
    async with serving() as server:
        answer = await server.client.post("/runs", content=body)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
        assert [error["pointer"] for error in answer.json().get("errors", [])] == ([] if pointer is None else [pointer])
        assert [run async for run in server.engine.runs()] == []


# --- list and get ---------------------------------------------------------------------------------------------------


async def test_runs_are_listed_newest_first_page_by_page() -> None:
    async with serving() as server:
        for number in range(5):
            await server.done(f"r{number}")
        seen: list[str] = []
        query: dict[str, Any] = {"limit": 2}
        while True:
            page = (await server.client.get("/runs", params=query)).json()
            seen += [run["id"] for run in page["runs"]]
            assert all(set(run) == RUN_MEMBERS for run in page["runs"])
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
        assert seen == ["r4", "r3", "r2", "r1", "r0"]


async def test_runs_are_listed_by_status_workflow_and_label() -> None:
    async with serving() as server:
        await server.waiting("w")
        await server.done("d")
        failed = await server.engine.start("fail", run_id="f", labels=["odd"])
        await until(failed, RunStatus.FAILED)

        async def listed(**query: Any) -> list[str]:
            answer = await server.client.get("/runs", params=query)
            return [run["id"] for run in answer.json()["runs"]]

        assert await listed() == ["f", "d", "w"]
        assert await listed(status="waiting") == ["w"]
        assert await listed(status=["waiting", "failed"]) == ["f", "w"]
        assert await listed(workflow="double") == ["d"]
        assert await listed(label="odd") == ["f"]
        assert await listed(label="even") == []


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=many", "limit"),
        ("limit=1&limit=2", "limit"),
        ("status=lost", "status"),
        ("workfow=double", "workfow"),
        ("cursor=", "cursor"),
    ],
)
async def test_a_query_that_means_nothing_is_refused_by_name(query: str, parameter: str) -> None:
    async with serving() as server:
        answer = await server.client.get(f"/runs?{query}")
        assert (answer.status_code, answer.json()["title"]) == (422, "Bad request")
        assert [error["parameter"] for error in answer.json()["errors"]] == [parameter]


async def test_a_cursor_of_a_run_that_is_gone_is_not_found() -> None:
    async with serving() as server:
        assert (await server.client.get("/runs", params={"cursor": "gone"})).status_code == 404


async def test_a_run_says_how_it_stands() -> None:
    async with serving() as server:
        await server.waiting("w")
        waiting = (await server.client.get("/runs/w")).json()
        assert (waiting["status"], waiting["waiting"], waiting["error"]) == ("waiting", ["event:w"], None)
        assert "result" not in waiting
        await server.done("d")
        done = (await server.client.get("/runs/d")).json()
        assert (done["status"], done["result"], done["length"]) == ("completed", 42, 1)
        assert done["created_at"].endswith("Z")
        assert datetime.fromisoformat(done["created_at"]) <= datetime.fromisoformat(done["updated_at"])
        await until(await server.engine.start("fail", run_id="f"), RunStatus.FAILED)
        error = (await server.client.get("/runs/f")).json()["error"]
        assert (error["type"], error["message"]) == ("LookupError", "nothing here")
        assert (await server.client.get("/runs/nobody")).json()["title"] == "Unknown run"


async def test_a_large_result_is_there_whole() -> None:
    @workflow
    async def large(ctx: Context, size: int) -> str:
        return "x" * size

    async with serving(Engine([large], blocking_limit=None, max_payload_bytes=100)) as server:
        await server.engine.run(large, 10_000, run_id="a")
        assert (await server.client.get("/runs/a")).json()["result"] == "x" * 10_000


# --- ids with slashes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/runs/a%2Fchild", "/runs/a/child"])
@pytest.mark.parametrize("prefix", ["", "/flow"])
async def test_the_id_of_a_child_may_be_encoded_or_not(path: str, prefix: str) -> None:
    engine = engine_of()
    app = Starlette(routes=[Mount(prefix, routes=routes(engine))], lifespan=lifespan(engine))
    async with app.router.lifespan_context(app), _client(app) as client:
        await engine.run("family", 4, run_id="a")
        child = (await client.get(f"{prefix}{path}")).json()
        assert (child["id"], child["parent"], child["result"]) == ("a/child", "a", 8)
        history = (await client.get(f"{prefix}{path}/history")).json()
        assert [outcome["name"] for outcome in history["outcomes"]] == ["twice"]


def _client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")


@pytest.mark.parametrize("run_id", ["a/history", "prune", "cancel", "a/cancel", "ä/ö ü", "%2F", "..", "a?b#c", "a//b"])
async def test_an_encoded_id_is_never_taken_for_an_action(run_id: str) -> None:
    async with serving() as server:
        await server.done(run_id)
        segment = quote(run_id, safe="").replace("..", "%2E%2E")
        assert (await server.client.get(f"/runs/{segment}")).json()["id"] == run_id
        assert (await server.client.get(f"/runs/{segment}/history")).json()["outcomes"][0]["name"] == "twice"
        answer = await post(server, "/runs", {"workflow": "double", "payload": 1, "run_id": run_id})
        assert answer.headers["location"] == f"/runs/{quote(run_id, safe='')}"


async def test_the_location_of_a_run_is_below_where_the_routes_are_mounted() -> None:
    engine = engine_of()
    app = Starlette(routes=[Mount("/flow", routes=routes(engine))], lifespan=lifespan(engine))
    async with app.router.lifespan_context(app), _client(app) as client:
        answer = await client.post("/flow/runs", json={"workflow": "double", "payload": 1, "run_id": "a/b"})
        assert answer.headers["location"] == "/flow/runs/a%2Fb"
        assert (await client.get(answer.headers["location"])).json()["id"] == "a/b"
        document = (await client.get("/flow/openapi.json")).json()
        assert document["servers"] == [{"url": "/flow"}]


# --- history --------------------------------------------------------------------------------------------------------


@workflow
async def count(ctx: Context, steps: int) -> int:
    for number in range(steps):
        await ctx.run("step", abs, number)
    return steps


async def test_a_journal_is_read_page_by_page() -> None:
    async with serving(Engine([count], blocking_limit=None)) as server:
        await server.engine.run(count, 25, run_id="a")
        seen: list[int] = []
        after: int | None = 0
        while after is not None:
            page = (await server.client.get("/runs/a/history", params={"after": after, "limit": 10})).json()
            seen += [outcome["value"] for outcome in page["outcomes"]]
            after = page["next_after"]
        assert seen == list(range(25))
        beyond = (await server.client.get("/runs/a/history?after=99")).json()
        assert beyond == {"outcomes": [], "next_after": None}


async def test_outcomes_have_times_and_the_values_that_lie_in_blobs() -> None:
    engine = engine_of(max_payload_bytes=100)
    async with serving(engine) as server:
        await server.waiting("w")
        await engine.notify("w", "x" * 1000)
        await (await engine.get("w")).result()
        (outcome,) = (await server.client.get("/runs/w/history")).json()["outcomes"]
        assert (outcome["kind"], outcome["seq"], outcome["event_id"]) == ("event_arrived", 1, "w")
        assert outcome["value"] == "x" * 1000
        assert "blob" not in outcome
        assert datetime.fromisoformat(outcome["at"]).tzinfo is not None


async def test_a_page_of_large_values_ends_early_and_the_next_goes_on() -> None:
    @workflow
    async def large(ctx: Context, payload: None) -> None:
        for _ in range(3):
            await ctx.run("step", lambda: "x" * 5_000_000, type=str)

    async with serving(Engine([large], blocking_limit=None)) as server:
        await server.engine.run(large, run_id="a")
        lengths: list[int] = []
        after: int | None = 0
        while after is not None:
            page = (await server.client.get("/runs/a/history", params={"after": after})).json()
            lengths.append(len(page["outcomes"]))
            after = page["next_after"]
        assert lengths == [1, 1, 1]


async def test_a_run_is_exported_as_a_history_file() -> None:
    async with serving() as server:
        await server.done("a")
        answer = await server.client.get("/runs/a/export")
        history = load_history(answer.content)
        assert (history.record.run_id, history.result()) == ("a", b"42")
        assert [outcome.name for outcome in history.outcomes] == ["twice"]


async def test_a_run_that_is_over_is_watched_to_its_end() -> None:
    async with serving() as server:
        await server.done("a")
        answer = await server.client.get("/runs/a/watch")
        assert answer.headers["content-type"].startswith("text/event-stream")
        outcome, end = [block.split("\n") for block in answer.text.split("\n\n")[1:-1]]
        assert outcome[:2] == ["event: outcome", "id: 1"]
        assert json.loads(outcome[2].removeprefix("data: "))["value"] == 42
        assert end[:2] == ["event: end", "id: end"]
        assert json.loads(end[2].removeprefix("data: "))["result"] == 42


async def test_a_watcher_goes_on_behind_the_last_event_that_it_saw() -> None:
    async with serving(Engine([count], blocking_limit=None)) as server:
        await server.engine.run(count, 5, run_id="a")

        async def ids(after: int, headers: dict[str, str]) -> list[str]:
            answer = await server.client.get("/runs/a/watch", params={"after": after}, headers=headers)
            return [line[4:] for line in answer.text.splitlines() if line.startswith("id: ")]

        assert await ids(3, {}) == ["4", "5", "end"]
        assert await ids(0, {"Last-Event-ID": "4"}) == ["5", "end"]
        seen_all = await server.client.get("/runs/a/watch", headers={"Last-Event-ID": "end"})
        assert (seen_all.status_code, seen_all.content) == (204, b"")
        odd = await server.client.get("/runs/a/watch", headers={"Last-Event-ID": "-1"})
        assert (odd.status_code, odd.json()["errors"][0]["parameter"]) == (422, "Last-Event-ID")


async def test_a_stream_is_asked_for_by_head_and_nothing_is_streamed() -> None:
    async with serving() as server:
        await server.waiting("w")
        answer = await server.client.head("/runs/w/watch")
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await server.client.head("/runs/w")).content == b""


# --- steering -------------------------------------------------------------------------------------------------------


async def test_a_run_is_cancelled_with_a_reason_or_without() -> None:
    async with serving() as server:
        for run_id, body, reason in (("a", {"reason": "late"}, "late"), ("b", None, None)):
            run = await server.waiting(run_id)
            assert (await post(server, f"/runs/{run_id}/cancel", body)).status_code == 202
            await until(run, RunStatus.CANCELLED)
            found = (await server.client.get(f"/runs/{run_id}")).json()
            assert (found["status"], found["reason"]) == ("cancelled", reason)
        await server.waiting("c")
        assert (await server.client.post("/runs/c/cancel")).status_code == 202
        assert (await post(server, "/runs/c/cancel", {"raeson": "typo"})).status_code == 422


async def test_a_failed_run_is_resumed_and_another_is_not() -> None:
    broken = True

    def fetch() -> str:
        if broken:
            raise ConnectionError("no route")
        return "news"

    @workflow
    async def news(ctx: Context, payload: None) -> str:
        return await ctx.run("fetch", fetch)

    async with serving(Engine([news], blocking_limit=None)) as server:
        run = await server.engine.start(news, run_id="a")
        await until(run, RunStatus.FAILED)
        broken = False
        answer = await post(server, "/runs/a/resume", {"accept_divergence": False})
        assert answer.status_code == 202
        assert await run.result() == "news"
        again = await post(server, "/runs/a/resume")
        assert (again.status_code, again.json()["status"]) == (409, 409)


async def test_a_run_is_restarted_and_forked_as_a_new_one() -> None:
    async with serving() as server:
        await server.done("a")
        for action, body in (("restart", None), ("fork", {"before": "twice"})):
            answer = await post(server, f"/runs/a/{action}", body)
            assert answer.status_code == 201
            new_id = answer.json()["id"]
            assert new_id != "a" and answer.headers["location"] == f"/runs/{new_id}"
            assert await (await server.engine.get(new_id)).result() == 42
        answer = await post(server, "/runs/a/fork", {"before": "never", "occurrence": 2})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/before")
        assert "no outcome of 'never'" in answer.json()["detail"]


async def test_what_is_no_run_cannot_be_steered() -> None:
    async with serving() as server:
        for action, body in (("cancel", None), ("resume", None), ("restart", None), ("fork", {"before": "x"})):
            answer = await post(server, f"/runs/nobody/{action}", body)
            assert (answer.status_code, answer.json()["title"]) == (404, "Unknown run")
            assert (await server.client.get(f"/runs/nobody/{action}")).status_code == 405


# --- forgetting -----------------------------------------------------------------------------------------------------


async def test_a_run_that_is_over_is_forgotten_and_another_is_not() -> None:
    async with serving() as server:
        await server.done("d")
        run = await server.waiting("w")
        assert (await server.client.delete("/runs/d")).status_code == 204
        assert (await server.client.get("/runs/d")).status_code == 404
        assert (await server.client.delete("/runs/d")).status_code == 404
        refused = await server.client.delete("/runs/w")
        assert refused.status_code == 409
        assert "only a run that is over is forgotten" in refused.json()["detail"]
        assert await run.status() is RunStatus.WAITING


async def test_a_child_is_kept_for_as_long_as_its_parent_may_ask_for_it() -> None:
    @workflow
    async def child(ctx: Context, payload: None) -> str:
        return "done"

    @workflow
    async def parent(ctx: Context, payload: None) -> str:
        await ctx.invoke("child", child)
        return str(await ctx.wait_for_event("wait", "go"))

    clock = ManualClock()
    async with serving(Engine([child, parent], blocking_limit=None, clock=clock)) as server:
        run = await server.engine.start(parent, run_id="p")

        async def waits() -> bool:
            return (await run.info()).waiting == ("event:go",)

        await eventually(waits)
        refused = await server.client.delete("/runs/p%2Fchild")
        assert (refused.status_code, "may ask how it ended" in refused.json()["detail"]) == (409, True)
        assert (await post(server, "/runs/prune", {"older_than": 0})).json() == {"pruned": 0}
        await server.engine.notify("go", "on")
        await run.result()
        assert (await post(server, "/runs/prune", {"older_than": "1s"})).json() == {"pruned": 0}
        clock.advance(2)
        assert (await post(server, "/runs/prune", {"older_than": "1s"})).json() == {"pruned": 2}
        assert (await server.client.get("/runs")).json()["runs"] == []


async def test_how_old_must_be_said_to_prune() -> None:
    async with serving() as server:
        for body in ({}, {"older_than": "old"}, {"older_than": -1}):
            assert (await post(server, "/runs/prune", body)).status_code == 422
