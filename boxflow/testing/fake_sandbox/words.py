"""What is asked for by the words that a process is started with? A command of a user, or a piece of boxflow's own work.

`boxflow.boxes` builds jobs, clones and agents from small shell programs. A box in memory has no shell: here they are
recognised, by their text or by the name that they are given, and done by other means.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

import attrs

from boxflow.boxes.code import code_argv
from boxflow.boxes.command import shell_argv
from boxflow.boxes.job_script import SCRIPT

_SHELL: Final = shell_argv("")[:-1]
_CODE: Final = code_argv("python", ())[:4]

_LANGUAGES: Final = {
    "main.py": "python",
    "main.mjs": "javascript",
    "main.mts": "typescript",
    "main.sh": "shell",
    "main.rb": "ruby",
    "main.pl": "perl",
    "main.php": "php",
    "main.go": "go",
}


@attrs.frozen
class UserCommand:
    """A command as people read it."""

    text: str


@attrs.frozen
class JobQuestion:
    """Something about a job: started, awaited, looked at, ended."""

    verb: str
    name: str
    words: tuple[str, ...]

    @property
    def argv(self) -> tuple[str, ...]:
        """The command of a job that is to be started; none for another question."""
        return self.words[self._about + 2 :] if self.starts else ()

    @property
    def about(self) -> str:
        """What is kept with a job that is to be started."""
        return self.words[self._about]

    @property
    def input_size(self) -> str:
        """How long the input is of a job that is to be started, `-` for none."""
        return self.words[self._about + 1]

    @property
    def starts(self) -> bool:
        """Whether a job is to be started."""
        return self.verb in ("start", "run")

    @property
    def _about(self) -> int:
        # `run` has timeout, round and limit first.
        return 3 if self.verb == "run" else 0


@attrs.frozen
class BoxInit:
    """The command that a new box runs once."""

    argv: tuple[str, ...]


@attrs.frozen
class AgentPreparation:
    """Directories below the home that an agent needs, and its program."""

    directories: tuple[str, ...]
    program: str


Asked = UserCommand | JobQuestion | BoxInit | AgentPreparation


def asked(argv: Sequence[str]) -> Asked:
    """What *argv* asks for."""
    words = tuple(argv)
    if words[:2] != ("sh", "-c") or len(words) < 4:
        return UserCommand(text_of(words))
    match words[3]:
        case "boxflow-job" if words[2] == SCRIPT:
            return JobQuestion(words[4], words[5], words[6:])
        case "init" if ".boxflow-init" in words[2]:
            return BoxInit(words[4:])
        case "prepare" if "command -v" in words[2]:
            return AgentPreparation(words[4:6], words[6])
        case _:
            return UserCommand(text_of(words))


def text_of(argv: Sequence[str]) -> str:
    """A command as people read it, and as rules are written: `"make test"`, `"git clone URL ."`, `"python code"`."""
    words = tuple(argv)
    if words[: len(_SHELL)] == _SHELL and len(words) == len(_SHELL) + 1:
        return words[-1]
    if words[:4] == _CODE and len(words) > 5:
        return f"{_LANGUAGES.get(words[4], words[4])} code"
    if words[:2] == ("sh", "-c") and len(words) > 3 and words[3].startswith("git "):
        return f"{words[3]} {shlex.join(words[4:])}".strip()
    return shlex.join(words)
