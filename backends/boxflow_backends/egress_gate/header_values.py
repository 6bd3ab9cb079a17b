"""How does a secret get into the value of a header, at the gate and at no other place?"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

_VARIABLE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
# RFC 9110, 5.5, without the obsolete bytes above ASCII: what every server reads the same way.
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")


class SecretError(Exception):
    """A variable cannot be used in a header. Its text names the variable, never its value."""


@attrs.frozen
class HeaderValue:
    """Text with `$NAME` or `${NAME}` in it for variables, and `$$` for a dollar sign."""

    text: str

    def problem(self) -> str | None:
        """What makes the text unusable as it stands, in words that fit behind "header 'x' "; None when nothing does."""
        if "$" in _VARIABLE.sub("", self.text):
            return "has a '$' that begins no variable; write $NAME, ${NAME}, or $$ for the sign itself"
        if not _VALUE.fullmatch(_VARIABLE.sub("x", self.text)):
            return "has a value that no header can carry (empty, blank at an end, a line break, or not ASCII)"
        return None

    def variables(self) -> list[str]:
        """The names of the variables in it."""
        return [match[1] or match[2] for match in _VARIABLE.finditer(self.text) if match[0] != "$$"]

    def fill(self, secrets: Mapping[str, str]) -> str:
        """The value to send.

        :raises SecretError: a variable is not set, or makes a value that no header can carry
        """

        def replace(match: re.Match[str]) -> str:
            if match[0] == "$$":
                return "$"
            name = match[1] or match[2]
            value = secrets.get(name)
            if not value:
                raise SecretError(f"variable {name!r} is not set where the engine runs; set it there")
            if not _VALUE.fullmatch(value):
                raise SecretError(
                    f"variable {name!r} holds what no header can carry (a blank at an end, a line break, or not ASCII)"
                )
            return value

        return _VARIABLE.sub(replace, self.text)
