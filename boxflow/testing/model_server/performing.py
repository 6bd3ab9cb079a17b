"""How is a reply played to the program that asked?"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from boxflow.testing.model_server.answering import Call, Dialect, Event, ModelAnswer, Text, Thought, compact
from boxflow.testing.model_server.chat_api import ChatApi
from boxflow.testing.model_server.connection import ClientGoneError, Connection
from boxflow.testing.model_server.messages_api import MessagesApi
from boxflow.testing.model_server.replies import (
    Answer,
    Block,
    CutStream,
    Fail,
    First,
    Garbage,
    Hang,
    Reply,
    Say,
    StopReason,
    Think,
    Together,
    Tokens,
)
from boxflow.testing.model_server.request import Api, ModelRequest, call_id
from boxflow.testing.model_server.responses_api import ResponsesApi
from boxflow.testing.model_server.toolbox import concrete

DIALECTS: Final[Mapping[Api, Dialect]] = {
    Api.MESSAGES: MessagesApi(),
    Api.RESPONSES: ResponsesApi(),
    Api.CHAT: ChatApi(),
}

_JSON: Final = {"content-type": "application/json", "request-id": "req_scripted", "x-request-id": "req_scripted"}
_STREAM: Final = {**_JSON, "content-type": "text/event-stream", "cache-control": "no-cache"}
_CALL_PREFIXES: Final = {Api.MESSAGES: "toolu", Api.RESPONSES: "call", Api.CHAT: "call"}


async def perform(reply: Reply, request: ModelRequest, connection: Connection, tokens: Tokens) -> None:
    """Play *reply*; *tokens* is what an answer costs that does not say it.

    :raises ScriptError: the request offers no tool for it; nothing was sent
    :raises ClientGoneError: the program did not wait for the end, or the reply is one that breaks the connection
    """
    dialect = DIALECTS[request.api]
    match reply:
        case Fail():
            await _fail(reply, request, connection, tokens)
        case CutStream():
            await _cut(_answer([Say(reply.after)], request, tokens), request, connection)
        case Hang(after=after) if after and request.stream:
            events = list(dialect.events(_answer([Say(after)], request, tokens), request.body))
            await connection.start(200, _STREAM)
            await _send(_content(events), connection)
            await connection.wait(reply.seconds)
            await _send([event for event in events if event.closing], connection)
            await connection.end()
        case Hang():
            await connection.wait(reply.seconds)
            await perform(reply.then, request, connection, tokens)
        case Garbage():
            await connection.respond(reply.status, {"content-type": reply.content_type}, reply.data)
        case First():
            raise TypeError("the server chooses between the two replies of a First")
        case Together(blocks=blocks):
            cost = reply.tokens or next((one.tokens for one in blocks if one.tokens), tokens)
            await _give(_answer(blocks, request, cost), request, connection)
        case _:
            await _give(_answer([reply], request, reply.tokens or tokens), request, connection)


async def refuse(fail: Fail, api: Api, connection: Connection) -> None:
    """Answer with an error, in one piece."""
    headers = dict(_JSON)
    if fail.retry_after is not None:
        headers["retry-after"] = f"{fail.retry_after:g}"
    await connection.respond(fail.status, headers, _bytes(DIALECTS[api].error(fail)))


# --- whole answers ---------------------------------------------------------------------------------------------------


async def _give(answer: ModelAnswer, request: ModelRequest, connection: Connection) -> None:
    dialect = DIALECTS[request.api]
    if not request.stream:
        await connection.respond(200, _JSON, _bytes(dialect.whole(answer)))
        return
    await connection.start(200, _STREAM)
    for event in dialect.events(answer, request.body):
        await _send([event], connection)
    await connection.end()


def _answer(blocks: Sequence[Block], request: ModelRequest, tokens: Tokens) -> ModelAnswer:
    return ModelAnswer(
        id=request.digest,
        created_at=int(time.time()),
        model=request.model,
        blocks=[_played(block, position, request) for position, block in enumerate(blocks)],
        tokens=tokens,
        stop=_stop(blocks),
    )


def _stop(blocks: Sequence[Block]) -> StopReason:
    stops: list[StopReason] = [block.stop for block in blocks if isinstance(block, Say)]
    return stops[-1] if stops else "end"


def _played(block: Block, position: int, request: ModelRequest) -> Text | Thought | Call:
    match block:
        case Say():
            return Text(text=block.text, over_s=block.over_s)
        case Think():
            return Thought(text=block.text)
        case Answer(data=data):
            offered = request.structured_output_tool
            tool = offered.name if offered else request.reading.forced_tool
            if tool is None:
                return Text(text=compact(data))
            identity = call_id(_CALL_PREFIXES[request.api], request, position, answer=True)
            return Call(call_id=identity, name=tool, input=data, arguments=compact(data))
        case _:
            use = concrete(block, request)
            identity = call_id(_CALL_PREFIXES[request.api], request, position)
            arguments = use.input if isinstance(use.input, str) else compact(use.input)
            return Call(call_id=identity, name=use.tool, input=use.input, arguments=arguments)


# --- broken ones -----------------------------------------------------------------------------------------------------


async def _fail(fail: Fail, request: ModelRequest, connection: Connection, tokens: Tokens) -> None:
    if not (fail.after and request.stream):
        await refuse(fail, request.api, connection)
        return
    dialect = DIALECTS[request.api]
    answer = _answer([Say(fail.after)], request, tokens)
    await connection.start(200, _STREAM)
    await _send(_content(dialect.events(answer, request.body)), connection)
    await connection.send(dialect.error_event(fail, answer))
    await connection.end()


async def _cut(answer: ModelAnswer, request: ModelRequest, connection: Connection) -> None:
    dialect = DIALECTS[request.api]
    if request.stream:
        await connection.start(200, _STREAM)
        await _send(_content(dialect.events(answer, request.body)), connection)
    else:
        body = _bytes(dialect.whole(answer))
        await connection.start(200, {**_JSON, "content-length": str(len(body))})
        await connection.send(body[: len(body) // 2])
    raise ClientGoneError


def _content(events: Iterable[Event]) -> Sequence[Event]:
    """All up to the end of the text."""
    return [event for event in events if not event.closing]


async def _send(events: Sequence[Event], connection: Connection) -> None:
    for event in events:
        if event.pause_s:
            await connection.wait(event.pause_s)
        await connection.send(event.data)


def _bytes(data: Mapping[str, object]) -> bytes:
    return compact(data).encode(errors="replace")
