"""Who tells the result of an agent that nobody waits for? A delivery: recorded at once, tried until it is done.

The result is POSTed the way of Standard Webhooks (standardwebhooks.com, specification 1.0): an id that stays the same
over all tries, a time, and a signature over both and the body. A URL that is a webhook of this engine is served without
a network. What is recorded is delivered also by the next life of the engine.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import msgspec

from boxflow.boxes import Models
from boxflow.codec import encode_value
from boxflow.errors import (
    BoxflowError,
    BoxNotFoundError,
    EventsFullError,
    RunEndedError,
    SandboxUnavailableError,
    WebhookTokenError,
)
from boxflow.mail import Notified, WebhookRequest, read_token
from boxflow.model import Delete, Item, Put, Value
from boxflow.ports import Clock, Sandbox, Store
from boxflow.web import Response

if TYPE_CHECKING:
    # At run time only where there is something to tell: every engine looks for that, and few have agents.
    from boxflow.boxes import AgentDelivery, RunRecord

log = logging.getLogger("boxflow")

DELIVERIES: Final = "agent_deliveries"
"""The collection of results that are still to be told, by box and job."""

PAUSES_S: Final = (5, 30, 120, 600, 1800, 3600, 10800, 21600, 43200)
"""Between tries, as Standard Webhooks recommends: about a day in all."""

POST_TIMEOUT_S: Final = 30.0
MAX_ANSWER_BYTES: Final = 1024 * 1024
GONE: Final = 410


class Post(Protocol):
    """Hands mail to a run of this engine."""

    async def send(
        self, run_id: str, kind: Literal["webhook"], subject: str, data: bytes, *, call_id: str
    ) -> Notified: ...


class Hub(Protocol):
    """What deliveries ask of their engine."""

    clock: Clock
    store: Store
    base_url: str
    secret: bytes | None

    async def call(
        self,
        url: str,
        method: str,
        headers: Mapping[str, str],
        json: bytes | None,
        content: bytes | None,
        timeout_s: float,
        *,
        max_bytes: int,
    ) -> Response: ...

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...


class AgentDeliveries:
    """The results that are still to be told."""

    def __init__(self, hub: Hub, post: Post, sandbox: Sandbox, models: Models) -> None:
        self._models = models
        self._hub = hub
        self._post = post
        self._sandbox = sandbox

    async def add(self, delivery: AgentDelivery) -> None:
        """Tell the result when there is one. Durable on return; the same run and URL twice is told once."""
        key = f"{delivery.box_id}:{delivery.job_id}"
        if await self._hub.store.get_item(DELIVERIES, key) is not None:
            return
        value = Value(msgspec.json.encode(delivery))
        await self._hub.store.change_items([Put(Item(collection=DELIVERIES, key=key, value=value))])
        self._hub.spawn(self._deliver(key, delivery))

    async def recover(self) -> None:
        """Go on with those of an earlier life."""
        for item in await self._hub.store.list_items(DELIVERIES):
            self._hub.spawn(self._deliver(item.key, _decoded(item.value)))

    async def _deliver(self, key: str, delivery: AgentDelivery) -> None:
        record = await self._result(delivery)
        body = payload(delivery, record)
        for pause_s in (*PAUSES_S, None):
            if await self._told(delivery, key, body):
                break
            if pause_s is None:
                log.warning("the result of agent run %r reached nobody at its webhook; given up", delivery.job_id)
                break
            await self._hub.clock.sleep_until(self._hub.clock.now() + pause_s)
        await self._hub.store.change_items([Delete(DELIVERIES, key)])

    async def _result(self, delivery: AgentDelivery) -> RunRecord:
        from boxflow.boxes import finish_delivery

        pause_s = 1.0
        while True:
            try:
                return await finish_delivery(self._sandbox, self._models, delivery)
            except SandboxUnavailableError as error:
                log.info("agent run %r cannot be looked at, will be tried again: %s", delivery.job_id, error)
                await self._hub.clock.sleep_until(self._hub.clock.now() + pause_s)
                pause_s = min(2 * pause_s, 60.0)
            except BoxNotFoundError as error:
                return _lost(delivery, f"its box is gone: {error}")
            except BoxflowError as error:
                return _lost(delivery, str(error))

    async def _told(self, delivery: AgentDelivery, key: str, body: bytes) -> bool:
        """Whether the receiver has it, or never will."""
        own = f"{self._hub.base_url}/webhooks/"
        assert self._hub.secret is not None
        now = int(self._hub.clock.now())
        identity = f"msg_{hashlib.sha256(key.encode()).hexdigest()[:32]}"
        headers = {"content-type": "application/json", **signed(self._hub.secret, identity, now, body)}
        if delivery.url.startswith(own):
            try:
                address = read_token(self._hub.secret, delivery.url.removeprefix(own))
                call = encode_value(WebhookRequest(method="POST", headers=headers, body=body), WebhookRequest)
                await self._post.send(address.run_id, "webhook", address.name, call, call_id=identity)
            except (RunEndedError, WebhookTokenError) as error:
                log.info("the result of agent run %r is wanted no more: %s", delivery.job_id, error)
            except EventsFullError as error:
                log.info("the result of agent run %r finds no room, will be tried again: %s", delivery.job_id, error)
                return False
            return True
        try:
            answer = await self._hub.call(
                delivery.url, "POST", headers, None, body, POST_TIMEOUT_S, max_bytes=MAX_ANSWER_BYTES
            )
        except Exception as error:  # noqa: BLE001 - whatever keeps a POST from its receiver, the next try may pass
            log.info("the result of agent run %r could not be told, will be tried again: %s", delivery.job_id, error)
            return False
        # 410 is how a receiver says that it wants no more (Standard Webhooks, "Operational considerations").
        return 200 <= answer.status < 300 or answer.status == GONE


def signing_key(secret: bytes) -> bytes:
    """The key of the signatures, derived from the engine's secret so that giving it away gives nothing else away."""
    return hmac.new(secret, b"boxflow standard webhooks", hashlib.sha256).digest()


def signed(secret: bytes, identity: str, now: int, body: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks."""
    mac = hmac.new(signing_key(secret), f"{identity}.{now}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": identity,
        "webhook-timestamp": str(now),
        "webhook-signature": f"v1,{base64.b64encode(mac).decode('ascii')}",
    }


class _Data(msgspec.Struct, kw_only=True):
    id: str
    box_id: str
    agent: str
    status: str
    text: str
    result: msgspec.Raw
    error: str | None
    failure: str | None
    usage: dict[str, int]
    cost_usd: float | None
    session_id: str | None
    duration_s: float


class _Payload(msgspec.Struct, kw_only=True):
    type: str
    data: _Data


def payload(delivery: AgentDelivery, record: RunRecord) -> bytes:
    """The body: what `agent.run` would have returned, or the error that it would have raised."""
    try:
        record.raise_failure()
        error = None
        if delivery.schema is not None and record.answer is None:
            error = f"agent {record.agent!r} gave no answer that fits its schema: {record.problem}"
    except BoxflowError as failed:
        error = str(failed)
    answer = record.answer if delivery.schema is not None else msgspec.json.encode(record.text).decode()
    data = _Data(
        id=record.id,
        box_id=delivery.box_id,
        agent=record.agent,
        status="completed" if error is None else "failed",
        text=record.text,
        result=msgspec.Raw((answer if error is None and answer is not None else "null").encode()),
        error=error,
        failure=None if record.failure is None else str(record.failure),
        usage={
            "input_tokens": record.usage.input_tokens,
            "cached_input_tokens": record.usage.cached_input_tokens,
            "output_tokens": record.usage.output_tokens,
        },
        cost_usd=record.cost_usd,
        session_id=record.session_id,
        duration_s=record.duration_s,
    )
    return msgspec.json.encode(_Payload(type=f"agent.{data.status}", data=data))


def _decoded(value: bytes) -> AgentDelivery:
    from boxflow.boxes import AgentDelivery

    return msgspec.json.decode(value, type=AgentDelivery)


def _lost(delivery: AgentDelivery, message: str) -> RunRecord:
    from boxflow.boxes import RunRecord
    from boxflow.harness import AgentFailure

    return RunRecord(id=delivery.job_id, agent=delivery.config.harness, failure=AgentFailure.CRASHED, message=message)
