"""Who may call what? API keys with scopes, a question to the app, or, with neither, only this machine.

A key is compared with all keys that there are, each in constant time, by digests of equal length: how long a refusal
takes says nothing about how close it was, or which key it was close to.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request

from boxflow.asgi.problems import RefusedError
from boxflow.errors import ConfigurationError

Scope: TypeAlias = Literal["notify", "read", "run", "admin"]
"""What a caller may do: send events, look at runs and boxes, start and steer runs; `admin`: all of it, and the rest."""

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

Keys: TypeAlias = Sequence[str] | Mapping[str, Collection[Scope]]

Authorize: TypeAlias = Callable[[Request, Scope], Awaitable[bool | None]]
"""An app's own answer: True lets the request in, False refuses its caller (403), None does not know it (401)."""

MIN_KEY_CHARS = 16
"""16 characters of base64 are 96 bits; `secrets.token_urlsafe(32)` makes 43."""

_FORWARDED = ("forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip")

_HOW = "pass api_keys=[...] or authorize=... to `create_app` or `routes`"


class Access:
    """Decides about each request.

    :raises ConfigurationError: a key is too short or cannot travel in a header, a scope is none, or both ways are given
    """

    def __init__(self, api_keys: Keys | None = None, authorize: Authorize | None = None) -> None:
        if api_keys and authorize is not None:
            raise ConfigurationError("api_keys= and authorize= are two ways to say who may call; give one of them")
        self._keys = _digests(api_keys or ())
        self._authorize = authorize

    def __repr__(self) -> str:
        return f"<Access by {len(self._keys)} keys>"

    async def check(self, request: Request, scope: Scope) -> None:
        """:raises RefusedError: the caller of *request* may not do what *scope* stands for."""
        if self._authorize is not None:
            await self._ask(self._authorize, request, scope)
        elif self._keys:
            self._check_key(request, scope)
        else:
            _check_local(request)

    async def _ask(self, authorize: Authorize, request: Request, scope: Scope) -> None:
        try:
            answer = await authorize(request, scope)
        except HTTPException as error:
            title = "Not allowed" if error.status_code == 403 else "Not authorized"
            raise RefusedError(error.status_code, title, str(error.detail), headers=error.headers) from error
        if answer is None:
            raise RefusedError(401, "Not authorized", "the app does not know who is calling")
        if answer is not True:
            raise RefusedError(403, "Not allowed", f"the app does not let this caller do what needs scope {scope!r}")

    def _check_key(self, request: Request, scope: Scope) -> None:
        given = _presented(request)
        if given is None:
            raise _unauthorized("an API key is needed: send `Authorization: Bearer KEY`, or `X-API-Key: KEY`")
        digest, granted = _digest(given), frozenset[Scope]()
        is_known = False
        for known, scopes in self._keys:  # To the end: no early exit.
            if hmac.compare_digest(known, digest):
                is_known, granted = True, granted | scopes
        if not is_known:
            raise _unauthorized("the API key is not one of this server's keys", error="invalid_token")
        if scope not in granted and "admin" not in granted:
            raise RefusedError(
                403,
                "Not allowed",
                f"this API key does not have scope {scope!r}",
                headers={"WWW-Authenticate": f'Bearer realm="boxflow", error="insufficient_scope", scope="{scope}"'},
            )


def _unauthorized(detail: str, *, error: str = "") -> RefusedError:
    # RFC 6750 §3.1: no error code where no key was sent at all.
    challenge = 'Bearer realm="boxflow"' + (f', error="{error}"' if error else "")
    return RefusedError(401, "Not authorized", detail, headers={"WWW-Authenticate": challenge})


def _presented(request: Request) -> str | None:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return token.strip()
    return request.headers.get("x-api-key") or None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _digests(keys: Keys) -> tuple[tuple[bytes, frozenset[Scope]], ...]:
    if isinstance(keys, str | bytes):
        raise ConfigurationError("api_keys= is one text; give a list of keys, or a mapping of keys to scopes")
    given = keys.items() if isinstance(keys, Mapping) else [(key, SCOPES) for key in keys]
    return tuple(
        (_digest(_checked_key(key, number)), _checked_scopes(scopes, number))
        for number, (key, scopes) in enumerate(given, start=1)
    )


def _checked_key(key: object, number: int) -> str:
    # The messages name a key by its place: a key in an error is a key in a log.
    if not isinstance(key, str):
        raise ConfigurationError(f"API key number {number} is a {type(key).__name__}; it must be a text")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError(f"API key number {number} must be printable ASCII without spaces, to fit in a header")
    if len(key) < MIN_KEY_CHARS:
        raise ConfigurationError(
            f"API key number {number} has {len(key)} characters, and needs at least {MIN_KEY_CHARS}; "
            "`secrets.token_urlsafe(32)` makes a good one"
        )
    return key


def _checked_scopes(scopes: Collection[Scope], number: int) -> frozenset[Scope]:
    if isinstance(scopes, str):
        raise ConfigurationError(f"the scopes of API key number {number} are one text; give a list, [{scopes!r}]")
    given = frozenset(scopes)
    unknown = sorted(repr(scope) for scope in given if scope not in SCOPES)
    if unknown or not given:
        what = f"scope {unknown[0]}, which is none" if unknown else "no scope"
        raise ConfigurationError(f"API key number {number} has {what}; choose from {', '.join(SCOPES)}")
    return given


# --- without keys ---------------------------------------------------------------------------------------------------


def _check_local(request: Request) -> None:
    """:raises RefusedError: the request may come from elsewhere than from a program of this machine."""
    host = "" if request.client is None else request.client.host
    if not _is_loopback(host):
        raise _not_local("no API key is configured, so only programs of this machine may call")
    for name in request.headers:
        if name in _FORWARDED or name.startswith("x-forwarded-"):
            raise _not_local(f"no API key is configured, and the header {name!r} says that a proxy passed this on")
    if not _is_local_name(request.headers.get("host", "")):
        # A page whose name was made to lead here (DNS rebinding) counts as "same origin" for its browser.
        raise _not_local("no API key is configured, and the Host header names another machine")
    if not _is_same_site(request):
        raise _not_local("no API key is configured, and a browser sent this from a page of another site")


def _not_local(why: str) -> RefusedError:
    return RefusedError(403, "Not allowed", f"{why}; {_HOW}")


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "testclient"  # What Starlette's TestClient calls itself: the same process.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_local_name(host: str) -> bool:
    """Whether a Host header can only mean this machine: a loopback address, or a name that is no public one."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        name = host.rpartition(":")[0] or host
        return "." not in name or name.endswith(".localhost")


def _is_same_site(request: Request) -> bool:
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return False
    return request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")
