"""How is a running engine asked over HTTP? Requests, and what its answers mean for the command."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from boxflow.cli.clients import Document
from boxflow.cli.failures import NOT_FOUND, UNREACHABLE, USAGE, CommandError

_CONNECT_S: Final = 10.0
# An answer may take as long as a command in a box does; then the caller gives the time.
_ANSWER_S: Final = 60.0

# What an answer is at most: a page of history, or the output of a command.
_MAX_BYTES: Final = 256 << 20

Params = Sequence[tuple[str, str]]


class Server:
    """A running engine at *url*, asked with *api_key*.

    :raises CommandError: *url* is no address, or *api_key* cannot be a header
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        self._url = _checked(url)
        headers = {"Accept": "application/json"}
        if api_key is not None:
            if not (api_key.isascii() and api_key.isprintable()):
                raise CommandError("the API key has characters that no header takes; check BOXFLOW_API_KEY")
            headers["Authorization"] = f"Bearer {api_key}"
        host = urlsplit(self._url).hostname or ""
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
            # What is on this machine is behind no proxy.
            trust_env=not (host in ("localhost", "::1") or host.startswith("127.")),
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, traceback)

    async def get(self, path: str, params: Params = ()) -> Document:
        """The JSON object at *path*."""
        return _object(await self._answer("GET", path, params=params))

    async def get_bytes(self, path: str) -> bytes:
        """What is at *path*, as it is."""
        return await self._answer("GET", path)

    async def post(
        self, path: str, body: object = None, params: Params = (), *, answer_s: float | None = _ANSWER_S
    ) -> Document:
        """The JSON object that answers *body*."""
        content = msgspec.json.encode(body)
        return _object(await self._answer("POST", path, params=params, content=content, answer_s=answer_s))

    async def delete(self, path: str) -> None:
        """Delete what is at *path*."""
        await self._answer("DELETE", path)

    async def _answer(
        self,
        method: str,
        path: str,
        *,
        params: Params = (),
        content: bytes | None = None,
        answer_s: float | None = _ANSWER_S,
    ) -> bytes:
        async with self.stream(method, path, params=params, content=content, answer_s=answer_s) as response:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise CommandError(f"{self._url} answers with more than {_MAX_BYTES >> 20} MiB", UNREACHABLE)
            return bytes(body)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Params = (),
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        answer_s: float | None = _ANSWER_S,
    ) -> AsyncGenerator[httpx.Response]:
        """The answer, while it comes.

        :raises CommandError: it is no good one, or there is none
        """
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Type"] = "application/json"
        try:
            async with self._client.stream(
                method,
                self._url + path,
                params=list(params),
                content=content,
                headers=sent,
                timeout=httpx.Timeout(answer_s, connect=_CONNECT_S),
            ) as response:
                if response.status_code >= 300:
                    raise self._refusal(response.status_code, await response.aread())
                yield response
        except httpx.ConnectError as error:
            raise CommandError(
                f"no engine answers at {self._url} ({error}); is it running, and is that its address?", UNREACHABLE
            ) from error
        except httpx.TimeoutException as error:
            raise CommandError(f"{self._url} does not answer in time ({type(error).__name__})", UNREACHABLE) from error
        except httpx.TransportError as error:
            what = str(error) or type(error).__name__
            raise CommandError(f"the connection to {self._url} broke: {what}", UNREACHABLE) from error
        except httpx.InvalidURL as error:
            raise CommandError(f"{self._url}{path} is no address: {error}") from error

    def _refusal(self, status: int, body: bytes) -> CommandError:
        problem = _problem(body)
        if problem is None:
            return CommandError(
                f"{self._url} answers {status}, and not as boxflow does; "
                "the address is where its routes are mounted, as in https://example.org/flow",
                UNREACHABLE,
            )
        if status in (401, 403):
            return CommandError(f"{problem} (give the key in BOXFLOW_API_KEY)", UNREACHABLE)
        if status == 404:
            return CommandError(problem, NOT_FOUND)
        if status < 500 and status not in (408, 429):
            return CommandError(problem, USAGE)
        return CommandError(problem, UNREACHABLE)


def segment(text: str) -> str:
    """*text* as one segment of a path, whatever it has in it: ids of children have slashes."""
    # Nothing on the way may take an id for "this directory" or the one above.
    return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise CommandError(f"{url!r} is no address of an engine; write it as in http://127.0.0.1:8000")
    return url.rstrip("/")


def _object(body: bytes) -> Document:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except msgspec.DecodeError:
        raise CommandError("the answer is no JSON object; is that a boxflow engine?", UNREACHABLE) from None


class _Problem(msgspec.Struct):
    """A problem document of RFC 9457, as far as people are told of it."""

    title: str
    detail: str = ""
    errors: list[dict[str, object]] = []


def _problem(body: bytes) -> str | None:
    """What a problem document (RFC 9457) says; None when it is none."""
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.DecodeError:
        return None
    # One error stands in the detail already.
    several = problem.errors if len(problem.errors) > 1 else []
    parts = [", ".join(str(value) for value in error.values()) for error in several]
    return "\n  ".join([problem.detail or problem.title, *parts])
