"""How do the tests run the real agent programs, without boxflow? Each in a home of its own, and to its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxflow.agent_programs import find
from boxflow.testing.model_server import ScriptedModel

PROGRAMS = ["claude-code", "codex", "opencode"]


@dataclass(frozen=True)
class Told:
    """What a program printed."""

    exit_code: int
    events: list[dict[str, Any]]
    output: str

    @property
    def session(self) -> str:
        return next(one for event in self.events for key in SESSION_KEYS if (one := event.get(key)))

    @property
    def text(self) -> str:
        """The agent's last words."""
        return list(_texts(self.events))[-1]


SESSION_KEYS = ("session_id", "thread_id", "sessionID")


def _texts(events: list[dict[str, Any]]) -> Iterator[str]:
    for event in events:
        match event:
            case {"type": "result", "result": str(text)}:
                yield text
            case {"type": "item.completed", "item": {"type": "agent_message", "text": str(text)}}:
                yield text
            case {"type": "text", "part": {"text": str(text)}}:
                yield text
            case _:
                pass


@dataclass(frozen=True)
class RealProgram:
    """One of them, with a home and a place to work below *directory*."""

    name: str
    model: ScriptedModel
    directory: Path
    key: str = "sk-scripted"
    codex_model: str = "gpt-5.5"

    @property
    def work(self) -> Path:
        return self.directory / "work"

    async def run(self, prompt: str, *, session: str | None = None, schema: Any = None) -> Told:
        home = self.directory / "home"
        for one in (self.work, home):
            one.mkdir(exist_ok=True)
        argv, env = {"claude-code": self._claude, "codex": self._codex, "opencode": self._opencode}[self.name](
            home, session, schema
        )
        program = find(self.name)
        assert program is not None
        process = await asyncio.create_subprocess_exec(
            program,
            *argv,
            cwd=self.work,
            env={"HOME": str(home), "PATH": os.defpath, "TMPDIR": str(self.directory), **env},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            printed, _nothing = await process.communicate(prompt.encode())
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        output = printed.decode()
        assert process.returncode is not None
        return Told(process.returncode, list(_events(output)), output)

    def _claude(self, home: Path, session: str | None, schema: Any) -> tuple[list[str], dict[str, str]]:
        argv = ["-p", "--output-format", "stream-json", "--verbose", "--dangerously-skip-permissions"]
        argv += ["--resume", session] if session else []
        argv += ["--json-schema", json.dumps(schema)] if schema else []
        return argv, {
            "ANTHROPIC_BASE_URL": self.model.url,
            "ANTHROPIC_API_KEY": self.key,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "1",
            "IS_SANDBOX": "1",
        }

    def _codex(self, home: Path, session: str | None, schema: Any) -> tuple[list[str], dict[str, str]]:
        provider = {"name": "Scripted", "base_url": f"{self.model.url}/v1", "env_key": "KEY", "wire_api": "responses"}
        limits = {"request_max_retries": 1, "stream_max_retries": 1, "stream_idle_timeout_ms": 20000}
        fields = ",".join(f"{key}={json.dumps(value)}" for key, value in {**provider, **limits}.items())
        settings = [
            f'model="{self.codex_model}"',
            'model_provider="scripted"',
            f"model_providers.scripted={{{fields}}}",
            "analytics.enabled=false",
        ]
        argv = ["exec", *(["resume", session] if session else []), "--json", "--skip-git-repo-check"]
        argv += ["--dangerously-bypass-approvals-and-sandbox", *(word for one in settings for word in ("-c", one))]
        if schema:
            (self.directory / "schema.json").write_text(json.dumps(schema))
            argv += ["--output-schema", str(self.directory / "schema.json")]
        (home / "codex").mkdir(exist_ok=True)
        return [*argv, "-"], {"CODEX_HOME": str(home / "codex"), "KEY": self.key}

    def _opencode(self, home: Path, session: str | None, schema: Any) -> tuple[list[str], dict[str, str]]:
        assert schema is None
        options = {"baseURL": f"{self.model.url}/v1", "apiKey": self.key}
        models = {"m-1": {"name": "M", "tool_call": True, "limit": {"context": 200000, "output": 8192}}}
        provider = {"npm": "@ai-sdk/openai-compatible", "name": "S", "options": options, "models": models}
        config = {
            "autoupdate": False,
            "share": "disabled",
            "snapshot": False,
            "lsp": False,
            "model": "scripted/m-1",
            "small_model": "scripted/m-1",
            "enabled_providers": ["scripted"],
            "provider": {"scripted": provider},
        }
        (home / "opencode.json").write_text(json.dumps(config))
        never = ["AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "DEFAULT_PLUGINS"]
        argv = ["run", "--format", "json", "--dir", str(self.work), *(["-s", session] if session else [])]
        return argv, {
            "OPENCODE_CONFIG": str(home / "opencode.json"),
            # When it starts, it installs a package into its home.
            "NPM_CONFIG_OFFLINE": "true",
            **{f"OPENCODE_DISABLE_{what}": "1" for what in never},
        }


def _events(output: str) -> Iterator[dict[str, Any]]:
    for line in output.splitlines():
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict):
                yield event
