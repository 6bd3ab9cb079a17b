"""How does a request of an agent become one to the model's host, and the answer the agent's?"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import cast

import anyio
import anyio.to_thread
import attrs
import h11
import httpx

from boxflow.gateway.accounts import AccountNotFoundError
from boxflow.gateway.agent_connection import AgentConnection, AgentGoneError
from boxflow.gateway.bodies import Shelf, read_body
from boxflow.gateway.books import Books, OpenAccount, Running, unknown_token
from boxflow.gateway.endpoints import Metering, Target, guessed_api, metering_of, read_target
from boxflow.gateway.keys import CREDENTIALS, Headers, KeyTemplate, KeyUnusableError, Redactor, credentials
from boxflow.gateway.limits import Limits
from boxflow.gateway.metering import Meter
from boxflow.gateway.preparing import Prepared, prepare
from boxflow.gateway.problems import Kind, Problem
from boxflow.gateway.upstream import Question, asked

logger = logging.getLogger("boxflow.gateway")

# RFC 9110, 7.6.1: these concern one connection.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# What the gateway answers or sets itself. An answer is to come as it is, so that it can be read on the way.
_OWN = frozenset({b"accept-encoding", b"content-encoding", b"content-length", b"expect", b"host"})
_DROPPED = _HOP_BY_HOP | _OWN | CREDENTIALS
_NOT_PASSED_ON = _HOP_BY_HOP | {b"set-cookie"}

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# What httpx decodes without further packages. None of it is asked for.
_DECODED = frozenset({"", "identity", "gzip", "deflate"})

# A body larger than this is worked on in a thread: some milliseconds for each megabyte.
_IN_THREAD_BYTES = 262_144


@attrs.define(eq=False)
class Exchanges:
    """Serves requests, one at a time on each connection."""

    books: Books
    client: httpx.AsyncClient
    secrets: Mapping[str, str]
    limits: Limits
    shelf: Shelf
    _threads: anyio.CapacityLimiter = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._threads = anyio.CapacityLimiter(max(1, (os.cpu_count() or 1) // 2))

    async def serve(self, agent: AgentConnection, request: h11.Request) -> bool:
        """Answer *request*; whether another one may follow.

        :raises AgentGoneError: the agent did not wait for the answer, or the answer was cut
        """
        api = guessed_api(request.target, dict(request.headers))
        opened: OpenAccount | None = None
        try:
            target = read_target(request.target)
            opened = await self._account(target)
            api = opened.account.api
            metering = metering_of(api, request.method.decode("ascii"), target.path)
            with opened.request(self.limits.account_requests, metered=metering is not Metering.FREE) as running:
                return await self._serve_account(agent, request, target, opened, metering, running)
            raise AgentGoneError  # The account was closed.
        except Problem as problem:
            if opened is not None and problem.kind is Kind.NO_CREDIT:
                self.books.refuse(opened)
            name = "an unknown token" if opened is None else repr(opened.account.name)
            logger.info("a request of %s was refused: %s", name, problem.kind.name.lower().replace("_", " "))
            await agent.refuse(problem, api)
            return False

    async def _account(self, target: Target) -> OpenAccount:
        try:
            return await self.books.find(target.token)
        except AccountNotFoundError:
            raise unknown_token() from None

    async def _serve_account(
        self,
        agent: AgentConnection,
        request: h11.Request,
        target: Target,
        opened: OpenAccount,
        metering: Metering,
        running: Running,
    ) -> bool:
        with self.shelf.place(opened) as place:
            body = await read_body(agent, request, place)
            # Looked up only now, and forgotten with this request.
            key = self._key(opened)
            if running.metered:
                prepared = await self._prepared(metering, body, opened.output_left())
                running.meter = Meter(opened.account.api, prepared.input_estimate, prepared.hides_usage)
                body = prepared.body
            question = _question(request, target, opened, key, body)
            return await _Exchange(self, agent, opened, running, question, key, target).run()

    async def _prepared(self, metering: Metering, body: bytes, left: int | None) -> Prepared:
        if len(body) <= _IN_THREAD_BYTES:
            return prepare(metering, body, left)
        return await anyio.to_thread.run_sync(prepare, metering, body, left, limiter=self._threads)

    def _key(self, opened: OpenAccount) -> str:
        try:
            return KeyTemplate(opened.account.key).fill(self.secrets)
        except KeyUnusableError as exc:
            raise Problem(Kind.UNAUTHORIZED, f"the key of {opened.account.name!r} cannot be used: {exc}") from None


def _question(request: h11.Request, target: Target, opened: OpenAccount, key: str, body: bytes) -> Question:
    account = opened.account
    base = httpx.URL(account.upstream)
    path = base.raw_path.rstrip(b"/") + b"/" + (target.path + target.query).encode("ascii")
    headers = [
        *_without(request.headers, _DROPPED),
        (b"Accept-Encoding", b"identity"),
        *credentials(account.api, key),
    ]
    return Question(
        method=request.method.decode("ascii"), url=base.copy_with(raw_path=path), headers=headers, body=body
    )


def _without(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> Headers:
    """*headers* without those in *dropped*, and without those that `Connection` says are for one connection."""
    listed = list(headers)
    named = {
        word.strip().lower() for name, value in listed if name.lower() == b"connection" for word in value.split(b",")
    }
    return [(name, value) for name, value in listed if name.lower() not in dropped and name.lower() not in named]


@attrs.define(eq=False)
class _Exchange:
    """One request that is being made."""

    exchanges: Exchanges
    agent: AgentConnection
    opened: OpenAccount
    running: Running
    question: Question
    key: str = attrs.field(repr=False)
    target: Target
    # Also when the agent goes away before the answer begins: the model works by then.
    _costs: bool = attrs.field(default=True, init=False)
    _more: bool = attrs.field(default=False, init=False)

    async def run(self) -> bool:
        """Make it; whether another request may follow on the connection."""
        try:
            await self.agent.while_there(self._pass_on)
        finally:
            if self._costs:
                self.exchanges.books.charge(self.opened, self.running)
        return self._more

    async def _pass_on(self) -> None:
        try:
            async with asked(self.exchanges.client, self.question, self.exchanges.limits) as response:
                # An error of the host costs nothing, and neither does no answer.
                self._costs = response.is_success
                await self._pass_answer(response, self.running.meter if response.is_success else None)
        except Problem:
            self._costs = False
            raise

    async def _pass_answer(self, response: httpx.Response, meter: Meter | None) -> None:
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in _DECODED:
            raise Problem(Kind.NO_ANSWER, f"the model's host answers in the encoding {encoding!r}, unasked")
        length = response.headers.get("content-length") if encoding in {"", "identity"} else None
        if meter is not None:
            meter.begin(response.headers.get("content-type", ""), None if length is None else int(length))
        redactor = Redactor(self.key.encode("ascii"))
        keeps_length = length is not None and not (meter is not None and meter.hides_usage)
        await self.agent.begin_answer(
            response.status_code,
            redactor.redact(response.reason_phrase.encode("ascii", "replace")),
            self._answer_headers(response, redactor, keeps_length=keeps_length),
        )
        # A generator, whatever its annotation says; closed here and not when it pleases the collector.
        async with aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_bytes())) as chunks:
            try:
                async for chunk in chunks:
                    passed = chunk if meter is None else meter.feed(chunk)
                    await self.agent.send(redactor.feed(passed))
            except httpx.HTTPError as exc:
                logger.info(
                    "an answer of %s to %r was cut: %s",
                    self.question.url.host,
                    self.opened.account.name,
                    type(exc).__name__,
                )
                # The agent must see that it was cut: its connection ends in the middle as well.
                raise AgentGoneError from None
        await self.agent.send(redactor.feed(b"" if meter is None else meter.end()) + redactor.end())
        self._more = await self.agent.end_answer()

    def _answer_headers(self, response: httpx.Response, redactor: Redactor, *, keeps_length: bool) -> Headers:
        dropped = _NOT_PASSED_ON if keeps_length else _NOT_PASSED_ON | {b"content-length"}
        headers = [
            (name, redactor.redact(value))
            for name, value in _without(response.headers.raw, dropped | {b"content-encoding"})
            if name.lower() != b"location"
        ]
        if response.status_code in _REDIRECTS:
            headers.append((b"Location", self._location(response)))
        if response.status_code in {401, 403}:
            # It is not the agent's key: showing it once more changes nothing.
            headers = [(name, value) for name, value in headers if name.lower() != b"x-should-retry"]
            headers.append((b"x-should-retry", b"false"))
        return headers

    def _location(self, response: httpx.Response) -> bytes:
        """Where a redirection leads, as the agent reaches it.

        :raises Problem: away from the host, where the key must not follow
        """
        base = httpx.URL(self.opened.account.upstream)
        try:
            url = self.question.url.join(response.headers.get("location", ""))
        except httpx.InvalidURL:
            raise Problem(Kind.NO_ANSWER, "the model's host redirects to what is no URL") from None
        root = base.raw_path.rstrip(b"/") + b"/"
        same = (url.scheme, url.host, _port(url)) == (base.scheme, base.host, _port(base))
        if not same or not url.raw_path.startswith(root):
            raise Problem(Kind.NO_ANSWER, "the model's host redirects to another one, which is not followed")
        return b"/t/" + self.target.token.encode("ascii") + b"/" + url.raw_path.removeprefix(root)


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)
