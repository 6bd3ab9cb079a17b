"""How is Codex started for a request?

`codex exec --json`. Facts are of 0.169.0; docs: developers.openai.com/codex/noninteractive and /codex/config-reference.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from boxflow.errors import ConfigurationError
from boxflow.harness import AgentRequest, EventReader, Installation, Launch, Limit, ModelApi
from boxflow_backends.harnesses.answers import asking
from boxflow_backends.harnesses.codex_output import CodexReader
from boxflow_backends.harnesses.json_values import object_text
from boxflow_backends.harnesses.options import McpServer, ProgramOptions, argument, checked_servers, options_of
from boxflow_backends.harnesses.schemas import strict

_NAME: Final = "codex"
_KEY: Final = "BOXFLOW_API_KEY"
_OWN_BASE_URL: Final = "https://api.openai.com/v1"


class CodexOptions(ProgramOptions, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What can be set for Codex, beside what a request has.

    :param config: on top of what the harness sets, as in the program's `config.toml`, but dotted:
        `{"model_verbosity": "low"}`
    :param mcp_servers: by name
    :param max_retries: of a model call that failed, and of a stream that broke off
    :param sandbox: what Codex itself allows its commands. None is for boxes, which have walls of their own; the others
        need bubblewrap and a `{home}` that is not below `/tmp`
    """

    config: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    mcp_servers: dict[str, McpServer] = msgspec.field(default_factory=dict[str, McpServer])
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    max_retries: int = 2
    sandbox: Literal["none", "read-only", "workspace-write"] = "none"


class Codex:
    """Codex (`codex`), from npm or in the wheel of `openai-codex-cli-bin`.

    It speaks OpenAI's Responses interface only. It has no deltas, knows no prices, counts no turns, and waits for ever
    for a service that refuses connections: the caller's deadline is the only one. It counts the tokens of a whole
    session, so that those of a run that continues one are for the gateway to tell.
    """

    name = _NAME
    program = "codex"
    installation = Installation(manager="npm", package="@openai/codex@0.169.0")
    api = ModelApi.OPENAI
    own_limits: frozenset[Limit] = frozenset()

    def launch(self, request: AgentRequest) -> Launch:
        """How the program is started.

        :raises ConfigurationError: an option that there is not, or a session that is none of Codex
        """
        options = options_of(_NAME, CodexOptions, request.options)
        checked_servers(_NAME, options.mcp_servers)
        schema = None if request.schema is None else strict(request.schema)
        # What strict mode cannot say, the prompt says.
        prompt = request.prompt if schema is not None else asking(request.prompt, request.schema)
        return Launch(
            argv=[argument(_NAME, "an argument", one) for one in _arguments(request, options, schema)],
            env=_variables(request, options),
            stdin=prompt.encode(errors="replace"),
            files={} if schema is None else {"schema.json": object_text(schema)},
        )

    def reader(self, request: AgentRequest) -> EventReader:
        """A reader for one run's output."""
        session = None if request.session is None else _session(request.session)
        return CodexReader(model=request.model, session=session, schema=request.schema)


def _arguments(request: AgentRequest, options: CodexOptions, schema: Mapping[str, Any] | None) -> Iterator[str]:
    yield from ("codex", "exec")
    if request.session is not None:
        yield "resume"
    # What an earlier agent wrote into {home}/config.toml is not obeyed: everything is said here.
    yield from ("--json", "--skip-git-repo-check", "--ignore-user-config")
    if options.sandbox == "none":
        yield "--dangerously-bypass-approvals-and-sandbox"
    for key, value in {**_config(request, options), **options.config}.items():
        yield from ("-c", f"{key}={_toml(value)}")
    if request.model is not None:
        yield f"--model={request.model}"
    if schema is not None:
        yield "--output-schema={dir}/schema.json"
    yield from options.args
    yield "--"
    if request.session is not None:
        yield _session(request.session)
    yield "-"  # the prompt is on stdin


def _session(session: str) -> str:
    try:
        return str(uuid.UUID(session))
    except ValueError:
        # Given anything else, it begins a new session without a word.
        raise ConfigurationError(
            f"{session!r} is no session of harness {_NAME!r}: those are UUIDs; give the id of an earlier run"
        ) from None


def _config(request: AgentRequest, options: CodexOptions) -> dict[str, Any]:
    found: dict[str, Any] = {
        "analytics.enabled": False,  # it would wait 5 s at the end for a host that it does not reach
        "check_for_update_on_startup": False,
    }
    if options.sandbox != "none":
        found |= {"sandbox_mode": options.sandbox, "approval_policy": "never"}
    if request.base_url is not None or request.api_key is not None:
        found |= {
            "model_provider": "boxflow",
            "model_providers.boxflow": {
                "name": "boxflow",
                "base_url": request.base_url or _OWN_BASE_URL,
                "wire_api": "responses",
                "request_max_retries": options.max_retries,
                "stream_max_retries": options.max_retries,
                **({} if request.api_key is None else {"env_key": _KEY}),
            },
            # Commands of the agent need no key, and print their environment into logs.
            "shell_environment_policy.exclude": [_KEY],
        }
    if options.reasoning_effort is not None:
        found["model_reasoning_effort"] = options.reasoning_effort
    if options.append_system_prompt:
        found["developer_instructions"] = options.append_system_prompt
    if options.mcp_servers:
        # In one value: a key of an argument is cut at its dots, and takes no quotes.
        found["mcp_servers"] = {name: _server(name, server) for name, server in options.mcp_servers.items()}
    return found


def _server(name: str, server: McpServer) -> dict[str, Any]:
    """Secrets by the names of variables: arguments can be read by everybody on the machine."""
    if server.url:
        return {"url": server.url, "env_http_headers": {header: _header_key(name, header) for header in server.headers}}
    return {"command": server.command, "args": server.args, "env_vars": sorted(server.env)}


def _header_key(name: str, header: str) -> str:
    return "BOXFLOW_MCP_" + f"{name} {header}".encode().hex().upper()


def _variables(request: AgentRequest, options: CodexOptions) -> dict[str, str]:
    found = {"CODEX_HOME": "{home}"}
    if request.api_key is not None:
        found[_KEY] = request.api_key
    for name, server in options.mcp_servers.items():
        headers = {_header_key(name, header): value for header, value in server.headers.items()}
        for variable, value in {**server.env, **headers}.items():
            if found.setdefault(variable, value) != value:
                raise ConfigurationError(
                    f"MCP server {name!r} needs another value of {variable!r} than something else that harness "
                    f"{_NAME!r} starts; give it in the server's own command"
                )
    return {**found, **options.env}


def _toml(value: Any) -> str:
    """*value* in TOML. JSON's texts, numbers, booleans and lists are TOML as they are; its objects are not."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(str(key))}={_toml(one)}" for key, one in value.items()) + "}"  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]  # options are plain data
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(one) for one in value) + "]"  # pyright: ignore[reportUnknownVariableType]  # options are plain data
    return object_text(value).replace("\x7f", "\\u007f")


def _toml_key(key: str) -> str:
    return msgspec.json.encode(key).decode()
