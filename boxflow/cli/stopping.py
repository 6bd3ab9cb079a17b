"""How does a server stop while clients follow streams that may go on for hours? It ends them; clients come again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class StoppableApp:
    """An app whose streams end when it is told to stop. All other requests are answered to their end.

    Streams are answers to GET: their apps learn from `receive` that the client has left, and here that is what they are
    told. What they leave unfinished is finished, so that the client sees an end and not a broken connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End the streams, and those that begin from now on."""
        self._stopping.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        await self._app(scope, lambda: self._receive(receive), answer.send)
        if self._stopping.is_set():
            await answer.finish()

    async def _receive(self, receive: Receive) -> Message:
        receiving = asyncio.ensure_future(receive())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            # No deadline: it is the server's, and the client can leave at any time.
            await asyncio.wait({receiving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return receiving.result() if receiving.done() else {"type": "http.disconnect"}
        finally:
            receiving.cancel()
            stopping.cancel()


class _Answer:
    """What has been sent of an answer."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_begun = self._is_over = False

    async def send(self, message: Message) -> None:
        """Send a part of it."""
        await self._send(message)
        self._is_begun = True
        self._is_over = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def finish(self) -> None:
        """Send what is left of it."""
        if not self._is_begun:
            await self.send({"type": "http.response.start", "status": 503, "headers": [(b"retry-after", b"5")]})
        if not self._is_over:
            await self.send({"type": "http.response.body", "body": b""})
