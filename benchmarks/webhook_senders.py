"""Who calls the webhooks of a benchmark? Senders in a process of their own: `python -m benchmarks.webhook_senders`.

It reads its orders as one line of JSON, gets every request ready, says `ready`, and begins when it is told to. Each
sender keeps one connection and calls again when it is answered. The last line of its output is the time of all calls,
and of each.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import sys
import time

import msgspec

from benchmarks.measuring import run

BODY = b'{"status": "done", "text": "' + b"x" * 200 + b'"}'


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What to send.

    :param paths: of the webhooks; a sender calls one of them
    :param key: signs as Standard Webhooks has it
    """

    port: int
    senders: int
    calls: int
    paths: list[str]
    key: bytes | None = None


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """How long it took in all, and each call."""

    wall_s: float
    latencies_s: list[float]


def request(orders: Orders, sender: int, number: int) -> bytes:
    headers = f"POST {orders.paths[sender % len(orders.paths)]} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    headers += f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n"
    if orders.key is not None:
        call_id, now = f"msg_{sender}_{number}", int(time.time())
        mac = hmac.new(orders.key, f"{call_id}.{now}.".encode() + BODY, hashlib.sha256).digest()
        headers += f"webhook-id: {call_id}\r\nwebhook-timestamp: {now}\r\n"
        headers += f"webhook-signature: v1,{base64.b64encode(mac).decode()}\r\n"
    return headers.encode() + b"\r\n" + BODY


async def send(port: int, requests: list[bytes], begin: asyncio.Event, latencies: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await begin.wait()
    for one in requests:
        sent_at = time.perf_counter()
        writer.write(one)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        body = await reader.readexactly(int(length))
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"a call was answered with {head!r} {body!r}")
        latencies.append(time.perf_counter() - sent_at)
    writer.close()
    await writer.wait_closed()


async def send_all(orders: Orders) -> Answered:
    share = max(orders.calls // orders.senders, 1)
    latencies: list[float] = []
    begin = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for sender in range(orders.senders):
            requests = [request(orders, sender, number) for number in range(share)]
            group.create_task(send(orders.port, requests, begin, latencies))
        await asyncio.sleep(0.2)  # All are connected: none has the server for itself.
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        begun = time.perf_counter()
        begin.set()
    return Answered(wall_s=time.perf_counter() - begun, latencies_s=latencies)


if __name__ == "__main__":
    answered = run(send_all(msgspec.json.decode(sys.stdin.readline(), type=Orders)))
    print(msgspec.json.encode(answered).decode(), flush=True)
