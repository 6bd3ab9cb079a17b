"""Where does a scripted model live? On a port of this machine, for as long as an `async with` block lasts."""

from __future__ import annotations

import asyncio
import collections
import json
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Self, cast

from boxflow.boxes.shielded import finish
from boxflow.errors import ConfigurationError
from boxflow.testing.model_server.connection import ClientGoneError, Connection, TooLargeError
from boxflow.testing.model_server.errors import ScriptError
from boxflow.testing.model_server.performing import DIALECTS, perform, refuse
from boxflow.testing.model_server.replies import Fail, First, Reply, Tokens
from boxflow.testing.model_server.request import Api, HttpRequest, ModelRequest
from boxflow.testing.model_server.scripts import Script, decided, decision
from boxflow.testing.model_server.side_requests import side_reply

_STOP_S = 5.0

_APIS = {"/messages": Api.MESSAGES, "/responses": Api.RESPONSES, "/chat/completions": Api.CHAT}


class ScriptedModel:
    r"""A model that follows a script, for agents and SDKs that are told its `url`.

        async with ScriptedModel([WriteFile("a.txt", "hello\n"), Say("Done.")]) as model:
            ...  # run an agent with model.url
        assert model.requests[0].api_key == "sk-test"

    It speaks Anthropic's Messages, OpenAI's Responses and Chat Completions, streamed and not. Which turn of a script it
    is follows from the conversation in the request alone: agents may run in parallel, try again, and go on with a
    session, and always get the turn that is theirs. A sub-agent of a program has a conversation of its own: `prompts`
    tells it from the others.

    Side requests of programs (titles, warm-ups, lists of models, counting tokens) are answered, and are no turns.

    :param script: see `Script`
    :param port: any free one when 0
    :param tokens: what an answer costs that does not say it
    :param keys: who shows another key than these gets a 401; all are let in when None
    :param side: what to answer to requests that are no turn of the script; None from it means: a turn
    :param keep: so many requests are kept of each list below; older ones are forgotten
    """

    def __init__(
        self,
        script: Script,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tokens: Tokens = Tokens(),
        keys: Collection[str] | None = None,
        side: Callable[[ModelRequest], Reply | None] = side_reply,
        keep: int = 1000,
    ) -> None:
        if isinstance(keys, str):
            raise ConfigurationError("keys= is one text; give a list of keys")
        self._decide = decision(script)
        self._host = host
        self._port = port
        self._tokens = tokens
        self._keys = None if keys is None else frozenset(keys)
        self._side = side
        self._received: collections.deque[HttpRequest] = collections.deque(maxlen=keep)
        self._requests: collections.deque[ModelRequest] = collections.deque(maxlen=keep)
        self._side_requests: collections.deque[ModelRequest] = collections.deque(maxlen=keep)
        self._seen: collections.Counter[tuple[str, str]] = collections.Counter()
        self._broken_script: Exception | None = None
        self._serving: asyncio.Task[None] | None = None

    # --- what users look at

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end: the base URL for Anthropic; OpenAI's has `/v1` behind it.

        Anything may be put between it and `/v1`, to tell one agent from another by `ModelRequest.path`.
        """
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def requests(self) -> list[ModelRequest]:
        """The requests that were turns of the script, in the order in which they came."""
        return list(self._requests)

    @property
    def side_requests(self) -> list[ModelRequest]:
        """What programs asked beside the work."""
        return list(self._side_requests)

    @property
    def received(self) -> list[HttpRequest]:
        """Every request that arrived, whatever it was, as it arrived."""
        return list(self._received)

    # --- its life

    async def __aenter__(self) -> Self:
        """Listen; :raises OSError: the port is taken, or the host is not of this machine."""
        if self._serving is not None:
            raise ConfigurationError("a ScriptedModel is entered once; make another one")
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        # One task owns the port and all connections, so that it does not matter in which task this is left: fixtures
        # of pytest plugins enter in one and leave in another.
        self._serving = asyncio.create_task(self._serve(ready), name="scripted-model")
        try:
            self._port = await ready
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop: connections are cut. What a script that is a function raised is raised here, if nothing else is."""
        await self._stop()
        if self._broken_script is not None and error is None:
            raise self._broken_script

    async def _stop(self) -> None:
        assert self._serving is not None
        self._serving.cancel()
        # It waits for nothing but sockets that it closes, each within a second.
        await finish(self._served(self._serving), timeout_s=_STOP_S)

    @staticmethod
    async def _served(task: asyncio.Task[None]) -> None:
        await asyncio.wait([task])

    async def _serve(self, ready: asyncio.Future[int]) -> None:
        open_ = True

        def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if open_:
                group.create_task(self._attend(Connection(reader, writer)))
            else:
                writer.transport.abort()

        try:
            server = await asyncio.start_server(attend, self._host, self._port)
        except OSError as exc:
            ready.set_exception(exc)
            return
        async with asyncio.TaskGroup() as group:
            try:
                ready.set_result(server.sockets[0].getsockname()[1])
                # Until cancelled by `_stop`.
                await asyncio.Event().wait()
            finally:
                open_ = False
                server.close()

    async def _attend(self, connection: Connection) -> None:
        try:
            while (request := await connection.next_request()) is not None:
                self._received.append(request)
                await self._answer(request, connection)
        except ClientGoneError:
            pass  # Programs that are killed, and replies that cut the connection.
        except TooLargeError:
            await connection.respond(413, {}, b"")
        except Exception as exc:  # noqa: BLE001  # one connection that breaks ends no other; told as a script's error is
            self._broken_script = self._broken_script or exc
        finally:
            await connection.close()

    # --- answering

    async def _answer(self, request: HttpRequest, connection: Connection) -> None:
        path = request.path.partition("?")[0].rstrip("/")
        api = next((api for end, api in _APIS.items() if path.endswith(end)), None)
        if request.method == "POST" and api is not None:
            await self._answer_model_request(request, api, connection)
        elif request.method == "POST" and path.endswith("/messages/count_tokens"):
            await _give(connection, {"input_tokens": max(1, len(request.body) // 4)})
        elif path.endswith("/models"):
            model = {"id": "scripted", "object": "model", "type": "model", "display_name": "Scripted", "created": 0}
            await _give(connection, {"object": "list", "data": [model], "has_more": False})
        elif request.method in ("GET", "HEAD") and (not path or path.endswith("/api/hello")):
            await _give(connection, {"message": "hello"})
        else:
            await refuse(Fail(404, message=f"nothing is at {path!r}"), api or Api.MESSAGES, connection)

    async def _answer_model_request(self, http: HttpRequest, api: Api, connection: Connection) -> None:
        if self._keys is not None and http.api_key not in self._keys:
            await refuse(Fail(401, message="this key is not one of ScriptedModel(keys=...)"), api, connection)
            return
        try:
            request = _read(http, api)
        except ScriptError as exc:
            await refuse(Fail(400, message=str(exc)), api, connection)
            return
        reply = self._side(request)
        (self._requests if reply is None else self._side_requests).append(request)
        try:
            if reply is None:
                reply = await decided(self._decide, request)
            await perform(self._chosen(reply, request), request, connection, self._tokens)
        except ScriptError as exc:
            await refuse(Fail(400, message=str(exc)), api, connection)
        except ClientGoneError:
            raise
        except Exception as exc:  # noqa: BLE001  # a script is anybody's code; whoever runs it gets it when leaving
            self._broken_script = self._broken_script or exc
            await refuse(Fail(500, message=f"the script raised {type(exc).__name__}: {exc}"), api, connection)

    def _chosen(self, reply: Reply, request: ModelRequest) -> Reply:
        """What *reply* comes to when this is asked for the nth time."""
        while isinstance(reply, First):
            key = (request.digest, repr(reply))
            self._seen[key] += 1
            reply = reply.reply if self._seen[key] <= reply.times else reply.then
        return reply


def _read(http: HttpRequest, api: Api) -> ModelRequest:
    try:
        body: Any = json.loads(http.body)
        return ModelRequest(api=api, http=http, body=cast("dict[str, Any]", body), reading=DIALECTS[api].read(body))
    except (AttributeError, LookupError, TypeError, ValueError) as exc:
        packed = http.headers.get("content-encoding", "")
        how = f" (it is packed with {packed!r}, which a ScriptedModel does not read)" if packed else ""
        raise ScriptError(f"the body is no request of the {api} API{how}: {type(exc).__name__}: {exc}") from exc


async def _give(connection: Connection, data: Any) -> None:
    await connection.respond(200, {"content-type": "application/json"}, json.dumps(data).encode())
