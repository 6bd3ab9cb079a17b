"""A server that is killed: `python webhook_child.py STATE FD`, on a socket that outlives it."""

from __future__ import annotations

import socket
import sys

import uvicorn

from boxflow import Context, Engine, Webhook, workflow
from boxflow.asgi import create_app
from boxflow_backends.file_store import FileStore

hooks: dict[str, Webhook] = {}


@workflow
async def collect(ctx: Context, takes: bool) -> None:
    """Take each call of a webhook as it comes, or leave them all where they are kept."""
    hook = hooks[ctx.run_id] = await ctx.create_webhook("calls", verify="standard-webhooks")
    while takes:
        await ctx.wait_for_webhook("call", hook)
    await ctx.wait_for_event("never", "never")


def engine(state: str) -> Engine:
    return Engine([collect], store=FileStore(state, durability="always"), blocking_limit=None)


if __name__ == "__main__":
    config = uvicorn.Config(create_app(engine(sys.argv[1])), log_level="error", lifespan="on", ws="none")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[2]))])
