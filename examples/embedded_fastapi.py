"""boxflow inside a FastAPI app: the app's lifespan is the engine's, its webhooks and events are two more routes.

uvicorn examples.embedded_fastapi:app          # with the state in the directory `state`
"""

import os

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from starlette.routing import Mount

from boxflow import Context, Engine, workflow
from boxflow.asgi import lifespan, routes
from boxflow.errors import RunNotFoundError


class Order(BaseModel):
    item: str
    amount: int = 1


async def reserve(order: Order) -> str:
    return f"{order.amount} x {order.item}"


@workflow
async def fulfil(ctx: Context, order: Order) -> str:
    reserved = await ctx.run("reserve", reserve, order)
    payment = await ctx.wait_for_event("payment", f"paid-{ctx.run_id}", timeout="1d")
    return f"{reserved}, paid by {payment['by']}"


engine = Engine([fulfil], store=os.environ.get("BOXFLOW_STORE", "file:state"))
app = FastAPI(lifespan=lifespan(engine), routes=[Mount("/flow", routes=routes(engine))])


@app.post("/orders/{number}", status_code=202)
async def take(number: str, order: Order) -> dict[str, str]:
    run = await engine.start(fulfil, order, run_id=number)  # Sent twice: the same run.
    return {"run_id": run.id}


@app.get("/orders/{number}")
async def look(number: str) -> dict[str, str]:
    try:
        run = await engine.get(number)
    except RunNotFoundError as error:
        raise HTTPException(404, str(error)) from error
    status = await run.status()
    return {"status": status, "result": await run.result()} if status == "completed" else {"status": status}
