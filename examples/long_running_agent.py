"""An agent that lives elsewhere and takes its time: it gets a webhook, and the run waits without costing anything."""

import asyncio
import socket
import sys
import tempfile

import uvicorn
from starlette.applications import Starlette

from boxflow import Context, Engine, workflow
from boxflow.asgi import routes

AGENT = """
import json, sys, time, urllib.request
prompt, url = sys.argv[1:]
time.sleep(0.3)  # In life: an hour.
body = json.dumps({"answer": prompt.upper()}).encode()
urllib.request.urlopen(urllib.request.Request(url, body, method="POST"))
"""


async def start_agent(prompt: str, webhook_url: str) -> int:
    """Hand the work to somebody else and return at once; here that is a process on this machine."""
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGENT, prompt, webhook_url, start_new_session=True
    )
    return agent.pid


@workflow
async def ask_agent(ctx: Context, prompt: str) -> str:
    done = await ctx.create_webhook("agent-done")
    await ctx.run("start agent", start_agent, prompt, done.url)
    call = await ctx.wait_for_webhook("agent", done, timeout="1h")
    return str(call.json()["answer"])


async def main() -> None:
    with tempfile.TemporaryDirectory() as state, socket.create_server(("127.0.0.1", 0)) as listening:
        base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with Engine([ask_agent], store=f"file:{state}", base_url=base_url) as engine:
            config = uvicorn.Config(Starlette(routes=routes(engine)), log_level="warning", lifespan="off")
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            print(await engine.run(ask_agent, "hello from far away"))
            server.should_exit = True
            await serving


if __name__ == "__main__":
    asyncio.run(main())
