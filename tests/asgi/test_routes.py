"""The routes, mounted in Starlette and FastAPI: what each request is answered with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from behaviour.support import settle, until
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, NoMatchFound, Route

from boxflow import Context, Engine, RunStatus, Webhook, workflow
from boxflow.asgi import create_app, lifespan, routes
from boxflow.errors import StoreFailedError, StoreLockedError
from boxflow_backends.memory_store import MemoryStore

hooks: dict[str, Webhook] = {}


@workflow
async def agent(ctx: Context, payload: None) -> dict[str, Any]:
    hook = hooks[ctx.run_id] = await ctx.create_webhook("done")
    request = await ctx.wait_for_webhook("wait", hook)
    return {
        "method": request.method,
        "query": dict(request.query),
        "text": request.text,
        "type": request.headers.get("content-type"),
    }


@workflow
async def review(ctx: Context, event_id: str) -> Any:
    return await ctx.wait_for_event("wait", event_id)


def as_app(engine: Engine) -> Any:
    return create_app(engine, max_body_bytes=1000)


def in_starlette(engine: Engine) -> Any:
    return Starlette(routes=[Mount("/flow", routes=routes(engine, max_body_bytes=1000))], lifespan=lifespan(engine))


def in_fastapi(engine: Engine) -> Any:
    app = FastAPI(lifespan=lifespan(engine))
    app.mount("/flow", Starlette(routes=routes(engine, max_body_bytes=1000)))
    return app


def in_fastapi_router(engine: Engine) -> Any:
    app = FastAPI(lifespan=lifespan(engine))
    app.router.routes.append(Mount("/flow", routes=routes(engine, max_body_bytes=1000)))
    return app


APPS: list[tuple[Callable[[Engine], Any], str]] = [
    (as_app, ""),
    (in_starlette, "/flow"),
    (in_fastapi, "/flow"),
    (in_fastapi_router, "/flow"),
]


class Server:
    """An engine and a client of the app around it."""

    def __init__(self, engine: Engine, client: httpx.AsyncClient) -> None:
        self.engine = engine
        self.client = client

    async def waiting_agent(self, run_id: str) -> Webhook:
        await until(await self.engine.start(agent, run_id=run_id), RunStatus.WAITING)
        return hooks[run_id]


@asynccontextmanager
async def serving(make: Callable[[Engine], Any] = as_app, prefix: str = "") -> AsyncIterator[Server]:
    engine = Engine([agent, review], base_url=f"http://app{prefix}", blocking_limit=None)
    app = make(engine)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://app{prefix}") as client:
            yield Server(engine, client)


@pytest.mark.parametrize(("make", "prefix"), APPS)
async def test_the_url_of_a_webhook_leads_to_its_run_wherever_the_routes_are_mounted(
    make: Callable[[Engine], Any], prefix: str
) -> None:
    async with serving(make, prefix) as server:
        hook = await server.waiting_agent("r")
        assert hook.url.startswith(f"http://app{prefix}/webhooks/")
        answer = await server.client.post(hook.url, params={"q": "1"}, json={"ok": True})
        assert (answer.status_code, answer.json()) == (200, {"run_ids": ["r"], "kept": False})
        result = await (await server.engine.get("r")).result()
        assert result == {"method": "POST", "query": {"q": "1"}, "text": '{"ok":true}', "type": "application/json"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_a_webhook_takes_any_method(method: str) -> None:
    async with serving() as server:
        hook = await server.waiting_agent("r")
        answer = await server.client.request(method, hook.url)
        assert answer.status_code == 200
        assert (await (await server.engine.get("r")).result())["method"] == method


async def test_a_call_that_nobody_waits_for_yet_is_kept() -> None:
    async with serving() as server:
        hook = await server.waiting_agent("r")
        await server.client.post(hook.url, content="first")
        done = await server.client.post(hook.url, content="second")
        assert (await (await server.engine.get("r")).result())["text"] == "first"
        assert done.status_code in (200, 410)


async def test_forged_foreign_and_outlived_tokens_get_the_same_404() -> None:
    async with serving() as server, serving() as stranger:
        hook = await server.waiting_agent("r")
        foreign = await stranger.waiting_agent("r")
        gone = await server.waiting_agent("gone")
        await (await server.engine.get("gone")).cancel()
        while not (await (await server.engine.get("gone")).status()).is_final:
            await asyncio.sleep(0)
        await server.engine.store.delete_run("gone")
        tokens = [
            "x",
            "x.y",
            hook.token[:-1],
            hook.token + "A",
            f"{hook.token[:-2]}AA",
            foreign.token,
            gone.token,
            "%00",
        ]
        answers = [await server.client.post(f"/webhooks/{token}") for token in tokens]
        assert {answer.status_code for answer in answers} == {404}
        assert len({answer.text for answer in answers}) == 1
        assert answers[0].json()["title"] == "Unknown webhook"
        assert await (await server.engine.get("r")).history() == []


async def test_a_call_after_the_end_of_the_run_is_answered_with_410() -> None:
    async with serving() as server:
        hook = await server.waiting_agent("r")
        await server.client.post(hook.url)
        await (await server.engine.get("r")).result()
        answer = await server.client.post(hook.url)
        assert answer.status_code == 410
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["title"] == "Run is over"


async def test_an_event_wakes_or_is_kept() -> None:
    async with serving() as server:
        run = await server.engine.start(review, "doc/7 é", run_id="r")
        await until(run, RunStatus.WAITING)
        answer = await server.client.post("/events/doc/7 é", json={"ok": 1})
        assert answer.json() == {"run_ids": ["r"], "kept": False}
        assert await run.result() == {"ok": 1}
        answer = await server.client.post("/events/other")
        assert answer.json() == {"run_ids": [], "kept": True}
        assert await server.engine.run(review, "other") is None


async def test_an_event_for_one_run_goes_to_that_run() -> None:
    async with serving() as server:
        for run_id in ("a", "b"):
            await until(await server.engine.start(review, "e", run_id=run_id), RunStatus.WAITING)
        answer = await server.client.post("/events/e", params={"run_id": "b"}, json=1)
        assert answer.json() == {"run_ids": ["b"], "kept": False}
        unknown = await server.client.post("/events/e", params={"run_id": "nobody"}, json=1)
        assert (unknown.status_code, unknown.json()["title"]) == (404, "Unknown run")
        await (await server.engine.get("b")).result()
        over = await server.client.post("/events/e", params={"run_id": "b"}, json=1)
        assert over.status_code == 410


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nonsense",
        b"\xff\xfe\xfa",
        b"\x00",
        b'"\xed\xa0\x80"',
        b"NaN",
        b"[Infinity]",
        b'{"a": -Infinity}',
        b"[" * 990,
        b"1 2",
        b"'single'",
    ],
)
async def test_an_event_whose_body_is_not_json_is_answered_with_400(body: bytes) -> None:
    async with serving() as server:
        answer = await server.client.post("/events/e", content=body)
        assert answer.status_code == 400, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["title"] == "Body is not JSON"
        assert await server.engine.store.list_items("mail") == []


@pytest.mark.parametrize(
    "body", [b'"\\ud800"', b"1" + b"0" * 300, b"1e400", b'{"a": 1, "a": 2}', b"[" * 400 + b"]" * 400]
)
async def test_json_that_no_journal_can_keep_is_refused_and_never_a_500(body: bytes) -> None:
    async with serving() as server:
        answer = await server.client.post("/events/e", content=body)
        assert answer.status_code in (200, 400, 422), answer.text
        if answer.status_code == 200:
            await server.engine.run(review, "e")


async def test_an_event_id_that_cannot_be_one_is_answered_with_422() -> None:
    async with serving() as server:
        answer = await server.client.post(f"/events/{'x' * 500}", json=1)
        assert (answer.status_code, answer.json()["title"]) == (422, "Bad request")


async def chunks(count: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("what", ["webhook", "event"])
async def test_a_body_that_is_too_large_is_answered_with_413_and_not_kept(what: str, streamed: bool) -> None:
    async with serving() as server:
        hook = await server.waiting_agent("r")
        url = hook.url if what == "webhook" else "/events/e"
        answer = await server.client.post(url, content=chunks(11, 100) if streamed else b"x" * 1001)
        assert answer.status_code == 413
        assert answer.json()["title"] == "Body too large"
        await settle()
        assert await (await server.engine.get("r")).status() is RunStatus.WAITING
        assert await server.engine.store.list_items("mail") == []


async def test_a_body_of_exactly_the_bound_is_taken() -> None:
    async with serving() as server:
        hook = await server.waiting_agent("r")
        assert (await server.client.post(hook.url, content=chunks(10, 100))).status_code == 200


@pytest.mark.parametrize(("make", "prefix"), APPS)
async def test_what_is_not_there_or_takes_another_method_is_a_problem(
    make: Callable[[Engine], Any], prefix: str
) -> None:
    async with serving(make, prefix) as server:
        answers = [
            await server.client.get("/events/e"),
            await server.client.patch("/runs"),
            await server.client.post("/webhooks/"),
            await server.client.get("/boxes/b/nothing/else"),
        ]
        assert [answer.status_code for answer in answers] == [405, 405, 404, 404]
        assert [answer.headers.get("allow") for answer in answers[:2]] == ["POST", "GET, HEAD, POST"]
        assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}


async def test_an_app_of_ones_own_answers_for_all_paths_and_routes_only_for_theirs() -> None:
    async with serving() as server:
        answer = await server.client.get("/nothing")
        assert (answer.status_code, answer.json()["title"]) == (404, "Not Found")
    engine = Engine([review], blocking_limit=None)
    app = Starlette(routes=[*routes(engine), Route("/mine", lambda request: Response("mine"))])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        assert (await client.get("/mine")).text == "mine"
        assert (await client.get("/nothing")).headers["content-type"].startswith("text/plain")
        assert (await client.get("/runs/")).headers["content-type"] == "application/problem+json"


async def test_routes_have_names() -> None:
    app = Starlette(routes=[Mount("/flow", name="flow", routes=routes(Engine([review])))])
    assert app.url_path_for("flow:boxflow-webhook", token="a.b") == "/flow/webhooks/a.b"
    assert app.url_path_for("flow:get_run", run_id="a/b") == "/flow/runs/a%2Fb"
    with pytest.raises(NoMatchFound):
        app.url_path_for("flow:get_run", box_id="b")


async def test_a_server_says_whether_it_is_there_and_ready() -> None:
    engine = Engine([review], blocking_limit=None)
    app = create_app(engine)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        early = await client.get("/ready")
        assert (early.status_code, early.json()["title"]) == (503, "Not ready")
        assert "the engine is not running" in early.json()["detail"]
        async with app.router.lifespan_context(app):
            assert (await client.get("/ready")).json() == {"status": "ready"}
            assert (await client.head("/ready")).content == b""
        assert (await client.get("/ready")).status_code == 503
        assert (await client.get("/health")).json() == {"status": "ok"}


async def test_a_store_that_takes_nothing_more_is_not_ready() -> None:
    class Full(MemoryStore):
        async def change_items(self, changes: Any) -> None:
            if not changes:
                raise StoreFailedError("no space left on device")
            await super().change_items(changes)

    app = create_app(Engine([review], store=Full(), blocking_limit=None))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client,
    ):
        answer = await client.get("/ready")
        assert (answer.status_code, answer.json()["detail"]) == (503, "no space left on device")


async def test_a_defect_is_a_500_that_tells_nothing() -> None:
    class Broken(MemoryStore):
        async def find_runs(self, query: Any) -> Any:
            if query.workflow == "defect":
                raise ZeroDivisionError("a secret of ours")
            return await super().find_runs(query)

    app = create_app(Engine([review], store=Broken(), blocking_limit=None))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        answer = await client.get("/runs?workflow=defect")
        assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
        assert "secret" not in answer.text


async def test_an_engine_that_cannot_start_is_seen_by_the_server() -> None:
    sent: list[Any] = []
    messages = [{"type": "lifespan.startup"}]

    class Locked(MemoryStore):
        async def __aenter__(self) -> Any:
            raise StoreLockedError("owned by process 7")

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    app = create_app(Engine([review], store=Locked(), blocking_limit=None))
    with pytest.raises(StoreLockedError):
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "owned by process 7" in sent[0]["message"]


async def test_a_full_store_of_kept_events_is_answered_with_429() -> None:
    engine = Engine([review], max_kept_events=1, blocking_limit=None)
    app = create_app(engine)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client,
    ):
        assert (await client.post("/events/e")).status_code == 200
        assert (await client.post("/events/e")).status_code == 429


async def test_an_engine_that_has_stopped_is_answered_with_503() -> None:
    engine = Engine([review], blocking_limit=None)
    app = create_app(engine)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        async with app.router.lifespan_context(app):
            pass
        answer = await client.post("/events/e")
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")


async def test_a_client_that_leaves_in_the_middle_of_its_body_sends_nothing() -> None:
    async with serving() as server:
        hook = await server.waiting_agent("r")
        app = create_app(server.engine)
        sent: list[Any] = []
        messages = [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        path = f"/webhooks/{hook.token}"
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
        }
        await app(
            {**scope, "root_path": "", "scheme": "http", "server": ("app", 80), "http_version": "1.1"}, receive, send
        )
        await settle()
        assert await (await server.engine.get("r")).status() is RunStatus.WAITING
        assert await server.engine.store.list_items("mail") == []


async def test_a_request_that_is_cancelled_tears_no_append_and_the_call_is_there_once_or_not_at_all() -> None:
    async with serving() as server:
        for turns in range(30):
            hook = await server.waiting_agent(f"r{turns}")
            request = asyncio.create_task(server.client.post(hook.url, content="first"))
            for _ in range(turns):
                await asyncio.sleep(0)
            request.cancel()
            await asyncio.wait([request])
            await settle()
            run = await server.engine.get(f"r{turns}")
            if not (await run.status()).is_final:
                await server.client.post(hook.url, content="second")
            assert (await run.result())["text"] in ("first", "second")
            assert len(await run.history()) == 1


async def test_error_bodies_are_problem_details() -> None:
    async with serving() as server:
        answer = await server.client.post("/webhooks/x.y")
        problem = json.loads(answer.content)
        assert set(problem) == {"title", "status", "detail"}
        assert problem["status"] == answer.status_code
