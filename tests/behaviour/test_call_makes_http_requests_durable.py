"""`ctx.call` makes an HTTP request as a step, and keeps its response."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from behaviour.support import Machine, kinds, until

from boxflow import Context, Response, Retry, RunStatus, StepFailedError, workflow


class Site:
    """A server on a loopback port that answers with what it was told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline()
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                site.asked.append((self.command, self.path, headers, body))
                status, extra, content = site.answers.pop(0) if site.answers else (200, {}, b"ok")
                self.send_response(status)
                for name, value in {**extra, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """The tests look at `asked`."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "*")
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    site.server.shutdown()
    site.server.server_close()
    thread.join()


async def test_the_request_is_made_once_and_its_response_kept(machine: Machine, site: Site) -> None:
    seen: list[Response] = []

    @workflow
    async def main(ctx: Context, payload: None) -> int:
        response = await ctx.call("create", f"{site.url}/items?a=1", method="POST", json={"n": 1}, headers={"X-A": "b"})
        seen.append(response)
        await ctx.wait_for_event("wait", "go")
        return response.json(dict[str, int])["id"]

    site.answers = [(201, {"X-Item": "7"}, b'{"id": 7}')]
    async with machine.crashing(main) as engine:
        await until(await engine.start(main, run_id="r"), RunStatus.WAITING)
    async with machine.running(main) as engine:
        await engine.notify("go")
        assert await (await engine.get("r")).result() == 7
    ((method, path, headers, body),) = site.asked
    assert (method, path, body) == ("POST", "/items?a=1", b'{"n":1}')
    assert (headers["x-a"], headers["content-type"]) == ("b", "application/json")
    assert seen[0] == seen[1]
    assert (seen[0].status, seen[0].headers["x-item"], seen[0].text) == (201, "7", '{"id": 7}')


async def test_any_status_is_an_answer_where_no_retry_was_asked_for(memory_machine: Machine, site: Site) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> list[int]:
        return [(await ctx.call("get", site.url)).status for _ in range(3)]

    site.answers = [(503, {}, b""), (404, {}, b""), (302, {"Location": "/other"}, b"")]
    async with memory_machine.running(main) as engine:
        assert await engine.run(main) == [503, 404, 302]
    assert len(site.asked) == 3


async def test_with_a_retry_answers_that_ask_for_another_try_get_one_and_retry_after_is_followed(
    memory_machine: Machine, site: Site
) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        return (await ctx.call("get", site.url, retry=Retry(attempts=4, delay=0.001))).text

    site.answers = [(503, {}, b""), (429, {"Retry-After": "0"}, b""), (200, {}, b"at last")]
    async with memory_machine.running(main) as engine:
        run = await engine.start(main)
        assert await run.result() == "at last"
        assert kinds(await run.history()) == ["step_retrying", "step_retrying", "step_done"]


async def test_a_server_that_is_not_there_fails_the_step(memory_machine: Machine, site: Site) -> None:
    @workflow
    async def main(ctx: Context, payload: None) -> str:
        try:
            await ctx.call("get", "http://127.0.0.1:1/", timeout=5)
        except StepFailedError as error:
            return error.cause_type
        return "?"

    async with memory_machine.running(main) as engine:
        assert "ConnectError" in await engine.run(main)


async def test_bodies_are_bytes_both_ways(memory_machine: Machine, site: Site) -> None:
    data = bytes(range(256)) * 40

    @workflow
    async def main(ctx: Context, payload: None) -> bytes:
        return (await ctx.call("put", site.url, method="PUT", content=data)).body

    site.answers = [(200, {}, data)]
    async with memory_machine.running(main, max_payload_bytes=1000) as engine:
        assert await engine.run(main) == data
    assert site.asked[0][3] == data
