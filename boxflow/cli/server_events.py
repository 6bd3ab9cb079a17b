"""How is a stream of server-sent events read? By the rules of the HTML standard, chapter 9.2."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from typing import Final

import attrs

from boxflow.cli.failures import UNREACHABLE, CommandError

# One event: an outcome with its value, which the engine bounds far below.
_MAX_BYTES: Final = 64 << 20


@attrs.frozen(kw_only=True)
class ServerEvent:
    """One event.

    :param id: of the last event that had one
    """

    event: str
    data: str
    id: str


async def server_events(chunks: AsyncIterable[bytes]) -> AsyncGenerator[ServerEvent]:
    """The events in *chunks*; comments, which only keep the connection alive, are passed over.

    :raises CommandError: an event does not end
    """
    event, data, last_id, size = "", list[str](), "", 0
    async for line in _lines(chunks):
        if not line:
            if data:
                yield ServerEvent(event=event or "message", data="\n".join(data), id=last_id)
            event, data, size = "", [], 0
            continue
        size += len(line)
        if size > _MAX_BYTES:
            raise _endless()
        field, _, value = line.decode(errors="replace").partition(":")
        value = value.removeprefix(" ")
        match field:
            case "event":
                event = value
            case "data":
                data.append(value)
            case "id":
                last_id = value
            case _:
                pass


async def _lines(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Lines as this format has them. Not `str.splitlines`, which takes U+2028 in a value for a line's end."""
    pending = bytearray()
    async for chunk in chunks:
        pending += chunk
        *lines, rest = pending.split(b"\n")
        pending = rest
        if len(pending) > _MAX_BYTES:
            raise _endless()
        for line in lines:
            yield bytes(line.removesuffix(b"\r"))


def _endless() -> CommandError:
    return CommandError("the engine sends an event without an end", UNREACHABLE)
