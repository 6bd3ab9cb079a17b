"""Which agent programs can be installed, from where, and in which version?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import attrs

from boxflow.errors import ConfigurationError

Manager = Literal["npm", "pypi"]


@attrs.frozen(kw_only=True)
class Source:
    """A package that has the program in it.

    :param package: its name; a newer version than *version* may print other events than boxflow reads
    :param programs: where in what the manager lays down the program's own binary is, as patterns; the first that runs
        is taken. Never the script that a package puts in front of it: that needs Node.js, and does not die with it
    :param depth: how many directories above the binary the least one is that has everything it needs
    """

    package: str
    version: str
    programs: Sequence[str]
    depth: int


@attrs.frozen(kw_only=True)
class AgentProgram:
    """A program that can be installed.

    :param name: of its harness
    :param program: what it is called in a box
    """

    name: str
    program: str
    sources: Mapping[Manager, Source]

    def source(self, manager: Manager) -> Source:
        """Where *manager* gets it from.

        :raises ConfigurationError: it does not have it
        """
        if manager not in self.sources:
            raise ConfigurationError(f"{self.name!r} does not come from {manager}, only from {', '.join(self.sources)}")
        return self.sources[manager]


_ALL: Final = (
    AgentProgram(
        name="claude-code",
        program="claude",
        sources={
            "npm": Source(
                package="@anthropic-ai/claude-code",
                version="2.1.330",
                programs=["node_modules/@anthropic-ai/claude-code-*/claude"],
                depth=1,
            ),
            # The SDK brings the very same binary: its 0.2.187 has 2.1.330.
            "pypi": Source(
                package="claude-agent-sdk",
                version="0.2.187",
                programs=["claude_agent_sdk/_bundled/claude"],
                depth=1,
            ),
        },
    ),
    AgentProgram(
        name="codex",
        program="codex",
        sources={
            # Beside `bin/codex` it needs its `codex-path` and `codex-resources`.
            "npm": Source(
                package="@openai/codex",
                version="0.169.0",
                programs=["node_modules/@openai/codex-*/vendor/*/bin/codex"],
                depth=2,
            ),
            "pypi": Source(
                package="openai-codex-cli-bin", version="0.163.0", programs=["codex_cli_bin/bin/codex"], depth=2
            ),
        },
    ),
    AgentProgram(
        name="opencode",
        program="opencode",
        sources={
            # npm brings two: `-baseline` is for processors without AVX2, on which the other does not run.
            "npm": Source(
                package="opencode-ai",
                version="1.18.33",
                programs=["node_modules/opencode-*[!e]/bin/opencode", "node_modules/opencode-*-baseline/bin/opencode"],
                depth=2,
            ),
        },
    ),
)

PROGRAMS: Final[Mapping[str, AgentProgram]] = {one.name: one for one in _ALL}
"""What can be installed, by the name of its harness."""


def program_of(name: str) -> AgentProgram:
    """The program of that name.

    :raises ConfigurationError: there is none
    """
    if name not in PROGRAMS:
        raise ConfigurationError(f"{name!r} cannot be installed, only {', '.join(PROGRAMS)}; put it on PATH yourself")
    return PROGRAMS[name]
