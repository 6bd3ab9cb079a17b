"""Who may call what: keys with scopes, an app's own answer, and only this machine where there is neither."""

from __future__ import annotations

import logging
import secrets
from typing import Any

import httpx
import pytest
from asgi.support import Server, engine_of, serving
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request

from boxflow.asgi import create_app, routes
from boxflow.asgi.access import SCOPES, Access
from boxflow.asgi.endpoint import ANY_METHOD, Endpoint
from boxflow.asgi.table import endpoints_of
from boxflow.errors import ConfigurationError

KEYS: dict[str, str] = {scope: f"key-of-{scope}-{secrets.token_hex(8)}" for scope in SCOPES}
API_KEYS: Any = {key: [scope] for scope, key in KEYS.items()}
PROBLEM = "application/problem+json"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# --- the table: every route, with no key, a wrong key, and each scope -----------------------------------------------

ENDPOINTS: list[Endpoint[Any, Any]] = endpoints_of(engine_of())
CALLERS: list[str | None] = [None, "wrong", *SCOPES]


async def asked(server: Server, endpoint: Endpoint[Any, Any], headers: dict[str, str]) -> httpx.Response:
    path = endpoint.path.replace("{run_id}", "nobody").replace("{box_id}", "nobody").replace("{event_id}", "e")
    method = "POST" if endpoint.method == ANY_METHOD else endpoint.method
    return await server.client.request(method, path.replace("{token}", "t"), headers=headers)


@pytest.mark.parametrize("caller", CALLERS)
async def test_every_route_lets_in_whom_its_scope_says_and_nobody_else(caller: str | None) -> None:
    headers = {} if caller is None else bearer(KEYS.get(caller, "some other key that is long"))
    async with serving(api_keys=API_KEYS) as server:
        for endpoint in ENDPOINTS:
            answer = await asked(server, endpoint, headers)
            if endpoint.scope is None or caller in (endpoint.scope, "admin"):
                assert answer.status_code not in (401, 403), (endpoint.name, answer.text)
                continue
            expected = 403 if caller in SCOPES else 401
            assert (answer.status_code, answer.headers["content-type"]) == (expected, PROBLEM), endpoint.name
            assert answer.headers["www-authenticate"].startswith("Bearer"), endpoint.name


def test_only_these_routes_are_open_to_everybody() -> None:
    assert {endpoint.path for endpoint in ENDPOINTS if endpoint.scope is None} == {
        "/webhooks/{token}",
        "/health",
        "/ready",
    }


async def test_the_document_is_open_to_everybody() -> None:
    async with serving(api_keys=API_KEYS, client=("203.0.113.9", 1)) as server:
        assert (await server.client.get("/openapi.json")).status_code == 200


# --- keys -----------------------------------------------------------------------------------------------------------


async def test_a_key_is_taken_from_either_header_and_from_anywhere() -> None:
    key = secrets.token_urlsafe(32)
    async with serving(api_keys=[secrets.token_urlsafe(32), key], client=("203.0.113.9", 1)) as server:
        for headers in (bearer(key), {"Authorization": f"bearer  {key} "}, {"X-API-Key": key}):
            assert (await server.client.get("/runs", headers=headers)).status_code == 200
        for headers in ({"Authorization": f"Basic {key}"}, {"Authorization": "Bearer"}, {"Authorization": key}):
            assert (await server.client.get("/runs", headers=headers)).status_code == 401


async def test_no_scope_includes_another_except_admin() -> None:
    async with serving(api_keys={KEYS["read"]: ["read", "notify"]}) as server:
        headers = bearer(KEYS["read"])
        assert (await server.client.get("/runs", headers=headers)).status_code == 200
        assert (await server.client.post("/events/e", headers=headers)).status_code == 200
        answer = await server.client.post("/runs", headers=headers, json={"workflow": "double", "payload": 1})
        assert answer.status_code == 403
        assert answer.json()["detail"] == "this API key does not have scope 'run'"
        assert 'error="insufficient_scope", scope="run"' in answer.headers["www-authenticate"]


async def test_who_may_not_call_does_not_learn_what_is_there() -> None:
    async with serving(api_keys=API_KEYS) as server:
        await server.waiting("r")
        answers = [await server.client.get(f"/runs/{run_id}", headers=bearer("x" * 20)) for run_id in ("r", "nobody")]
        assert answers[0].text == answers[1].text


async def test_a_body_is_not_read_before_its_sender_is_let_in() -> None:
    async with serving(api_keys=API_KEYS, max_body_bytes=10) as server:
        assert (await server.client.post("/events/e", content=b"x" * 100)).status_code == 401


async def test_keys_are_in_no_repr_no_error_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "boxflow")
    key = secrets.token_urlsafe(32)
    given = "wrong-" + secrets.token_hex(16)
    async with serving(api_keys=[key]) as server:
        answer = await server.client.get("/runs", headers=bearer(given))
        assert (await server.client.get("/runs", headers=bearer(key))).status_code == 200
        texts = [answer.text, str(answer.headers), repr(Access([key])), repr(server.app.routes), caplog.text]
    assert all(key not in text and given not in text for text in texts)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["short"], "API key number 1 has 5 characters, and needs at least 16"),
        (["x" * 20, ""], "API key number 2 has 0 characters"),
        (["x" * 20 + "é"], "must be printable ASCII without spaces"),
        (["x" * 20 + "\n"], "must be printable ASCII without spaces"),
        ([None], "API key number 1 is a NoneType"),
        ("x" * 20, "is one text; give a list"),
        ({"x" * 20: ["write"]}, "has scope 'write', which is none; choose from notify, read, run, admin"),
        ({"x" * 20: []}, "has no scope"),
        ({"x" * 20: "read"}, "are one text; give a list, ['read']"),
    ],
)
def test_keys_that_cannot_work_are_refused_at_once(keys: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        create_app(engine_of(), api_keys=keys)
    assert message in str(caught.value)
    assert "x" * 20 not in str(caught.value)


# --- an app's own answer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "status"), [(True, 200), (False, 403), (None, 401), ("yes", 403)])
async def test_an_app_answers_for_its_callers(answer: Any, status: int) -> None:
    seen: list[tuple[str, str]] = []

    async def authorize(request: Request, scope: str) -> bool | None:
        seen.append((request.headers["cookie"], scope))
        return answer  # type: ignore[no-any-return]  # "yes" is what an untyped app may answer

    async with serving(authorize=authorize, client=("203.0.113.9", 1)) as server:
        found = await server.client.get("/runs", headers={"Cookie": "session=1"})
        assert found.status_code == status
        assert seen == [("session=1", "read")]


async def test_what_an_app_raises_for_its_callers_becomes_the_answer() -> None:
    async def authorize(request: Request, scope: str) -> bool:
        raise HTTPException(402, "pay first", {"X-Price": "1"})

    async with serving(authorize=authorize) as server:
        answer = await server.client.get("/runs")
        assert (answer.status_code, answer.json()["detail"], answer.headers["x-price"]) == (402, "pay first", "1")


def test_keys_and_an_app_s_answer_exclude_each_other() -> None:
    async def authorize(request: Request, scope: str) -> bool:
        return True

    with pytest.raises(ConfigurationError, match="give one of them"):
        routes(engine_of(), api_keys=["x" * 20], authorize=authorize)


# --- neither: only this machine -------------------------------------------------------------------------------------

HOW = "pass api_keys=[...] or authorize=... to `create_app` or `routes`"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "testclient"])
async def test_without_keys_programs_of_this_machine_may_call(host: str) -> None:
    async with serving(client=(host, 1)) as server:
        for url in ("http://127.0.0.1:8000", "http://localhost", "http://[::1]:80", "http://app.localhost", "http://x"):
            assert (await server.client.get(f"{url}/runs")).status_code == 200, url


@pytest.mark.parametrize("host", ["203.0.113.9", "10.0.0.1", "::2", "0.0.0.0", "", "localhost.example.org"])
async def test_without_keys_others_are_refused_and_told_how_to_configure_one(host: str) -> None:
    async with serving(client=(host, 1)) as server:
        answer = await server.client.get("/runs")
        assert (answer.status_code, answer.headers["content-type"]) == (403, PROBLEM)
        assert HOW in answer.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Forwarded": "for=127.0.0.1"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Proto": "https"},
        {"X-Real-IP": "127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": "evil.example:8000"},
        {"Host": "192.168.1.2"},
    ],
)
async def test_without_keys_what_a_proxy_or_a_strange_page_sends_is_refused(headers: dict[str, str]) -> None:
    async with serving(base_url="http://localhost:8000") as server:
        answer = await server.client.post("/events/e", headers=headers)
        assert answer.status_code == 403
        assert HOW in answer.json()["detail"]
        assert await server.engine.store.list_items("mail") == []


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}],
)
async def test_without_keys_a_page_of_this_very_server_may_call(headers: dict[str, str]) -> None:
    async with serving(base_url="http://localhost:8000") as server:
        assert (await server.client.post("/events/e", headers=headers)).status_code == 200


async def test_a_webhook_needs_no_key_from_anywhere() -> None:
    async with serving(client=("203.0.113.9", 1)) as server:
        answer = await server.client.post("/webhooks/x", headers={"X-Forwarded-For": "203.0.113.9"})
        assert (answer.status_code, answer.json()["title"]) == (404, "Unknown webhook")


async def test_routes_in_an_app_take_the_same_options() -> None:
    app = Starlette(routes=routes(engine_of(), api_keys=["k" * 20]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        assert (await client.get("/runs")).status_code == 401
        assert (await client.get("/runs", headers=bearer("k" * 20))).status_code == 503
