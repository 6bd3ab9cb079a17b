"""How does the key get into a request to the model's host, and into nothing that goes the other way?"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from boxflow.harness import ModelApi

Headers = list[tuple[bytes, bytes]]

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
# RFC 9110, 5.5, without blanks inside: a key of one word.
_KEY = re.compile(r"[\x21-\x7e]+")

# What an agent could use to say who pays. The last two choose among the organizations of one key.
CREDENTIALS = frozenset(
    {
        b"authorization",
        b"proxy-authorization",
        b"x-api-key",
        b"api-key",
        b"x-goog-api-key",
        b"cookie",
        b"openai-organization",
        b"openai-project",
    }
)


_SHORTEST_KEY = 8


class KeyUnusableError(Exception):
    """A key cannot be sent. The text names the variable, never its value, and can be shown to the agent."""


@attrs.frozen
class KeyTemplate:
    """Text with `$NAME` or `${NAME}` in it, for variables of the engine."""

    text: str = attrs.field(repr=False)

    def fill(self, secrets: Mapping[str, str]) -> str:
        """The key itself; empty when there is none.

        :raises KeyUnusableError: a variable is not set or no key, or the text holds a secret itself
        """
        if not self.text:
            return ""
        if not _VARIABLE.search(self.text):
            raise KeyUnusableError("it names no variable; write `$NAME` and set NAME where the engine runs")
        key = _VARIABLE.sub(lambda match: _value(match[1] or match[2], secrets), self.text)
        if not _KEY.fullmatch(key):
            raise KeyUnusableError("it has blanks, line breaks or other characters that no key has")
        return key


def _value(name: str, secrets: Mapping[str, str]) -> str:
    value = secrets.get(name)
    if not value:
        raise KeyUnusableError(f"variable {name!r} is not set where the engine runs; set it there")
    return value


def credentials(api: ModelApi, key: str) -> Headers:
    """The headers by which the model's host knows who pays."""
    if not key:
        return []
    if api is ModelApi.ANTHROPIC:
        return [(b"x-api-key", key.encode("ascii"))]
    return [(b"Authorization", b"Bearer " + key.encode("ascii"))]


@attrs.define(eq=False)
class Redactor:
    """Makes stars of a key in a stream of bytes: a host may repeat what it was asked, also its headers.

    Nothing is held back but an end that may be the beginning of the key. A key shorter than any real one is left alone:
    it may be a word of the answer.
    """

    key: bytes = attrs.field(repr=False)
    _held: bytes = attrs.field(default=b"", init=False)

    def feed(self, chunk: bytes) -> bytes:
        """What may be passed on, now that *chunk* has come."""
        if len(self.key) < _SHORTEST_KEY:
            return chunk
        text = self.redact(self._held + chunk)
        keep = self._beginning_at_end(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> bytes:
        """What was held back, now that nothing more comes."""
        held, self._held = self._held, b""
        return held

    def redact(self, text: bytes) -> bytes:
        """*text* without the key, of the same length."""
        return text.replace(self.key, b"*" * len(self.key)) if len(self.key) >= _SHORTEST_KEY else text

    def _beginning_at_end(self, text: bytes) -> int:
        for size in range(min(len(self.key) - 1, len(text)), 0, -1):
            if text.endswith(self.key[:size]):
                return size
        return 0
