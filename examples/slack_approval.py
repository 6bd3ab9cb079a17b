"""A person approves with a button in Slack, which has one URL for all buttons of an app: each names its run's webhook.

python examples/slack_approval.py                # plays Slack itself
uvicorn examples.slack_approval:app              # the same for Slack, with SLACK_SIGNING_SECRET in the environment
"""

import asyncio
import hashlib
import hmac
import json
import os
import time
from urllib.parse import parse_qs, urlencode

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from boxflow import Context, Engine, WebhookRequest, workflow
from boxflow.asgi import lifespan
from boxflow.errors import RunEndedError, WebhookRefusedError, WebhookTokenError

messages: asyncio.Queue[tuple[str, str]] = asyncio.Queue(maxsize=10)


async def ask(text: str, token: str) -> None:
    await messages.put((text, token))  # In life: chat.postMessage with two buttons, whose `value` is the token.


@workflow
async def deploy(ctx: Context, version: str) -> str:
    hook = await ctx.create_webhook("button", verify="slack", secret="$SLACK_SIGNING_SECRET")
    await ctx.run("ask", ask, f"Deploy {version}?", hook.token)
    call = await ctx.wait_for_webhook("answer", hook, timeout="1d")
    click = json.loads(parse_qs(call.text)["payload"][0])
    verb = "deployed" if click["actions"][0]["action_id"] == "approve" else "turned down"
    return f"{version} was {verb} by {click['user']['name']}"


async def interactions(request: Request) -> Response:
    body = await request.body()
    try:
        token = json.loads(parse_qs(body.decode())["payload"][0])["actions"][0]["value"]
        # Slack's signature is checked here, before the click is kept; answered, it is not lost.
        await engine.deliver_webhook(token, WebhookRequest(method="POST", headers=dict(request.headers), body=body))
    except RunEndedError:
        return PlainTextResponse("That has been decided.")
    except (WebhookRefusedError, WebhookTokenError) as error:
        return PlainTextResponse(str(error), status_code=401)
    except (ValueError, LookupError, TypeError):
        return PlainTextResponse("This is no button of ours.", status_code=400)
    return Response()


engine = Engine([deploy], store=os.environ.get("BOXFLOW_STORE", "memory:"))
app = Starlette(routes=[Route("/slack/interactions", interactions, methods=["POST"])], lifespan=lifespan(engine))


async def click(slack: httpx.AsyncClient, token: str, secret: str) -> int:
    action = {"action_id": "approve", "value": token}
    body = urlencode({"payload": json.dumps({"user": {"name": "ann"}, "actions": [action]})})
    at = str(int(time.time()))
    digest = hmac.new(secret.encode(), f"v0:{at}:{body}".encode(), hashlib.sha256).hexdigest()
    headers = {"X-Slack-Request-Timestamp": at, "X-Slack-Signature": f"v0={digest}"}
    return (await slack.post("/slack/interactions", content=body, headers=headers)).status_code


async def main() -> None:
    secret = os.environ.setdefault("SLACK_SIGNING_SECRET", "what Slack's app page says")
    transport = httpx.ASGITransport(app)
    async with engine, httpx.AsyncClient(transport=transport, base_url="http://localhost") as slack:
        run = await engine.start(deploy, "version 2")
        text, token = await messages.get()
        print(text, await click(slack, token, "a guess"), await click(slack, token, secret))
        print(await run.result())
        print("once more:", await click(slack, token, secret))


if __name__ == "__main__":
    asyncio.run(main())
