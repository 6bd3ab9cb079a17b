"""An app with the routes below a prefix, for servers that are programs of their own."""

from __future__ import annotations

from asgi.support import engine_of
from starlette.applications import Starlette
from starlette.routing import Mount

from boxflow.asgi import lifespan, routes

KEY = "the-key-of-the-served-app"

engine = engine_of()
app = Starlette(
    routes=[Mount("/flow", routes=routes(engine, api_keys=[KEY], max_body_bytes=1000, max_streams=1))],
    lifespan=lifespan(engine),
)
