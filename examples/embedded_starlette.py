"""boxflow inside a Starlette app: the app's lifespan is the engine's, and below /flow is its HTTP door.

uvicorn examples.embedded_starlette:app          # with the state in the directory `state`
"""

import os
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from boxflow import Context, Engine, workflow
from boxflow.asgi import lifespan, problem, routes
from boxflow.errors import RunNotFoundError


@dataclass(frozen=True)
class Trip:
    to: str
    nights: int


async def book(what: str, to: str) -> str:
    return f"{what} to {to}"


@workflow
async def travel(ctx: Context, trip: Trip) -> list[str]:
    booked = [await ctx.run("flight", book, "flight", trip.to)]
    visa = await ctx.wait_for_event("visa", f"visa-{ctx.run_id}", timeout="30d")  # From an office, weeks later.
    if visa["granted"]:
        booked.append(await ctx.run("hotel", book, f"hotel for {trip.nights} nights", trip.to))
    return booked


async def take(request: Request) -> JSONResponse:
    trip = Trip(**await request.json())
    run = await engine.start(travel, trip, run_id=request.path_params["number"])  # Sent twice: the same run.
    return JSONResponse({"run_id": run.id}, status_code=202)


async def look(request: Request) -> object:
    try:
        run = await engine.get(request.path_params["number"])
    except RunNotFoundError as error:
        return problem(404, "No such trip", str(error))
    status = await run.status()
    return JSONResponse({"status": status, "booked": await run.result() if status == "completed" else []})


engine = Engine([travel], store=os.environ.get("BOXFLOW_STORE", "file:state"))
# Without `api_keys=` the routes of the door answer programs of this machine only.
app = Starlette(
    routes=[
        Route("/trips/{number}", take, methods=["POST"]),
        Route("/trips/{number}", look),
        Mount("/flow", routes=routes(engine)),
    ],
    lifespan=lifespan(engine),
)
