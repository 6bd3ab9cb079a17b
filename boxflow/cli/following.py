"""How is a stream of a running engine followed to its end, over restarts of the engine and of what lies between?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import httpx
import msgspec

from boxflow.cli.clients import Document
from boxflow.cli.failures import UNREACHABLE, CommandError
from boxflow.cli.server import Params, Server
from boxflow.cli.server_events import ServerEvent, server_events

# An engine that is silent for so long is gone: it sends a comment every few seconds.
_SILENCE_S: Final = 60.0
# How long to wait before it is tried again, as long as nothing new comes in between: some twenty seconds in all.
_PAUSES_S: Final = (0.2, 1.0, 3.0, 5.0, 10.0)


async def followed(server: Server, path: str, params: Params, *, last_id: str) -> AsyncGenerator[ServerEvent]:
    """The events at *path* behind *last_id*, up to and with the one called `end`; none twice, and none left out.

    :raises CommandError: the engine refuses, or does not come back
    """
    tries, is_known = 0, False
    while True:
        try:
            async with aclosing(_once(server, path, params, last_id)) as events:
                async for event in events:
                    tries, is_known = 0, True
                    if event is None:
                        continue
                    last_id = event.id or last_id
                    if event.event == "error":
                        raise _refusal(event)
                    yield event
                    if event.event == "end":
                        return
            broken = CommandError("the engine ended the stream before it was over", UNREACHABLE)
        except CommandError as error:
            # Where nothing has ever answered nothing is waited for.
            if not (is_known and isinstance(error.__cause__, httpx.TransportError)):
                raise
            broken = error
        if tries == len(_PAUSES_S):
            raise broken
        await asyncio.sleep(_PAUSES_S[tries])
        tries += 1


async def _once(server: Server, path: str, params: Params, last_id: str) -> AsyncGenerator[ServerEvent | None]:
    """None as soon as the engine has agreed, then the events."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": last_id}
    async with (
        server.stream("GET", path, params=params, headers=headers, answer_s=_SILENCE_S) as response,
        aclosing(server_events(response.aiter_bytes())) as events,
    ):
        yield None
        async for event in events:
            yield event


def _refusal(event: ServerEvent) -> CommandError:
    problem = event_data(event)
    return CommandError(str(problem.get("detail") or problem.get("title")), UNREACHABLE)


def event_data(event: ServerEvent) -> Document:
    """The JSON object of an event.

    :raises CommandError: it has none
    """
    try:
        return msgspec.json.decode(event.data, type=dict[str, object])
    except msgspec.DecodeError:
        raise CommandError(
            "the engine sends an event that is no JSON object; is that a boxflow engine?", UNREACHABLE
        ) from None
