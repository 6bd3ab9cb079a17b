"""Who spends, on which model, with whose key, and how much at most?"""

from __future__ import annotations

import hashlib
import re
import secrets as randomness
from collections.abc import Mapping

import attrs
import httpx

from boxflow.errors import BoxflowError, ConfigurationError
from boxflow.gateway.keys import KeyTemplate, KeyUnusableError
from boxflow.gateway.spending import Prices, Spent
from boxflow.harness import ModelApi

# It stands in a path. 32 characters of these are 192 bits when they are random.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,200}")


class AccountNotFoundError(BoxflowError, LookupError):
    """No account has this token: it was never opened, or it is closed."""

    def __init__(self) -> None:
        # Without the token: errors are logged.
        super().__init__("no account of the model gateway has this token; open it first, or it is closed already")


@attrs.frozen(kw_only=True)
class Account:
    """One run of one agent, as the gateway sees it.

    :param token: made by `new_token`; only its hash is kept
    :param name: of box and run, for logs and errors. The agent may see it
    :param api: which interface of a model it speaks
    :param upstream: base URL of the model's host: a request to `<gateway>/t/<token>/REST` goes to `<upstream>/REST`
    :param key: what the model's host wants to see, with `$NAME` or `${NAME}` for the engine's variable of that name,
        which is looked up at each request and kept nowhere. Empty when the host wants no key
    :param max_cost_usd: once that is spent, requests are refused; needs *prices*. Requests in parallel, and the input
        of the last one, can pass it
    :param max_output_tokens: once there are so many, requests are refused; each may ask at most for what is left.
        Requests in parallel can pass it
    :param max_requests: after so many, requests are refused
    :param prices: of the model; None when what it costs is not known
    """

    token: str = attrs.field(repr=False)
    name: str
    api: ModelApi
    upstream: str
    key: str = attrs.field(repr=False)
    max_cost_usd: float | None = None
    max_output_tokens: int | None = None
    max_requests: int | None = None
    prices: Prices | None = None


def new_token() -> str:
    """A token that nobody guesses."""
    return f"bfm_{randomness.token_urlsafe(32)}"


def digest_of(token: str) -> str:
    """What is kept of a token. Finding something by it takes no time that tells anything about the token."""
    return hashlib.sha256(b"boxflow model gateway\0" + token.encode()).hexdigest()


def check_account(account: Account, secrets: Mapping[str, str]) -> None:
    """See that *account* can work.

    :raises ConfigurationError: it cannot; says why
    """
    for problem in (
        _problem_of_token(account.token),
        _problem_of_api(account.api),
        _problem_of_upstream(account.upstream),
        _problem_of_key(account.key, secrets),
        _problem_of_limits(account),
    ):
        if problem is not None:
            raise ConfigurationError(f"account {account.name!r} of the model gateway: {problem}")


def _problem_of_token(token: str) -> str | None:
    return None if _TOKEN.fullmatch(token) else "its token can be guessed, or is no part of a URL; use `new_token()`"


def _problem_of_api(api: ModelApi) -> str | None:
    if api is ModelApi.NONE:
        return "the gateway can meter the interfaces of Anthropic and OpenAI only, and this program speaks neither"
    return None


def _problem_of_upstream(upstream: str) -> str | None:
    try:
        url = httpx.URL(upstream)
    except httpx.InvalidURL:
        return "its upstream is no URL"
    if url.scheme not in {"https", "http"} or not url.host:
        return f"its upstream {url.host!r} is no URL of a host; write https://HOST, with a path where it needs one"
    if url.userinfo or url.query or url.fragment:
        return f"its upstream at {url.host!r} has a user, a query or a fragment; leave them out"
    return None


def _problem_of_key(key: str, secrets: Mapping[str, str]) -> str | None:
    try:
        KeyTemplate(key).fill(secrets)
    except KeyUnusableError as exc:
        return f"its key cannot be used: {exc}"
    return None


def _problem_of_limits(account: Account) -> str | None:
    if account.max_cost_usd is not None and account.prices is None:
        return "max_cost_usd needs to know what the model costs; give prices, or limit max_output_tokens instead"
    limits = {
        "max_cost_usd": account.max_cost_usd,
        "max_output_tokens": account.max_output_tokens,
        "max_requests": account.max_requests,
    }
    wrong = [name for name, limit in limits.items() if limit is not None and not limit >= 0]
    return f"{wrong[0]} must not be negative" if wrong else None


def limit_reached(account: Account, spent: Spent, requests: int) -> str | None:
    """Which limit of *account* has been reached, in words for a person; None when it may go on.

    :param requests: those that are being served included
    """
    cost_usd = spent.cost_usd or 0.0
    if account.max_requests is not None and requests >= account.max_requests:
        return f"{requests} of {account.max_requests} requests were made"
    if account.max_output_tokens is not None and spent.usage.output_tokens >= account.max_output_tokens:
        return f"{spent.usage.output_tokens} of {account.max_output_tokens} output tokens were made"
    if account.max_cost_usd is not None and cost_usd >= account.max_cost_usd:
        return f"{cost_usd:.4f} of {account.max_cost_usd:.4f} USD are spent"
    return None


def output_left(account: Account, spent: Spent) -> int | None:
    """How many tokens the next answer may have by the limits of *account*; None when that is not limited."""
    left: list[float] = []
    if account.max_output_tokens is not None:
        left.append(account.max_output_tokens - spent.usage.output_tokens)
    if account.max_cost_usd is not None and account.prices is not None and account.prices.output > 0:
        left.append((account.max_cost_usd - (spent.cost_usd or 0.0)) * 1e6 / account.prices.output)
    return max(0, int(min(left))) if left else None
