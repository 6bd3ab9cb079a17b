"""A 2xx means durable: a server is killed again and again under 200 senders, and each call is there once."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from asgi.webhook_child import collect, engine, hooks
from behaviour.support import until

from boxflow import RunStatus
from boxflow.model import WebhookArrived
from boxflow_backends.file_store import FileStore

ROOT = Path(__file__).parent.parent.parent
KEY = base64.b64encode(b"k" * 24).decode()
SENDERS = 200
CALLS = 4
"""Of each sender: enough that each life of the server ends in the middle of them."""

KILLS = 4
ANSWER_S = 15.0
"""After which a sender calls again. Longer than a start takes on a busy machine; a killed server hangs up at once."""


def start(state: Path, listener: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "webhook_child.py"), str(state), str(listener.fileno())],
        env={**os.environ, "WEBHOOK_SECRET": KEY, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")])},
        pass_fds=[listener.fileno()],
    )


def call(token: str, call_id: str) -> bytes:
    """A signed call, signed anew each time that it is sent."""
    body, at = json.dumps({"id": call_id}).encode(), str(int(time.time()))
    digest = hmac.new(base64.b64decode(KEY), f"{call_id}.{at}.".encode() + body, hashlib.sha256).digest()
    headers = (
        f"POST /webhooks/{token} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nwebhook-id: {call_id}\r\n"
        f"webhook-timestamp: {at}\r\nwebhook-signature: v1,{base64.b64encode(digest).decode()}\r\n\r\n"
    )
    return headers.encode() + body


class Senders:
    """Each sends its calls one after the other, and each call until it is acknowledged."""

    def __init__(self, port: int, tokens: list[str]) -> None:
        self._port = port
        self._tokens = tokens
        self.acknowledged: Counter[str] = Counter()
        self.tries: Counter[str] = Counter()
        self.refused: list[bytes] = []

    async def send_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(SENDERS):
                group.create_task(self._send(number))

    async def _send(self, number: int) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for turn in range(CALLS):
            call_id = f"{number}-{turn}"
            while not self.acknowledged[call_id]:
                self.tries[call_id] += 1
                try:
                    async with asyncio.timeout(ANSWER_S):
                        streams = streams or await asyncio.open_connection("127.0.0.1", self._port)
                        await self._try(streams, number, call_id)
                except (OSError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
                    if streams is not None:
                        streams[1].transport.abort()
                    streams = None
        if streams is not None:
            streams[1].close()

    async def _try(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], number: int, call_id: str) -> None:
        reader, writer = streams
        writer.write(call(self._tokens[number % len(self._tokens)], call_id))
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(int(length.partition(b":")[2]))
        if head.startswith(b"HTTP/1.1 200 "):
            self.acknowledged[call_id] += 1
        elif not head.startswith(b"HTTP/1.1 503 "):  # The server is being stopped; all else is a failure of the test.
            self.refused.append(head + body)
            raise ConnectionError


@pytest.mark.slow
async def test_each_acknowledged_call_is_there_once_however_often_the_server_is_killed(tmp_path: Path) -> None:
    chance = random.Random(7)
    state = tmp_path / "state"
    run_ids = ["takes-1", "takes-2", "keeps"]
    async with engine(str(state)) as first:
        for run_id in run_ids:
            await until(await first.start(collect, run_id != "keeps", run_id=run_id), RunStatus.WAITING)
    # The socket is ours: what connects between two lives waits for the next.
    with socket.create_server(("127.0.0.1", 0), backlog=2 * SENDERS) as listener:
        senders = Senders(listener.getsockname()[1], [hooks[run_id].token for run_id in run_ids])
        server = start(state, listener)
        sending = asyncio.create_task(senders.send_all())
        try:
            for number in range(1, KILLS + 1):
                enough = number * SENDERS * CALLS // (KILLS + 1)
                while len(senders.acknowledged) < enough and not sending.done():
                    assert server.poll() is None and not senders.refused
                    await asyncio.sleep(0.001)
                await asyncio.sleep(chance.random() * 0.02)
                server.send_signal(signal.SIGKILL)
                server.wait()
                server = start(state, listener)
            await sending
        finally:
            sending.cancel()
            server.kill()
            server.wait()
    assert senders.refused == []
    sent = {f"{number}-{turn}" for number in range(SENDERS) for turn in range(CALLS)}
    assert senders.acknowledged == Counter(sent)
    assert sum(senders.tries.values()) > len(sent), "no call was cut off: the kills came too late"
    assert await found(state, run_ids) == Counter(sent)


async def found(state: Path, run_ids: list[str]) -> Counter[str]:
    """The ids of the calls in the journals, and of those that are still kept."""
    calls: list[Any] = []
    # Without an engine, which would go on with taking them meanwhile.
    async with FileStore.reader(state) as store:
        for run_id in run_ids:
            outcomes = await store.read_journal(run_id)
            calls += [outcome.data for outcome in outcomes if isinstance(outcome, WebhookArrived)]
        calls += [json.loads(bytes(item.value))["data"] for item in await store.list_items("mail")]
    assert {one["headers"]["webhook-id"] == json.loads(base64.b64decode(one["body"]))["id"] for one in calls} == {True}
    return Counter(one["headers"]["webhook-id"] for one in calls)
