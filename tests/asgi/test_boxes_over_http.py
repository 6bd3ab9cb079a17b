"""Boxes over HTTP: looked at, asked to run something, and deleted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asgi.support import Server, engine_of, events_of, listening, serving
from behaviour.support import eventually, is_alive

from boxflow import Context, Engine, workflow
from boxflow.boxes import Box
from boxflow_backends.docker_sandbox import DockerSandbox


@workflow
async def builder(ctx: Context, payload: None) -> None:
    async with ctx.box("build", labels={"kind": "build"}) as box:
        await box.exec.command("echo built; echo odd >&2")
        await ctx.wait_for_event("wait", "go")


@asynccontextmanager
async def with_box(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[Server, Box]]:
    engine = engine_of(sandbox=f"local:{tmp_path}")
    async with (
        serving(engine, **options) as server,
        engine.boxes.create("demo", labels={"team": "red"}, env={"SECRET": "s3cret"}) as box,
    ):
        yield server, box


async def test_boxes_are_listed_by_run_and_by_labels(tmp_path: Path) -> None:
    engine = Engine([builder], sandbox=f"local:{tmp_path}", blocking_limit=None)
    async with serving(engine) as server, engine.boxes.create("demo", labels={"team": "red"}) as box:
        run = await engine.start(builder, run_id="a")

        async def is_up() -> bool:
            return (await run.info()).waiting == ("event:go",)

        await eventually(is_up)

        async def listed(query: str) -> list[str]:
            return [found["name"] for found in (await server.client.get(f"/boxes{query}")).json()["boxes"]]

        assert sorted(await listed("")) == ["build", "demo"]
        assert await listed("?run_id=a") == ["build"]
        assert await listed("?label=team=red") == ["demo"]
        assert await listed("?label=kind=build&label=team=red") == []
        assert (await server.client.get("/boxes?label=team")).json()["errors"][0]["parameter"] == "label"
        found = (await server.client.get(f"/boxes/{box.id}")).json()
        assert set(found) == {"id", "name", "status", "run_id", "labels", "created_at"}
        assert (found["id"], found["status"], found["run_id"]) == (box.id, "running", None)
        assert found["labels"] == {"team": "red"}
        (built,) = (await server.client.get("/boxes?run_id=a")).json()["boxes"]
        assert built["run_id"] == "a"
        (job,) = (await server.client.get(f"/boxes/{built['id']}/jobs")).json()["jobs"]
        assert (job["status"], job["exit_code"], job["command"]) == ("exited", 0, "echo built; echo odd >&2")
        logs = await server.client.get(f"/boxes/{built['id']}/logs")
        assert logs.headers["content-type"] == "text/plain; charset=utf-8"
        assert sorted(logs.text.split()) == ["built", "odd"]
        await engine.notify("go")
        await run.result()


async def test_no_document_shows_the_environment_of_a_box(tmp_path: Path) -> None:
    async with with_box(tmp_path) as (server, box):
        for path in ("/boxes", f"/boxes/{box.id}"):
            assert "s3cret" not in (await server.client.get(path)).text


async def test_a_box_of_another_engine_is_not_found(tmp_path: Path) -> None:
    async with with_box(tmp_path) as (_, box), serving(engine_of(sandbox=f"local:{tmp_path}")) as stranger:
        assert (await stranger.client.get("/boxes")).json() == {"boxes": []}
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/jobs"), ("GET", "/logs"), ("POST", "/exec")):
            answer = await stranger.client.request(method, f"/boxes/{box.id}{path}", json={"command": "true"})
            assert (answer.status_code, answer.json()["title"]) == (404, "Unknown box")
        assert await box.status() == "running"


async def test_a_box_is_deleted(tmp_path: Path) -> None:
    async with with_box(tmp_path) as (server, box):
        assert (await server.client.delete(f"/boxes/{box.id}")).status_code == 204
        assert await box.status() == "deleted"
        assert (await server.client.delete(f"/boxes/{box.id}")).status_code == 404


async def test_a_command_is_run_in_a_box(tmp_path: Path) -> None:
    async with with_box(tmp_path) as (server, box):
        body: dict[str, Any] = {"command": "cat there; echo $X >&2; exit 3", "env": {"X": "x"}, "cwd": "sub"}
        await box.files.write("sub/there", "here")
        result = (await server.client.post(f"/boxes/{box.id}/exec", json=body)).json()
        assert (result["exit_code"], result["stdout"], result["stderr"]) == (3, "here", "x\n")
        assert (result["truncated"], result["timed_out"]) == (False, False)
        argv = {"command": ["printf", "%s|", "a b", "$HOME"]}
        assert (await server.client.post(f"/boxes/{box.id}/exec", json=argv)).json()["stdout"] == "a b|$HOME|"


async def test_a_command_that_takes_too_long_is_killed_and_its_output_kept(tmp_path: Path) -> None:
    async with with_box(tmp_path) as (server, box):
        body = {"command": "echo begun; sleep 60", "timeout": "300ms"}
        answer = await server.client.post(f"/boxes/{box.id}/exec", json=body)
        result = answer.json()
        assert (answer.status_code, result["timed_out"], result["exit_code"]) == (200, True, 137)
        assert result["stdout"] == "begun\n"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#"),
        ({"command": ""}, "#/command"),
        ({"command": []}, "#/command"),
        ({"command": ["a\0"]}, "#/command"),
        ({"command": "true", "env": {"A": "\0"}}, "#/env"),
        ({"command": "true", "timeout": "soon"}, "#/timeout"),
        ({"command": "true", "timeout": "2h"}, "#/timeout"),
        ({"command": "true", "shell": "zsh"}, "#"),
    ],
)
async def test_what_is_no_command_is_refused(tmp_path: Path, body: Any, pointer: str) -> None:
    async with with_box(tmp_path) as (server, box):
        answer = await server.client.post(f"/boxes/{box.id}/exec", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


async def test_what_the_box_cannot_do_is_said(tmp_path: Path) -> None:
    async with with_box(tmp_path) as (server, box):
        for body in ({"command": ["no-such-program"]}, {"command": "true", "cwd": "../.."}):
            answer = await server.client.post(f"/boxes/{box.id}/exec", json=body)
            assert (answer.status_code, answer.json()["title"]) == (422, "The box could not do that"), answer.text
        assert (await server.client.get(f"/boxes/{box.id}/logs")).json()["title"] == "Unknown job"
        assert (await server.client.get(f"/boxes/{box.id}/logs?job=x")).json()["title"] == "Unknown job"


async def test_a_command_is_ended_when_its_caller_leaves(tmp_path: Path) -> None:
    engine = engine_of(sandbox=f"local:{tmp_path}")
    async with listening(engine) as server, engine.boxes.create("demo") as box:
        body = {"command": "echo $$ > pid; sleep 60"}
        call = asyncio.create_task(server.client.post(f"/boxes/{box.id}/exec", json=body))

        async def has_begun() -> bool:
            return any(found.path == "pid" and found.size_bytes for found in await box.files.list("."))

        await eventually(has_begun)
        pid = int(await box.files.read("pid"))
        call.cancel()
        await asyncio.wait({call})
        await server.client.aclose()
        await eventually(lambda: not is_alive(pid))


async def test_the_output_of_a_job_is_followed_to_its_end_and_continued(tmp_path: Path) -> None:
    engine = engine_of(sandbox=f"local:{tmp_path}")
    async with listening(engine) as server, engine.boxes.create("demo") as box:
        job = await box.jobs.start("echo one; while [ ! -e go ]; do sleep 0.02; done; echo two")
        url = f"/boxes/{box.id}/logs?follow=true&job={job.id}"
        seen: list[tuple[str, str, Any]] = []
        async with server.client.stream("GET", url) as answer:
            async for name, event_id, data in events_of(answer):
                seen.append((name, event_id, json.loads(data)))
                if len(seen) == 1:
                    await box.files.write("go", "")
        assert [name for name, _, _ in seen] == ["output", "output", "end"]
        assert [data["text"] for _, _, data in seen[:2]] == ["one\n", "two\n"]
        assert (seen[2][1], seen[2][2]["exit_code"]) == ("end", 0)
        again = await server.client.get(url, headers={"Last-Event-ID": seen[0][1]})
        assert again.text.count("event: output") == 1 and '"text":"two' in again.text
        plain = await server.client.get(f"/boxes/{box.id}/logs?offset=4")
        assert plain.text == "two\n"
        assert (await server.client.get(url, headers={"Last-Event-ID": "x"})).status_code == 422


async def test_a_sandbox_that_cannot_be_reached_is_a_503() -> None:
    async with serving(engine_of(sandbox=DockerSandbox(host="unix:///nowhere/docker.sock"))) as server:
        answer = await server.client.get("/boxes")
        assert (answer.status_code, answer.json()["title"]) == (503, "Boxes are not available")
        assert (await server.client.get("/ready")).status_code == 200
