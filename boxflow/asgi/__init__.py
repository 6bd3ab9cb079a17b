"""The HTTP door into an engine: ASGI routes to mount in any app, or an app of their own.

    app = create_app(engine, api_keys=[os.environ["API_KEY"]])   # a whole app, whose lifespan is the engine's
    app = Starlette(routes=[Mount("/flow", routes=routes(engine))], lifespan=lifespan(engine))

Webhooks, events, runs, live outcomes, boxes, health, and the OpenAPI document that says it all: `docs/http.md`. A 2xx
answer means: durably stored. Errors are problem details as in RFC 9457.
"""

from boxflow.asgi.access import Authorize, Keys, Scope
from boxflow.asgi.app import RouteOptions, create_app, lifespan, routes
from boxflow.asgi.problems import problem
from boxflow.asgi.reading import MAX_BODY_BYTES
from boxflow.webhook_signatures import verify_webhook

__all__ = [
    "MAX_BODY_BYTES",
    "Authorize",
    "Keys",
    "RouteOptions",
    "Scope",
    "create_app",
    "lifespan",
    "problem",
    "routes",
    "verify_webhook",
]
