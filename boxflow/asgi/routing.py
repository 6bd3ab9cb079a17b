"""Which endpoint is a request for, and how does it get there? A Starlette route for each path of the table.

Ids have slashes: a child's is `parent/name`. A client writes an id as one segment, its slashes as `%2F`, and so it is
read from the path as it was sent (`raw_path`). Where the slashes came as they are, as by a proxy that decodes, all
segments up to the end are the id, or up to the action's name that comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, unquote

from starlette.datastructures import URLPath
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from boxflow.asgi.endpoint import ANY_METHOD, Call, Door, Endpoint
from boxflow.asgi.problems import RefusedError, problem, problem_of_status, problem_parts
from boxflow.asgi.reading import check_headers, parse_body, parse_query, read_body
from boxflow.errors import BoxflowError

Segments = tuple[str, ...]

_ALWAYS: Final[Mapping[str, str]] = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Path:
    """A path of the table, such as `/runs/{run_id}/history`, with at most one parameter.

    :param actions: what the last segment may not be where the parameter takes more than one: another path means it
    """

    def __init__(self, text: str, actions: Collection[str] = ()) -> None:
        self.text = text
        self._parts = tuple(text.split("/")[1:])
        self._actions = frozenset(actions)
        self._at = next((at for at, part in enumerate(self._parts) if part.startswith("{")), None)

    def match(self, segments: Segments) -> dict[str, str] | None:
        """The parameter of the path, by name; None where *segments* are another path."""
        if self._at is None:
            return {} if segments == self._parts else None
        before, behind = self._parts[: self._at], self._parts[self._at + 1 :]
        end = len(segments) - len(behind)
        taken = segments[self._at : end]
        if not taken or segments[: self._at] != before or segments[end:] != behind:
            return None
        if (len(taken) > 1 and not behind and taken[-1] in self._actions) or not any(taken):
            return None
        return {self._parts[self._at][1:-1]: "/".join(taken)}

    def url(self, name: str, parameters: Mapping[str, Any]) -> str:
        """The path with its parameter filled in. :raises NoMatchFound: it has others"""
        wanted: set[str] = set() if self._at is None else {self._parts[self._at][1:-1]}
        if wanted != set(parameters):
            raise NoMatchFound(name, dict(parameters))
        return self.text.format(**{key: quote(str(value), safe="") for key, value in parameters.items()})


def segments_of(scope: Scope) -> Segments:
    """The segments of a request's path below where the routes are mounted, each decoded."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    # The raw path may have been sent below a prefix, or not: what decodes to the path below it is its end.
    raw = bytes(scope.get("raw_path") or b"").partition(b"?")[0].decode("latin-1").split("/")
    for count in range(1, len(raw)):
        tail = "/" + "/".join(raw[-count:])
        if unquote(tail) == path:
            return tuple(unquote(segment) for segment in raw[-count:])
    return tuple(path.split("/")[1:])


class EndpointRoute(BaseRoute):
    """All endpoints of one path."""

    def __init__(self, path: Path, endpoints: Sequence[Endpoint[Any, Any]], door: Door) -> None:
        self.path = path.text
        self.name = endpoints[0].name
        self._path = path
        self._prefix = "/" + path.text.split("/")[1]
        self._door = door
        self._endpoints = {endpoint.method: endpoint for endpoint in endpoints}
        self._names = frozenset(endpoint.name for endpoint in endpoints)
        allowed = [*self._endpoints, *(["HEAD"] if "GET" in self._endpoints else [])]
        self._allow = ", ".join(sorted(allowed))

    def __repr__(self) -> str:
        return f"<EndpointRoute {self.path!r} {self._allow}>"

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the path is this one; in full where it has the method, too."""
        if scope["type"] != "http" or self._prefix not in scope["path"]:
            return Match.NONE, {}
        parameters = self._path.match(segments_of(scope))
        if parameters is None:
            return Match.NONE, {}
        found = self._endpoint(scope["method"])
        child: Scope = {"endpoint": self, "path_params": {**scope.get("path_params", {}), **parameters}}
        return (Match.PARTIAL if found is None else Match.FULL), child

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """The path of the endpoint called *name*, below where the routes are mounted."""
        if name not in self._names:
            raise NoMatchFound(name, path_params)
        return URLPath(path=self._path.url(name, path_params), protocol="http")

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        request = Request(scope, receive, send)
        response = await _guarded(lambda: self._answer(request))
        for name, value in _ALWAYS.items():
            response.headers.setdefault(name, value)
        if scope["method"] == "HEAD":
            response.body = b""  # Its length is that of what GET would have sent.
        try:
            await response(scope, receive, send)
        except RefusedError as refused:  # A stream that found no place.
            await refused.response()(scope, receive, send)

    def _endpoint(self, method: str) -> Endpoint[Any, Any] | None:
        if method == "HEAD" and "GET" in self._endpoints:
            method = "GET"
        return self._endpoints.get(method) or self._endpoints.get(ANY_METHOD)

    async def _answer(self, request: Request) -> Response:
        endpoint = self._endpoint(request.method)
        if endpoint is None:
            detail = f"{request.url.path} does not take {request.method}; it takes {self._allow}"
            return problem_of_status(405, detail, {"Allow": self._allow})
        check_headers(request)
        if endpoint.scope is not None:
            await self._door.access.check(request, endpoint.scope)
        call = await _read_call(self._door, request, endpoint)
        return await endpoint.handle(call)


async def _read_call(door: Door, request: Request, endpoint: Endpoint[Any, Any]) -> Call[Any, Any]:
    query = None if endpoint.query is None else parse_query(request, endpoint.query)
    body: object = None
    if endpoint.body is not None:
        body = await read_body(request, max_bytes=door.max_body_bytes, timeout_s=door.read_timeout_s)
        if endpoint.body is not bytes:
            body = parse_body(body, endpoint.body, may_be_empty=endpoint.may_be_empty)
    return Call(door=door, request=request, path=request.path_params, query=query, body=body)


async def _guarded(answer: Callable[[], Any]) -> Response:
    """The answer; where it raises one of our errors, the answer that this error has."""
    try:
        response: Response = await answer()
    except ClientDisconnect:
        return Response(status_code=400)
    except RefusedError as refused:
        return refused.response()
    except BoxflowError as error:
        status, title = problem_parts(error)
        if status >= 500 and title == "Defect":
            raise
        return problem(status, title, str(error))
    return response


class NowhereRoute(BaseRoute):
    """What no other route takes: a problem, where a host's own would be a line of text.

    :param prefixes: the first segments of the paths that it answers for; all when None
    """

    def __init__(self, prefixes: Iterable[str] | None) -> None:
        self._prefixes = None if prefixes is None else frozenset(prefixes)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """What is below the prefixes; in part only, so that everything that matches at all comes first."""
        if scope["type"] != "http":
            return Match.NONE, {}
        is_ours = self._prefixes is None or not self._prefixes.isdisjoint(segments_of(scope)[:1])
        return (Match.PARTIAL if is_ours else Match.NONE), {}

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """Nothing has a name here."""
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say that nothing is there."""
        path = Request(scope).url.path
        response = problem_of_status(404, f"nothing is at {path}; /openapi.json says what is where")
        await response(scope, receive, send)


def endpoint_routes(endpoints: Sequence[Endpoint[Any, Any]], door: Door) -> list[BaseRoute]:
    """The routes of *endpoints*, one for each path, in the order of the table."""
    by_path: dict[str, list[Endpoint[Any, Any]]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, []).append(endpoint)
    return [EndpointRoute(Path(text, _actions(text, by_path)), some, door) for text, some in by_path.items()]


def _actions(text: str, paths: Iterable[str]) -> list[str]:
    return [path.rpartition("/")[2] for path in paths if path.startswith(f"{text}/")]
