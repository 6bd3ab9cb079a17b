"""What is a program of the user's own told about a request?"""

from __future__ import annotations

from collections.abc import Sequence

from boxflow.errors import ConfigurationError
from boxflow.harness import AgentRequest, ModelApi
from boxflow_backends.harnesses.options import argument


def program_variables(harness: str, request: AgentRequest, api: ModelApi) -> dict[str, str]:
    """The request as variables: `BOXFLOW_MODEL`, `BOXFLOW_SESSION`, `BOXFLOW_BASE_URL` and `BOXFLOW_API_KEY`.

    The last two have the names as well that the clients of *api* look for.
    """
    told = {
        "MODEL": request.model,
        "SESSION": request.session,
        "BASE_URL": request.base_url,
        "API_KEY": request.api_key,
    }
    found = {f"BOXFLOW_{name}": value for name, value in told.items() if value is not None}
    if api is not ModelApi.NONE:
        prefix = "OPENAI" if api is ModelApi.OPENAI else "ANTHROPIC"
        found |= {f"{prefix}_{name}": told[name] or "" for name in ("BASE_URL", "API_KEY") if told[name] is not None}
    return {name: argument(harness, f"variable {name}", value) for name, value in found.items()}


def given_argv(harness: str, argv: Sequence[str]) -> list[str]:
    """The program that the user names.

    :raises ConfigurationError: there is none
    """
    if not argv or not argv[0]:
        raise ConfigurationError(f"harness {harness!r} needs options={{'argv': [program, argument, ...]}}")
    return [argument(harness, "an argument", one) for one in argv]
