"""How does somebody else decide what happens in a world? It asks before time passes, and before it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from boxflow.codec import encode_loose, encode_value
from boxflow.hub import Hub
from boxflow.journal import MailWait
from boxflow.mail import WebhookRequest
from boxflow.testing.rules import Rule
from boxflow.testing.world import (
    World,
    _as_request,  # pyright: ignore[reportPrivateUsage] # the kit's own: what a script may answer is decided there
)

Kind = Literal["event", "webhook"]


class OpenWorld(World):
    """A world whose moves are made from outside, where somebody wants to."""

    # A subclass, against the habit of this house: it is the same world, with two of its decisions given away.

    #: Asked when nothing goes on by itself; says whether it has made something go on.
    on_idle: Callable[[], bool] | None = None

    @property
    def hub(self) -> Hub:
        """What drives the world's engine."""
        return self._hub

    def idle(self) -> bool:
        """As a world does, unless somebody else moves."""
        is_free = self._target is None and not self._is_leaving
        if is_free and self.on_idle is not None and self.on_idle():
            return True
        return super().idle()

    def leave_answers_to(self, began: Callable[[str, MailWait, Rule], None]) -> None:
        """Have *began* told of waits that there is an answer to, and answer none by itself."""
        self._stand_ins.on_wait = began

    def answer_to(self, name: str) -> Rule | None:
        """What answers the waits of that name."""
        return self._stand_ins.answers.find(name)

    async def send(self, run_id: str, kind: Kind, subject: str, data: bytes) -> None:
        """Send an answer to that run.

        :raises RunEndedError: it is over
        :raises RunNotFoundError: it has not begun
        """
        await self._hub.mailroom.send(run_id, kind, subject, data)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task in the world's own time."""
        return self._hub.spawn(coroutine)


def encoded_answer(kind: Kind, answer: object) -> bytes:
    """What a script answers, as it is sent."""
    return encode_loose(answer) if kind == "event" else encode_value(_as_request(answer), WebhookRequest)
