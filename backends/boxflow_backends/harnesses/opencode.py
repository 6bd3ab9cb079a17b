"""How is opencode started for a request?

`opencode run --format json`. Facts are of 1.18.33; docs: opencode.ai/docs/config and /docs/cli.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, cast

import msgspec

from boxflow.errors import ConfigurationError
from boxflow.harness import AgentRequest, EventReader, Installation, Launch, Limit, ModelApi
from boxflow_backends.harnesses.answers import asking
from boxflow_backends.harnesses.json_values import object_text
from boxflow_backends.harnesses.opencode_output import OpenCodeReader
from boxflow_backends.harnesses.options import (
    McpServer,
    ProgramOptions,
    argument,
    checked_servers,
    options_of,
    session_argument,
    verbatim,
)

_NAME: Final = "opencode"
_KEY: Final = "BOXFLOW_API_KEY"
_PROVIDER: Final = "boxflow"
_INSTRUCTIONS: Final = "boxflow-instructions.md"


class OpenCodeOptions(ProgramOptions, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What can be set for opencode, beside what a request has.

    :param agent: which of its agents, or of the project's
    :param variant: of the model: how much it thinks, as its provider names it
    :param permission: as in its configuration; what would ask is denied, as nobody answers
    :param mcp_servers: by name
    :param model_settings: of the model behind a base URL, as in its configuration: `limit`, `cost`, `reasoning`
    :param npm: the package that speaks with the model; these two are in the program
    :param config: as in its `opencode.json`; over where the model is, and what these options set, it has no say
    """

    agent: str = ""
    variant: str = ""
    permission: str | dict[str, Any] = "allow"
    mcp_servers: dict[str, McpServer] = msgspec.field(default_factory=dict[str, McpServer])
    model_settings: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    npm: Literal["@ai-sdk/openai-compatible", "@ai-sdk/openai"] = "@ai-sdk/openai-compatible"
    config: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class OpenCode:
    """opencode (`opencode`), from npm as `opencode-ai`.

    It has no deltas and no structured output of its own: the prompt asks for JSON, and the last words are read as that.
    Behind a base URL it does not know the model, so that one has to be named; without one, models are named as
    `"provider/model"`. It gives up on a model's service that fails after about 80 s, without a word until then, and
    waits for ever when a session is continued in another directory than its own: the caller's deadline ends that.
    """

    name = _NAME
    program = "opencode"
    installation = Installation(manager="npm", package="opencode-ai@1.18.33")
    api = ModelApi.OPENAI
    own_limits: frozenset[Limit] = frozenset()

    def launch(self, request: AgentRequest) -> Launch:
        """How the program is started.

        :raises ConfigurationError: an option that there is not, or a base URL without a model
        """
        options = options_of(_NAME, OpenCodeOptions, request.options)
        checked_servers(_NAME, options.mcp_servers)
        # Braces of users stay what they are there, and this one is a path.
        config = object_text(_own_config(options)).replace(f'"{_INSTRUCTIONS}"', f'"{{dir}}/{_INSTRUCTIONS}"')
        files = {"opencode.json": config}
        if options.append_system_prompt:
            files[_INSTRUCTIONS] = verbatim(_NAME, "the system prompt", options.append_system_prompt)
        return Launch(
            argv=[argument(_NAME, "an argument", one) for one in _arguments(request, options)],
            env=_variables(request, options),
            stdin=asking(request.prompt, request.schema).encode(errors="replace"),
            files=files,
        )

    def reader(self, request: AgentRequest) -> EventReader:
        """A reader for one run's output."""
        return OpenCodeReader(model=request.model, schema=request.schema)


def _arguments(request: AgentRequest, options: OpenCodeOptions) -> list[str]:
    found = ["opencode", "run", "--format=json", "--thinking"]
    if request.session is not None:
        found.append(f"--session={session_argument(_NAME, request.session)}")
    else:
        found.append("--title=boxflow")  # or it asks the model for one
    if options.agent:
        found.append(f"--agent={options.agent}")
    if options.variant:
        found.append(f"--variant={options.variant}")
    return [*found, *options.args]


def _variables(request: AgentRequest, options: OpenCodeOptions) -> dict[str, str]:
    found = {
        # Not HOME, which is also that of the commands that it runs.
        "XDG_CACHE_HOME": "{home}/cache",
        "XDG_CONFIG_HOME": "{home}/config",
        "XDG_DATA_HOME": "{home}/data",
        "XDG_STATE_HOME": "{home}/state",
        "OPENCODE_CONFIG": "{dir}/opencode.json",
        # The last word, over what the project's opencode.json says: it cannot lead the key to another host.
        "OPENCODE_CONFIG_CONTENT": argument(_NAME, "its configuration", object_text(_pinned_config(request, options))),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    }
    if request.base_url is not None:
        found["OPENCODE_DISABLE_MODELS_FETCH"] = "1"
    if request.api_key is not None:
        found[_KEY] = request.api_key
    return {**found, **options.env}


def _own_config(options: OpenCodeOptions) -> dict[str, Any]:
    found: dict[str, Any] = {"$schema": "https://opencode.ai/config.json", "lsp": False, "snapshot": False}
    if options.mcp_servers:
        found["mcp"] = {name: _server(server) for name, server in options.mcp_servers.items()}
    if options.append_system_prompt:
        found["instructions"] = [_INSTRUCTIONS]
    return _merged(found, options.config)


def _pinned_config(request: AgentRequest, options: OpenCodeOptions) -> dict[str, Any]:
    found: dict[str, Any] = {"autoupdate": False, "share": "disabled", "permission": options.permission}
    key = {} if request.api_key is None else {"apiKey": f"{{env:{_KEY}}}"}
    if request.base_url is not None:
        if not request.model:
            raise ConfigurationError(f"harness {_NAME!r} needs a model beside a base URL; give its name")
        provider = {
            "npm": options.npm,
            "name": _PROVIDER,
            "options": {"baseURL": request.base_url, **key},
            "models": {request.model: {"name": request.model, "tool_call": True, **options.model_settings}},
        }
        model = f"{_PROVIDER}/{request.model}"
        found |= {"enabled_providers": [_PROVIDER], "provider": {_PROVIDER: provider}}
        return found | {"model": model, "small_model": model}
    if request.model is not None:
        found["model"] = request.model
    if key:
        provider_name = (request.model or "openai/").partition("/")[0]
        found["provider"] = {provider_name: {"options": key}}
    return found


def _server(server: McpServer) -> dict[str, Any]:
    if server.url:
        return {"type": "remote", "url": server.url, "headers": server.headers, "enabled": True}
    command = [server.command, *server.args]
    return {"type": "local", "command": command, "environment": server.env, "enabled": True}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(below)
    for key, value in above.items():
        under = found.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            found[key] = _merged(cast("Mapping[str, Any]", under), cast("Mapping[str, Any]", value))
        else:
            found[key] = value
    return found
