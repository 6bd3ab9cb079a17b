"""How is a call of a webhook verified before it is kept? Asked when the webhook is made, and again at each call.

What has to be known then stands in the webhook's token, which the engine has signed: the scheme or the function by its
name, and the secret by the name of its variable. So nothing is looked up, the run may be out of memory, and no secret
is in a journal, a token or a store.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import os
import re
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

from boxflow.errors import ConfigurationError, WebhookRefusedError, WebhookUnverifiableError
from boxflow.mail import WebhookAddress, WebhookCheck, WebhookRequest
from boxflow.webhook_signatures import SCHEMES, Scheme, verify_webhook

log = logging.getLogger("boxflow")

Verdict: TypeAlias = str | bool
"""What a function of the user's says of a call: its id, so that the same call counts once; True when it has none; False
when it is refused."""

Verifier: TypeAlias = Callable[[WebhookRequest], Verdict | Awaitable[Verdict]]
SecretVerifier: TypeAlias = Callable[[WebhookRequest, str], Verdict | Awaitable[Verdict]]

TIMEOUT_S: Final = 10.0
"""How long a function of the user's may take: GitHub, for one, waits ten seconds for the whole answer (docs.github.com,
"Best practices for using webhooks")."""

DEFAULT_SECRETS: Final[Mapping[str, str]] = {
    "github": "GITHUB_WEBHOOK_SECRET",
    "slack": "SLACK_SIGNING_SECRET",
    "standard-webhooks": "WEBHOOK_SECRET",
}
"""The variable of each scheme, unless `secret=` names another."""

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


# --- when the webhook is made ----------------------------------------------------------------------------------------


def webhook_check(verify: Scheme | Verifier | SecretVerifier | None, secret: str | None) -> WebhookCheck | None:
    """What the token of a webhook says about its verification. Reads no environment: it is called in a body.

    :raises ConfigurationError: no such scheme, *secret* names no variable, or the function cannot be found by a name
    """
    if verify is None:
        if secret is not None:
            raise ConfigurationError("a webhook got `secret=` and no `verify=`; say how its calls are verified with it")
        return None
    name = "" if secret is None else _variable(secret)
    if callable(verify):
        return WebhookCheck(verifier=_path(verify), secret=name)
    if verify not in SCHEMES:
        known = ", ".join(map(repr, SCHEMES))
        raise ConfigurationError(f"verify={verify!r} is no known scheme; give one of {known}, or a function")
    return WebhookCheck(verifier=verify, secret=name or DEFAULT_SECRETS[verify])


def _variable(secret: str) -> str:
    found = _VARIABLE.fullmatch(secret)
    if found is None:
        # Not repeated: it may be the secret itself.
        raise ConfigurationError(
            "the `secret=` of a webhook names no variable; write '$NAME', and set NAME where the engine runs: "
            "a secret itself would stand in the webhook's URL"
        )
    return found[1] or found[2]


def _path(verifier: Callable[..., Any]) -> str:
    module, name = getattr(verifier, "__module__", None), getattr(verifier, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or _find(sys.modules.get(module), name) is not verifier:
        raise ConfigurationError(
            f"verify={verifier!r} cannot be found again by a name after a restart; "
            "give a function that stands at the top of a module"
        )
    return f"{module}:{name}"


def _find(module: object, name: str) -> object:
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


# --- when it is called -----------------------------------------------------------------------------------------------


async def check_call(
    address: WebhookAddress, call: WebhookRequest, *, now: float, variables: Mapping[str, str] = os.environ
) -> str | None:
    """The id of a call that may be kept; None when it has none.

    The webhooks without `verify=` take the id that their sender gives: `Idempotency-Key`, or `webhook-id`.

    :raises WebhookRefusedError: it is not what the webhook's check asks for
    :raises WebhookUnverifiableError: the secret is not set, or the function failed; the log says more
    """
    check = address.check
    if check is None:
        given = call.headers.get("idempotency-key") or call.headers.get("webhook-id")
        return None if given is None else f":{given}"
    try:
        secret = _secret(check, variables)
        if check.verifier in DEFAULT_SECRETS:
            verdict: object = _by_scheme(check.verifier, secret, call, now)
        else:
            verdict = await _by_function(check.verifier, secret if check.secret else None, call)
    except _CannotCheckError as error:
        log.error("a call of webhook %r of run %r cannot be verified: %s", address.name, address.run_id, error)
        raise WebhookUnverifiableError(address.name, str(error)) from error
    if verdict is True:
        return None
    if not isinstance(verdict, str):
        raise WebhookRefusedError(f"the function that verifies webhook {address.name!r} did not accept it")
    # With its check: who may use one token of a webhook cannot spoil the ids of another.
    return f"{check.verifier}:{verdict}"


class _CannotCheckError(Exception):
    """Why, for the log; without a secret in it."""


def _secret(check: WebhookCheck, variables: Mapping[str, str]) -> str:
    value = variables.get(check.secret, "") if check.secret else ""
    if check.secret and not value:
        raise _CannotCheckError(f"variable {check.secret!r} is not set where the engine runs; set it there")
    return value


def _by_scheme(scheme: str, secret: str, call: WebhookRequest, now: float) -> str:
    try:
        return verify_webhook(scheme, secret, headers=call.headers, body=call.body, now=now)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] # it is one, the caller has looked
    except ConfigurationError as error:
        raise _CannotCheckError(str(error)) from error


async def _by_function(path: str, secret: str | None, call: WebhookRequest) -> object:
    """What the user's function says. A coroutine function runs on this loop, a plain one in a thread, as steps do."""
    import anyio.to_thread  # Here, for the few webhooks that have a function: anyio loads it as late as it can, too.

    arguments = (call,) if secret is None else (call, secret)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            function = await anyio.to_thread.run_sync(_load, path)
            if inspect.iscoroutinefunction(function):
                return await function(*arguments)
            verdict = await anyio.to_thread.run_sync(partial(function, *arguments), abandon_on_cancel=True)
            return await verdict if inspect.isawaitable(verdict) else verdict
    except WebhookRefusedError:
        raise
    except Exception as error:  # noqa: BLE001 - what a user's function raises has no bound
        # Without its text, which may hold what the function was given: the secret.
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise _CannotCheckError(f"{path!r} raised {type(error).__name__} ({at.filename}:{at.lineno})") from None


def _load(path: str) -> Callable[..., Any]:
    """The function of that name. Tokens are signed: it is one that a webhook was made with."""
    module, _, name = path.partition(":")
    found = _find(importlib.import_module(module), name)
    if not callable(found):
        raise LookupError(path)
    return found
