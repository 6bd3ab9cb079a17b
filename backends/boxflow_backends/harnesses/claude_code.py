"""How is Claude Code started for a request?

`claude -p` with its stream of JSON lines. Facts are of 2.1.330; docs: code.claude.com/docs/en/headless and
/en/env-vars.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from boxflow.harness import AgentRequest, EventReader, Installation, Launch, Limit, ModelApi
from boxflow_backends.harnesses.claude_code_output import ClaudeCodeReader
from boxflow_backends.harnesses.json_values import object_text
from boxflow_backends.harnesses.options import (
    McpServer,
    ProgramOptions,
    argument,
    checked_servers,
    options_of,
    session_argument,
    verbatim,
)
from boxflow_backends.harnesses.schemas import draft_07, is_wrapped, wrapped

_NAME: Final = "claude-code"


class ClaudeCodeOptions(ProgramOptions, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What can be set for Claude Code, beside what a request has.

    :param system_prompt: instead of the program's own
    :param tools: the built-in tools that there are; all when None, none when empty
    :param allowed_tools: which it may use unasked, in modes that ask: `"Bash(git *)"`
    :param disallowed_tools: which it may not use
    :param permission_mode: nobody can be asked, so that every mode but the default denies something
    :param mcp_servers: by name; those that the project brings are not started
    :param settings: on top of all settings files
    :param setting_sources: which settings files are read; all when None
    :param add_dirs: directories that it may work in beside the working directory
    :param fork_session: continue a session under a new id
    :param max_retries: of a model call that failed: a minute or so, in which an engine that has died is back with its
        gateway; the program's own default of 10 takes 187 s
    :param max_output_tokens: of one model call
    :param request_timeout_s: for the first byte of an answer; the program's default is 600
    """

    system_prompt: str = ""
    tools: tuple[str, ...] | None = None
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    permission_mode: Literal["acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "manual", "plan"] = (
        "bypassPermissions"
    )
    mcp_servers: dict[str, McpServer] = msgspec.field(default_factory=dict[str, McpServer])
    settings: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    setting_sources: tuple[Literal["user", "project", "local"], ...] | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    fallback_model: str = ""
    add_dirs: tuple[str, ...] = ()
    fork_session: bool = False
    max_retries: int = 7
    max_output_tokens: int | None = None
    request_timeout_s: float | None = None


class ClaudeCode:
    """Claude Code (`claude`), from npm or in the wheel of `claude-agent-sdk`.

    It asks nobody: a box is there so that an agent may do what it likes in it. Deltas, structured output, cost and the
    limits on turns and cost are the program's own. A session is continued in the working directory that it began in.
    """

    name = _NAME
    program = "claude"
    installation = Installation(manager="npm", package="@anthropic-ai/claude-code@2.1.330")
    api = ModelApi.ANTHROPIC
    own_limits: frozenset[Limit] = frozenset({"max_turns", "max_cost_usd"})

    def launch(self, request: AgentRequest) -> Launch:
        """How the program is started.

        :raises ConfigurationError: an option that there is not, or a schema or a name that is too long for an argument
        """
        options = options_of(_NAME, ClaudeCodeOptions, request.options)
        checked_servers(_NAME, options.mcp_servers)
        return Launch(
            argv=[argument(_NAME, "an argument", one) for one in _arguments(request, options)],
            env=_variables(request, options),
            stdin=request.prompt.encode(errors="replace"),
            files=_files(request, options),
        )

    def reader(self, request: AgentRequest) -> EventReader:
        """A reader for one run's output."""
        return ClaudeCodeReader(request.schema)


def _arguments(request: AgentRequest, options: ClaudeCodeOptions) -> Iterator[str]:
    yield from ("claude", "-p", "--output-format", "stream-json", "--verbose", "--include-partial-messages")
    yield f"--permission-mode={options.permission_mode}"
    # Last one wins: over what the project's settings say, as about where the model is.
    yield "--settings={dir}/settings.json"
    yield "--strict-mcp-config"
    if options.mcp_servers:
        yield "--mcp-config={dir}/mcp.json"
    if request.model is not None:
        yield f"--model={request.model}"
    if request.session is not None:
        yield f"--resume={session_argument(_NAME, request.session)}"
    if request.schema is not None:
        yield f"--json-schema={_schema_text(request)}"
    if request.max_turns is not None:
        yield f"--max-turns={request.max_turns}"
    if request.max_cost_usd is not None:
        yield f"--max-budget-usd={request.max_cost_usd:.6f}"
    yield from _optional_arguments(options)
    yield from options.args


def _optional_arguments(options: ClaudeCodeOptions) -> Iterator[str]:
    if options.append_system_prompt:
        yield "--append-system-prompt-file={dir}/append-system-prompt.md"
    if options.system_prompt:
        yield "--system-prompt-file={dir}/system-prompt.md"
    if options.tools is not None:
        yield f"--tools={','.join(options.tools)}"
    if options.setting_sources is not None:
        yield f"--setting-sources={','.join(options.setting_sources)}"
    if options.effort is not None:
        yield f"--effort={options.effort}"
    if options.fallback_model:
        yield f"--fallback-model={options.fallback_model}"
    if options.fork_session:
        yield "--fork-session"
    # Each of these takes all arguments up to the next option.
    for name, values in (
        ("--allowed-tools", options.allowed_tools),
        ("--disallowed-tools", options.disallowed_tools),
        ("--add-dir", options.add_dirs),
    ):
        if values:
            yield from (name, *values)


def _schema_text(request: AgentRequest) -> str:
    schema = request.schema or {}
    text = object_text(draft_07(wrapped(schema) if is_wrapped(schema) else schema))
    return argument(_NAME, "the JSON schema", text)


def _variables(request: AgentRequest, options: ClaudeCodeOptions) -> dict[str, str]:
    found = {
        "CLAUDE_CONFIG_DIR": "{home}",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": str(options.max_retries),
        "DISABLE_AUTOUPDATER": "1",
        # It refuses to bypass permissions as root unless it is told that it is in a box.
        "IS_SANDBOX": "1",
    }
    if request.base_url is not None:
        found["ANTHROPIC_BASE_URL"] = request.base_url
    if request.api_key is not None:
        found["ANTHROPIC_API_KEY"] = request.api_key
    if options.max_output_tokens is not None:
        found["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(options.max_output_tokens)
    if options.request_timeout_s is not None:
        found["API_TIMEOUT_MS"] = str(round(options.request_timeout_s * 1000))
    return {**found, **options.env}


def _files(request: AgentRequest, options: ClaudeCodeOptions) -> dict[str, str]:
    found = {"settings.json": object_text(_settings(request, options))}
    if options.mcp_servers:
        servers = {name: _server(server) for name, server in options.mcp_servers.items()}
        found["mcp.json"] = object_text({"mcpServers": servers})
    if options.append_system_prompt:
        found["append-system-prompt.md"] = verbatim(_NAME, "the system prompt", options.append_system_prompt)
    if options.system_prompt:
        found["system-prompt.md"] = verbatim(_NAME, "the system prompt", options.system_prompt)
    return found


def _settings(request: AgentRequest, options: ClaudeCodeOptions) -> dict[str, Any]:
    """The settings that nothing overrides. A project's `.claude/settings.json` may set variables: said here as well, it
    cannot lead the program, and with it the key, to another host.
    """
    pinned = {} if request.base_url is None else {"ANTHROPIC_BASE_URL": request.base_url}
    settings = dict(options.settings)
    variables: dict[str, Any] = {**settings.get("env", {}), **pinned}
    return {**settings, "env": variables} if variables else settings


def _server(server: McpServer) -> dict[str, Any]:
    if server.url:
        return {"type": "http", "url": server.url, "headers": server.headers}
    return {"type": "stdio", "command": server.command, "args": server.args, "env": server.env}
