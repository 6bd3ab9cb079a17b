"""GitHub starts runs: each push is built once, however often GitHub delivers it.

python examples/github_webhook.py                # plays GitHub itself
uvicorn examples.github_webhook:app              # the same for GitHub, with GITHUB_WEBHOOK_SECRET in the environment
"""

import asyncio
import hashlib
import hmac
import json
import os
from dataclasses import dataclass

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from boxflow import Context, Engine, workflow
from boxflow.asgi import lifespan, problem, verify_webhook
from boxflow.errors import WebhookRefusedError


@dataclass(frozen=True)
class Push:
    repository: str
    commit: str


async def build(push: Push) -> str:
    return f"{push.repository} at {push.commit[:7]}: built"


@workflow
async def on_push(ctx: Context, push: Push) -> str:
    return await ctx.run("build", build, push)


async def github(request: Request) -> Response:
    body = await request.body()  # The very bytes: they are what is signed.
    try:
        delivery = verify_webhook("github", os.environ["GITHUB_WEBHOOK_SECRET"], headers=request.headers, body=body)
    except WebhookRefusedError as error:
        return problem(401, "Refused", str(error))
    if request.headers.get("X-GitHub-Event") != "push":
        return Response(status_code=204)
    event = json.loads(body)
    push = Push(event["repository"]["full_name"], event["after"])
    run = await engine.start(on_push, push, run_id=f"gh-{delivery}")  # The same delivery: the same run.
    return JSONResponse({"run_id": run.id}, status_code=202)


engine = Engine([on_push], store=os.environ.get("BOXFLOW_STORE", "memory:"))
app = Starlette(routes=[Route("/github", github, methods=["POST"])], lifespan=lifespan(engine))


async def main() -> None:
    secret = os.environ.setdefault("GITHUB_WEBHOOK_SECRET", "chosen on GitHub's page")
    body = json.dumps({"after": "7fd1a60b01f91b314f59", "repository": {"full_name": "octo/hello"}})
    headers = {"X-GitHub-Event": "push", "X-GitHub-Delivery": "72d3162e"}
    transport = httpx.ASGITransport(app)
    async with engine, httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for key in (secret, secret, "a guess"):
            signature = "sha256=" + hmac.new(key.encode(), body.encode(), hashlib.sha256).hexdigest()
            signed = {**headers, "X-Hub-Signature-256": signature}
            answer = await client.post("/github", content=body, headers=signed)
            print(answer.status_code, answer.json().get("run_id", "(refused)"))
        print([await run.result() async for run in engine.runs()])


if __name__ == "__main__":
    asyncio.run(main())
