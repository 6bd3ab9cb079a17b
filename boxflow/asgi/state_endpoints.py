"""Is the server there, is it ready, and what can it do? Asked by load balancers and tools, and open to everybody."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.responses import Response

from boxflow.asgi.documents import Health
from boxflow.asgi.endpoint import Call, Endpoint, Nothing, json_answer, json_response
from boxflow.asgi.problems import RefusedError
from boxflow.engine import Engine
from boxflow.errors import BoxflowError

READY_TIMEOUT_S: Final = 5.0
"""How long the store may take to say that it works."""

FRESH_S: Final = 1.0
"""How long an answer of the store holds: everybody may ask, and each question is a write."""


async def _health(call: Call[Nothing, None]) -> Response:
    return json_response(Health())


class Readiness:
    """Whether the engine takes work."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asking = asyncio.Lock()
        self._fresh_until = 0.0

    async def answer(self, call: Call[Nothing, None]) -> Response:
        """Ready, or what is not."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S), self._asking:
                await self._check()
        except TimeoutError as error:
            raise RefusedError(503, "Not ready", f"the store did not answer within {READY_TIMEOUT_S:g} s") from error
        except BoxflowError as error:
            raise RefusedError(503, "Not ready", str(error)) from error
        return json_response(Health(status="ready"))

    async def _check(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._fresh_until and self._engine.is_running:
            return
        await self._engine.check()
        self._fresh_until = now + FRESH_S


HEALTH = Endpoint(
    name="health",
    method="GET",
    path="/health",
    scope=None,
    summary="Whether the server answers.",
    handle=_health,
    answers=(json_answer(Health, "It does."),),
    query=None,
    body=None,
)


def ready_endpoint(engine: Engine) -> Endpoint[Any, Any]:
    """The endpoint that says whether *engine* is ready."""
    return Endpoint(
        name="ready",
        method="GET",
        path="/ready",
        scope=None,
        summary="Whether the engine runs and its store takes what is written.",
        handle=Readiness(engine).answer,
        answers=(json_answer(Health, "It is ready."),),
        query=None,
        body=None,
        problems=(503,),
    )
